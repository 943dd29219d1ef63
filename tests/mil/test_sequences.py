"""Recurrent layers, loops, branches, lists, and compressed or quantised values."""

import numpy as np
import pytest
import torch
from torch import nn

import parity.mil
from parity.mil import CorruptPackage, OperatorFailed, UnsupportedOperator, machine
from parity.mil.registry import OPERATORS, REFUSED
from tests.mil.build import Builder, add_argument, evaluate, set_tensor_type

T, N, FEATURES, H = 5, 2, 3, 4
X = np.random.default_rng(2).normal(size=(T, N, FEATURES)).astype(np.float32)
ZERO = np.zeros((N, H), np.float32)


def weights(layer, suffix="_l0"):
    """Weights and the sum of biases of a torch layer, as arrays."""
    w_ih, w_hh, b_ih, b_hh = (
        getattr(layer, name + suffix).detach().numpy() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    return w_ih, w_hh, b_ih, b_hh


def reorder(array, order):
    """The gates of a stacked weight in another order."""
    return np.concatenate([np.split(array, len(order))[i] for i in order])


def test_gru_gates_are_reset_output_update():
    torch.manual_seed(0)
    layer = nn.GRU(FEATURES, H)
    w_ih, w_hh, b_ih, b_hh = (reorder(w, [0, 2, 1]) for w in weights(layer))
    got = evaluate(
        "gru", "fp32", "fp32", x=X, initial_h=ZERO, weight_ih=w_ih, weight_hh=w_hh, bias=b_hh, input_bias=b_ih,
        output_sequence=True, reset_after=True,
    )  # fmt: skip
    want, last = layer(torch.from_numpy(X))
    np.testing.assert_allclose(got[0], want.detach(), atol=1e-6)
    np.testing.assert_allclose(got[1], last[0].detach(), atol=1e-6)


@pytest.mark.parametrize("run_mode", ["fp32", "stress"])
def test_lstm_in_both_directions(run_mode):
    torch.manual_seed(0)
    layer = nn.LSTM(FEATURES, H, bidirectional=True)
    forward, backward = (
        [reorder(w, [0, 1, 3, 2]) for w in (w_ih, w_hh, b_ih + b_hh)]
        for w_ih, w_hh, b_ih, b_hh in (weights(layer), weights(layer, "_l0_reverse"))
    )
    got = evaluate(
        "lstm", "fp16", "fp16", "fp16", x=X, initial_h=np.tile(ZERO, 2), initial_c=np.tile(ZERO, 2),
        weight_ih=forward[0], weight_hh=forward[1], bias=forward[2], weight_ih_back=backward[0],
        weight_hh_back=backward[1], bias_back=backward[2], direction="bidirectional", output_sequence=True,
        run_mode=run_mode,
    )  # fmt: skip
    want, _ = layer(torch.from_numpy(X))
    np.testing.assert_allclose(got[0], want.detach(), atol=1e-6 if run_mode == "fp32" else 5e-3)


def test_reverse_outputs_stay_in_processing_order():
    torch.manual_seed(0)
    layer = nn.RNN(FEATURES, H)
    w_ih, w_hh, b_ih, b_hh = weights(layer)
    common = {"x": X, "initial_h": ZERO, "weight_ih": w_ih, "weight_hh": w_hh, "bias": b_ih + b_hh}
    got = evaluate("rnn", "fp32", "fp32", output_sequence=True, direction="reverse", **common)
    want, _ = layer(torch.from_numpy(X[::-1].copy()))
    np.testing.assert_allclose(got[0], want.detach(), atol=1e-6)
    last = evaluate("rnn", "fp32", "fp32", **common)
    assert last[0].shape == (1, N, H)


def test_an_initial_state_of_more_rows_than_the_batch_counts_where_they_are_equal():
    """As coremltools makes it of packed sequences: a row for each step of the first one."""
    w_ih, w_hh, b_ih, b_hh = weights(nn.LSTM(FEATURES, H))
    common = {"x": X, "weight_ih": w_ih, "weight_hh": w_hh, "bias": b_ih + b_hh, "output_sequence": True}
    want = evaluate("lstm", "fp32", "fp32", "fp32", initial_h=ZERO, initial_c=ZERO, **common)
    more = np.zeros((T, H), np.float32)
    got = evaluate("lstm", "fp32", "fp32", "fp32", initial_h=more, initial_c=more, **common)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    unlike = more + np.arange(T, dtype=np.float32)[:, None]
    with pytest.raises(OperatorFailed, match="size of tensor"):
        evaluate("lstm", "fp32", "fp32", "fp32", initial_h=unlike, initial_c=more, **common)


def test_lstm_clip_limits_the_cell_state():
    big = np.full((4 * H, FEATURES), 5.0, np.float32)
    got = evaluate(
        "lstm", "fp32", "fp32", "fp32", x=np.abs(X), initial_h=ZERO, initial_c=ZERO, weight_ih=big,
        weight_hh=np.zeros((4 * H, H), np.float32), output_sequence=True, clip=0.25,
    )  # fmt: skip
    assert got[2].max() == 0.25


def loop(limit, step=1):
    """A program: x = x * 2 while i < limit, i = i + step."""
    builder = Builder(x=np.float32([1.0]), i=np.int32([0]))
    operation = builder.op("while_loop", ("y", "fp32", (1,)), ("j", "int32", (1,)), loop_vars=("x", "i"))
    for number in range(2):
        block = operation.blocks.add()
        for name, dtype in ((f"bx{number}", "fp32"), (f"bi{number}", "int32")):
            declared = block.inputs.add()
            declared.name = name
            set_tensor_type(declared.type.tensorType, dtype, (1,))
            builder.names.add(name)
    condition, body = operation.blocks
    builder.op("less", ("go", "bool", (1,)), block=condition, x="bi0", y=np.int32([limit]))
    condition.outputs.append("go")
    builder.op("mul", ("nx", "fp32", (1,)), block=body, x="bx1", y=np.float32([2.0]))
    builder.op("add", ("ni", "int32", (1,)), block=body, x="bi1", y=np.int32([step]))
    body.outputs.extend(["nx", "ni"])
    return builder.load("y", "j")


INPUTS = {"x": np.float32([1.0]), "i": np.int32([0])}


def test_while_loop():
    outputs = loop(limit=10).run(INPUTS)
    assert outputs["y"] == [1024.0]
    assert outputs["j"] == [10]
    assert loop(limit=0).run(INPUTS)["y"] == [1.0]


def test_a_loop_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(machine, "ITERATION_LIMIT", 50)
    with pytest.raises(OperatorFailed, match="did not end in 50 iterations"):
        loop(limit=10, step=0).run(INPUTS)


@pytest.mark.parametrize(("pred", "want"), [(True, 2.0), (False, -1.0)])
def test_cond_sees_values_from_outside(pred, want):
    builder = Builder(x=np.float32([1.0]))
    builder.input("p", "int32", (1,))
    operation = builder.op("cond", ("y", "fp32", (1,)), pred="p")
    for kind, factor in (("mul", 2.0), ("sub", 2.0)):
        block = operation.blocks.add()
        builder.op(kind, (f"{kind}_out", "fp32", (1,)), block=block, x="x", y=np.float32([factor]))
        block.outputs.append(f"{kind}_out")
    assert builder.load("y").run({"x": np.float32([1.0]), "p": np.int32([pred])})["y"] == [want]


def test_lists():
    builder = Builder(x=X)
    builder.op("make_list", ("l0", "fp32", None), init_length=2, elem_shape=(2, 3))
    for i in range(3):
        builder.op("gather", (f"x{i}", "fp32", (N, FEATURES)), x="x", indices=np.int32(i), axis=0)
        builder.op("list_write", (f"l{i + 1}", "fp32", None), ls=f"l{i}", index=i, value=f"x{i}")
    builder.op("list_gather", ("back", "fp32", None), ls="l3", indices=np.int32([2, 0]))
    builder.op("list_scatter", ("l4", "fp32", None), ls="l3", indices=np.int32([0]), value="back")
    builder.op("list_read", ("first", "fp32", None), ls="l4", index=0)
    builder.op("list_length", ("n", "int32", None), ls="l4")
    outputs = builder.load("back", "first", "n").run({"x": X}, mode="fp32")
    np.testing.assert_array_equal(outputs["back"], X[[2, 0]])
    np.testing.assert_array_equal(outputs["first"], X[2])
    assert outputs["n"] == 3


def test_quantise_and_dequantise():
    x = np.float32([[-1.0, 0.26, 0.5, 90.0]])
    codes = evaluate("quantize", "int8", input=x, scale=np.float32(0.5).item(), output_dtype="int8")
    np.testing.assert_array_equal(codes, [[-2, 1, 1, 127]])
    codes = evaluate(
        "quantize", "uint8", input=x, scale=[0.5] * 4, zero_point=[1, 2, 3, 4], axis=1, output_dtype="uint8"
    )
    np.testing.assert_array_equal(codes, [[0, 3, 4, 184]])
    back = evaluate("dequantize", input=np.int32([[4, 6]]), scale=0.5, zero_point=2)
    np.testing.assert_array_equal(back, [[1.0, 2.0]])


def test_affine_dequantisation_subtracts_the_zero_point_along_its_axis():
    codes = np.array([[1, 2], [3, 4]]).tolist()
    builder = Builder(x=np.float32([0.0]))
    builder.op(
        "constexpr_affine_dequantize", ("w", "fp32", (2, 2)), quantized_data=np.array(codes, np.uint8),
        zero_point=np.array([1, 2], np.uint8), scale=np.float32([0.5, 2.0]), axis=np.int32(0),
    )  # fmt: skip
    builder.op("add", ("y", "fp32", (2, 2)), x="x", y="w")
    np.testing.assert_array_equal(builder.load("y").run({"x": np.float32([0.0])})["y"], [[0.0, 0.5], [2.0, 4.0]])


def test_every_value_between_is_rounded_not_only_the_output():
    builder = Builder(x=np.float32([1e-4]))
    builder.op("add", ("sum", "fp16", (1,)), x="x", y=np.float32([1.0]))
    builder.op("sub", ("y", "fp16", (1,)), x="sum", y=np.float32([1.0]))
    program = builder.load("y")
    assert program.run({"x": np.float32([1e-4])}, mode="program")["y"] == [0.0]
    assert program.run({"x": np.float32([1e-4])}, mode="fp32")["y"] != [0.0]


@pytest.mark.parametrize("kind", ["matmul", "reduce_sum"])
def test_stress_accumulates_in_fp16(kind):
    x = np.full((1, 8192), 0.1, np.float32)
    arguments = {"x": x, "y": np.ones((8192, 1), np.float32)} if kind == "matmul" else {"x": x, "axes": [1]}
    ideal, poor = (float(evaluate(kind, "fp16", run_mode=m, **arguments).squeeze()) for m in ("program", "stress"))
    assert ideal == np.float16(819.2)
    assert 1 < abs(poor - 819.2) < 50


def test_integers_wrap_as_the_declared_type_and_say_so():
    builder = Builder(x=np.int32([100, 200]))
    builder.op("add", ("y", "int8", (2,)), x="x", y=np.int32([100, 100]))
    program = builder.load("y")
    np.testing.assert_array_equal(program.run({"x": np.int32([100, 200])})["y"], [-56, 44])
    assert [e.kind for e in program.events] == ["integer-wrap"]


def test_nan_and_unmet_declarations_are_events():
    builder = Builder(x=np.float32([-1.0]))
    builder.op("sqrt", ("y", "fp16", (1,)), x="x")
    builder.op("concat", ("z", "fp16", (5,)), values=("y", "y"), axis=0)
    program = builder.load("z")
    program.run({"x": np.float32([-1.0])})
    assert {e.kind for e in program.events} == {"nan", "declared-type-not-met"}
    assert next(e for e in program.events if e.kind != "nan").detail == {"declared": [5], "found": [2]}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_operators_are_named(name):
    builder = Builder(x=np.float32([1.0]))
    builder.op(name, ("y", "fp32", (1,)), x="x")
    with pytest.raises(UnsupportedOperator, match=name) as caught:
        builder.load("y")
    assert caught.value.operator == name


def test_missing_and_unknown_inputs_of_operators():
    builder = Builder(x=np.float32([1.0]))
    operation = builder.op("clip", ("y", "fp32", (1,)), x="x", alpha=np.float32(0))
    with pytest.raises(CorruptPackage, match="clip 'y' lacks its input 'beta'"):
        builder.load("y").run({"x": np.float32([1.0])})
    add_argument(operation, "gamma", np.float32(1), set())
    with pytest.raises(CorruptPackage, match="clip 'y' has no input 'gamma'"):
        builder.load("y").run({"x": np.float32([1.0])})


def test_every_operator_says_what_it_computes():
    for operator in OPERATORS.values():
        assert operator.function.__doc__, operator.name
        assert operator.family in operator.documentation


def test_registry_covers_every_operator_of_coremltools():
    from tests.mil.zoo import quiet

    with quiet():
        from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
    known = {*OPERATORS, *REFUSED, *parity.mil.registry.STRUCTURAL, "_const_symbolic"}
    assert set(SSAOpRegistry.core_ops) <= known
    assert set(OPERATORS) <= set(SSAOpRegistry.core_ops)
