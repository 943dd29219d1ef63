"""A file in place of a factory gives the oracle and the twins that its module would have given."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from parity.core.errors import Disagrees, ParityError  # noqa: E402
from parity.core.settings import REFERENCE_FACTORY, ModelSpec  # noqa: E402
from parity.reference import (  # noqa: E402
    exact,
    files,
    modelling,
    onnx_evaluator,
    onnx_files,
    onnx_layers,
    operators,
    oracle,
    settling,
    twin,
)
from parity.reference.messages import OracleRequest, SettleRequest  # noqa: E402
from parity.reference.onnx_operators import OPERATORS  # noqa: E402
from parity.reference.recipes import recipe  # noqa: E402


class Net(torch.nn.Module):
    """Convolution, normalisation, a product with a mask, a recurrent layer, and dtypes that an export bakes in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
        self.gru, self.head = torch.nn.GRU(4, 6, batch_first=True), torch.nn.Linear(6, 3)

    def forward(self, image: Any, mask: Any) -> Any:
        x = self.norm(self.conv(image)).relu() + torch.full((1,), 0.1, dtype=torch.float32)
        y, _ = self.gru(x.mean(3).transpose(1, 2) * mask.to(x.dtype).unsqueeze(-1))
        return self.head(y[:, -1]), x


CASE = {"image": np.random.default_rng(1).standard_normal((2, 2, 5, 5)).astype(np.float32),
        "mask": np.array([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1]], bool)}  # fmt: skip
INPUTS, OUTPUTS = ["image", "mask"], ["scores", "maps"]
KINDS = (".pt2", ".pt", ".onnx")


@pytest.fixture(scope="module")
def net() -> Any:
    return Net().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def saved(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    arguments = tuple(torch.from_numpy(v) for v in CASE.values())
    batch = torch.export.Dim("batch", max=99)  # without a bound PyTorch 2.6 refuses the GRU
    shapes = ({0: batch}, {0: batch})
    torch.export.save(torch.export.export(net, arguments, dynamic_shapes=shapes, strict=False), folder / "net.pt2")
    torch.jit.save(torch.jit.trace(net, arguments), folder / "net.pt")
    torch.onnx.export(net, arguments, str(folder / "net.onnx"), dynamo=False, opset_version=13, input_names=INPUTS,
                      output_names=OUTPUTS, do_constant_folding=False,
                      dynamic_axes={n: {0: "batch"} for n in (*INPUTS, *OUTPUTS)})  # fmt: skip
    return folder


def opened(saved: Path, kind: str) -> Any:
    return files.module(saved / f"net{kind}", INPUTS, OUTPUTS).eval().requires_grad_(False)


def distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_is_the_modules_own(net: Any, saved: Path, kind: str) -> None:
    options = {"inputs": INPUTS, "outputs": OUTPUTS}
    spec = ModelSpec(str(saved), REFERENCE_FACTORY, options, reference=str(saved / f"net{kind}"))
    found = oracle.evaluate(OracleRequest(spec, [CASE], OUTPUTS))
    assert (found.dtype, found.note) == ("float64", "")
    want = exact.run(copy.deepcopy(net).double(), CASE, OUTPUTS, torch.float64)
    for name in OUTPUTS:
        # The module itself adds a float32 0.1; ONNX folds the normalisation into the convolution, in float32.
        assert distance(found.outputs[0][name], want[name]) < (1e-7 if kind == ".onnx" else 1e-8), name
    again = modelling.forward(modelling.load(spec), {k: torch.from_numpy(v) for k, v in CASE.items()}, OUTPUTS)
    assert again["scores"].dtype == torch.float32, "the module that exports start from is left as it was"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp16", "dynamic"])
def test_the_twin_rounds_as_the_modules_does(net: Any, saved: Path, kind: str, precision: str) -> None:
    ours = twin.run(opened(saved, kind), [CASE], OUTPUTS, recipe(precision, None))[0][0]
    theirs = twin.run(net, [CASE], OUTPUTS, recipe(precision, None))[0][0]
    want = exact.run(copy.deepcopy(net).double(), CASE, OUTPUTS, torch.float64)
    for name in OUTPUTS:
        assert 0.5 < distance(ours[name], want[name]) / distance(theirs[name], want[name]) < 2, name


def test_a_convolution_as_tracing_writes_it_is_one() -> None:
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(4, 2, 3, 3)
    traced = torch.ops.aten._convolution.default
    arguments = (x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, False, True, True)
    name = operators.name_of(traced)
    found = operators.contraction(traced, name, arguments)
    assert (name, operators.kind_of(name, arguments)) == ("convolution", "conv") and found is not None
    assert torch.equal(found.multiply(found.left, found.right), torch.nn.functional.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_go_by_name_where_the_file_has_those_names(net: Any, saved: Path, kind: str) -> None:
    module = files.module(saved / f"net{kind}", INPUTS[::-1], OUTPUTS)
    got = module(torch.from_numpy(CASE["mask"]), torch.from_numpy(CASE["image"]))
    want = net(torch.from_numpy(CASE["image"]), torch.from_numpy(CASE["mask"]))
    assert torch.allclose(got[0], want[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_other_inputs_than_the_files_are_named(saved: Path, kind: str) -> None:
    with pytest.raises(ParityError, match=rf"net\{kind} .*image, mask"):
        files.module(saved / f"net{kind}", ["image"], OUTPUTS)


@pytest.mark.parametrize("kind", [".pt2", ".pt"])
def test_half_precision_is_the_whole_programs(saved: Path, kind: str) -> None:
    half = copy.deepcopy(opened(saved, kind)).half()
    scores, maps = half(torch.from_numpy(CASE["image"]).half(), torch.from_numpy(CASE["mask"]))
    assert scores.dtype == maps.dtype == torch.float16


# ONNX: every operator against ONNX Runtime.


def one_node(path: Path, kind: str, inputs: list[Any], attributes: dict[str, Any], outputs: int, opset: int) -> Any:
    """The file of a graph with one node: the first array is its input, the others are constants of the graph."""
    from onnx import TensorProto, helper, numpy_helper

    types = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
    names = [f"x{i}" if v is not None else "" for i, v in enumerate(inputs)]
    node = helper.make_node(kind, names, [f"y{i}" for i in range(outputs)], **attributes)
    constants = [numpy_helper.from_array(v, n) for n, v in zip(names[1:], inputs[1:], strict=True) if v is not None]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x0", types[inputs[0].dtype.kind], inputs[0].shape)],
        [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    for output in model.graph.output:  # what inference leaves open
        if not output.type.tensor_type.HasField("shape"):
            output.CopyFrom(
                helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None] * inputs[0].ndim or ["n"])
            )
    onnx.save(model, str(path))


def f(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def i(*values: Any) -> Any:
    return np.array(values, np.int64)


X, P = f(2, 3, 7, 6), np.abs(f(2, 3, 7, 6)) + 0.1
W = f(4, 3, 3, 3)
SCALES = np.array([1, 1, 2, 2], np.float32)
NODES: list[tuple[Any, ...]] = [
    *[(k, [X], {}) for k in ("Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Atan", "Sinh",
                             "Cosh", "Asinh", "Tanh", "Erf", "Sigmoid", "Relu", "Softplus", "Softsign", "HardSwish",
 "IsNaN", "Identity", "Elu", "Celu", "LeakyRelu", "HardSigmoid", "Dropout")],
    *[(k, [P], {}) for k in ("Log", "Sqrt", "Reciprocal")],
    *[(k, [np.tanh(X)], {}) for k in ("Asin", "Acos", "Atanh")],
    ("Acosh", [P + 1], {}), ("LeakyRelu", [X], {"alpha": 0.3}), ("Elu", [X], {"alpha": 0.5}),
    ("Not", [X > 0], {}), ("And", [X > 0, X > 1], {}), ("Or", [X > 0, X > 1], {}), ("Xor", [X > 0, X > 1], {}),
    *[(k, [X, f(6)], {}) for k in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Equal", "Less", "Greater", "LessOrEqual",
                                   "GreaterOrEqual", "PRelu", "Sum", "Mean")],
    ("Pow", [P, f(6)], {}), ("Div", [i(7, -7, 5), i(2)], {}), ("Mod", [i(7, -7, 5), i(3)], {}),
    ("Mod", [X, f(6)], {"fmod": 1}), ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}),
    ("Clip", [X, None, np.float32(0.5)], {}), ("Clip", [X], {"min": -0.2, "max": 0.4}, 1, 7),
    ("Cast", [X], {"to": 7}), ("Cast", [X], {"to": 9}), ("Cast", [i(1, 2)], {"to": 1}),
    ("Where", [X > 0, X, f(6)], {}), ("MatMul", [f(2, 4, 5), f(5, 3)], {}), ("MatMul", [f(4, 5), f(5)], {}),
    ("Gemm", [f(4, 5), f(5, 3), f(3)], {}), ("Gemm", [f(5, 4), f(3, 5), f(4, 3)], {"transA": 1, "transB": 1}),
    ("Gemm", [f(4, 5), f(5, 3), f(3)], {"alpha": 0.5, "beta": 2.0}),
    ("Conv", [X, W, f(4)], {}), ("Conv", [X, W], {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("Conv", [X, W], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [X, W], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", [X, f(6, 1, 3, 3)], {"group": 3, "dilations": [2, 1]}), ("Conv", [f(1, 3, 9), f(4, 3, 3)], {}),
    ("ConvTranspose", [X, f(3, 4, 3, 3), f(4)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [X], {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [X], {}), ("GlobalMaxPool", [X], {}),
    ("BatchNormalization", [X, f(3), f(3), f(3), np.abs(f(3)) + 1], {"epsilon": 1e-3}),
    ("InstanceNormalization", [X, f(3), f(3)], {}), ("LayerNormalization", [X, f(6), f(6)], {}, 1, 17),
    ("LayerNormalization", [X, f(7, 6)], {"axis": 2}, 1, 17), ("LpNormalization", [X], {"axis": 1}),
    ("GroupNormalization", [f(2, 4, 5, 5), f(4), f(4)], {"num_groups": 2}, 1, 21),
    ("Mish", [X], {}, 1, 18),
    ("LRN", [X], {"size": 3, "alpha": 0.2}), ("Gelu", [X], {}, 1, 20), ("Gelu", [X], {"approximate": "tanh"}, 1, 20),
    *[(k, [P], {"axes": [2, 3]}, 1, 11) for k in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd",
                                                   "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
                                                   "ReduceLogSumExp")],
    ("ReduceSum", [X, i(1)], {"keepdims": 0}), ("ReduceMean", [X], {}), ("ReduceMean", [X, i(-1)], {}, 1, 18),
    ("Softmax", [X], {"axis": 1}), ("Softmax", [X], {}, 1, 11), ("Softmax", [X], {"axis": 2}, 1, 11),
    ("LogSoftmax", [X], {}), ("ArgMax", [X], {"axis": 1, "keepdims": 0}), ("ArgMin", [X], {"axis": -1}),
    ("TopK", [X, i(2)], {}, 2), ("TopK", [X, i(2)], {"axis": 1, "largest": 0}, 2), ("CumSum", [X, np.int64(2)], {}),
    ("CumSum", [X, np.int64(2)], {"exclusive": 1, "reverse": 1}),
    ("Reshape", [X, i(0, -1, 2)], {}), ("Flatten", [X], {}), ("Flatten", [X], {"axis": 0}),
    ("Flatten", [X], {"axis": 3}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}), ("Transpose", [X], {}), ("Unsqueeze", [X, i(1, -1)], {}),
    ("Squeeze", [f(1, 3, 1), i(0)], {}), ("Squeeze", [f(1, 3, 1)], {}), ("Expand", [f(3, 1), i(2, 3, 4)], {}),
    ("Concat", [X, f(2, 1, 7, 6)], {"axis": 1}), ("Split", [X, i(1, 2)], {"axis": 1}, 2),
    ("Split", [X], {"axis": 2, "num_outputs": 2}, 2, 18), ("Slice", [X, i(1, -3), i(3, 99), i(1, 2)], {}),
    ("Slice", [X, i(-1), i(-100), i(3), i(-2)], {}), ("Gather", [X, i([0, -1], [1, 1])], {"axis": 2}),
    ("Gather", [X, np.int64(-1)], {"axis": 1}), ("Gather", [f(5, 3), i(4, 0)], {}),
    ("GatherElements", [X, np.zeros((2, 3, 7, 2), np.int64) - 1], {"axis": 3}),
    ("GatherND", [X, i([0, 1], [1, 2])], {}),
    ("ScatterND", [f(4, 3), i([1], [3]), f(2, 3)], {}),
    ("ScatterElements", [f(3, 3), i([0, -1]), f(1, 2)], {"axis": 1}),
    ("Pad", [X, i(0, 0, 1, 2, 0, 0, 0, -1), np.float32(2)], {}),
    ("Pad", [X, i(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}),
    ("Pad", [X, i(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}),
    ("Pad", [X, i(1, 0, 1, 2, 0, 0, -1, 1)], {"mode": "reflect"}), ("Pad", [f(5), i(1, 2)], {"mode": "edge"}),
    ("Pad", [f(5, 3), i(0, 1, 2, 0)], {"mode": "reflect"}),
    ("Pad", [X, i(1, 0, 2, 0, 0, 0, 3, 1)], {"mode": "wrap"}, 1, 19),
    ("Tile", [X, i(1, 2, 1, 1)], {}), ("Shape", [X], {}), ("Size", [X], {}), ("NonZero", [X], {}),
    ("OneHot", [i(1, -1, 0), np.int64(4), np.array([-1, 2], np.float32)], {}), ("Trilu", [X], {"upper": 0}),
    ("Trilu", [X, np.int64(1)], {}), ("DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [f(1, 2, 4, 6)], {"blocksize": 2}),
    ("Einsum", [X, f(6, 4)], {"equation": "bchw,wk->bhk"}),
    ("Range", [np.int64(1), np.int64(9), np.int64(3)], {}), ("ConstantOfShape", [i(2, 3)], {}),
    *[("Resize", [X, None, SCALES], {"mode": "nearest", "coordinate_transformation_mode": c, "nearest_mode": n})
      for c in ("asymmetric", "half_pixel", "align_corners") for n in ("floor", "round_prefer_floor")],
    *[("Resize", [X, None, SCALES], {"mode": "linear", "coordinate_transformation_mode": c})
      for c in ("half_pixel", "pytorch_half_pixel", "align_corners")],
    ("Resize", [X, None, None, i(2, 3, 14, 12)], {"mode": "linear"}),
    ("Resize", [X, None, SCALES], {"mode": "cubic"}),
    ("Resize", [X, None, np.array([1, 1, 0.5, 0.5], np.float32)], {"mode": "nearest"}),
    ("GRU", [f(5, 2, 4), f(1, 9, 4), f(1, 9, 3), f(1, 18)], {"hidden_size": 3, "linear_before_reset": 1}, 2),
    ("GRU", [f(5, 2, 4), f(2, 9, 4), f(2, 9, 3), f(2, 18)],
     {"hidden_size": 3, "linear_before_reset": 1, "direction": "bidirectional"}, 2),
    ("GRU", [f(5, 2, 4), f(1, 9, 4), f(1, 9, 3), f(1, 18), None, f(1, 2, 3)],
     {"hidden_size": 3, "linear_before_reset": 1, "direction": "reverse"}, 2),
    ("LSTM", [f(5, 2, 4), f(1, 12, 4), f(1, 12, 3), f(1, 24)], {"hidden_size": 3}, 3),
    ("LSTM", [f(5, 2, 4), f(2, 12, 4), f(2, 12, 3), None, None, f(2, 2, 3), f(2, 2, 3)],
     {"hidden_size": 3, "direction": "bidirectional"}, 3),
    ("RNN", [f(5, 2, 4), f(1, 3, 4), f(1, 3, 3), f(1, 6)], {"hidden_size": 3}, 2),
    ("RNN", [f(5, 2, 4), f(1, 3, 4), f(1, 3, 3), f(1, 6)], {"hidden_size": 3, "activations": ["Relu"]}, 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "rest"),
    [(n[0], n[1], n[2], n[3:]) for n in NODES], ids=[f"{n[0]}-{k}" for k, n in enumerate(NODES)],
)  # fmt: skip
def test_an_operator_is_onnxruntimes(kind: str, inputs: Any, attributes: Any, rest: Any, tmp_path: Path) -> None:
    outputs, opset = (*rest, 1, 15)[0], rest[1] if len(rest) > 1 else 15
    one_node(tmp_path / "node.onnx", kind, inputs, attributes, outputs, opset)
    graph = files.module(tmp_path / "node.onnx", ["x0"], [f"y{k}" for k in range(outputs)])
    assert isinstance(graph, onnx_files.Graph), getattr(graph, "no_twin", "")
    assert "onnxruntime's" in graph.confirm({"x0": inputs[0]})


def test_constants_may_be_called_as_attributes_of_the_graph_are(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    names = ["body.0.weight", "nodes.bias", "path.x", "evaluators.0"]
    held = [numpy_helper.from_array(np.full(3, 2.0**k, np.float32), name) for k, name in enumerate(names)]
    steps = ["x0", "a", "b", "c", "y0"]
    nodes = [helper.make_node("Add", [steps[k], name], [steps[k + 1]]) for k, name in enumerate(names)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x0", "y0")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(tmp_path / "named.onnx"))
    module = files.module(tmp_path / "named.onnx", ["x0"], ["y0"])
    assert isinstance(module, onnx_files.Graph), getattr(module, "no_twin", "")
    assert "onnxruntime's" in module.confirm({"x0": np.ones((1, 3), np.float32)})


def test_every_operator_is_tested() -> None:
    assert set(OPERATORS) - {n[0] for n in NODES} <= {"CastLike", "RMSNormalization"}  # not in ONNX Runtime 1.23's CPU


def test_an_execution_that_differs_from_onnxruntimes_is_no_reference(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph: Any = opened(saved, ".onnx")
    assert "onnxruntime's" in graph.confirm(CASE)
    monkeypatch.setitem(OPERATORS, "Relu", lambda node, x: torch.where(x < 0, x * 1e-3, x))  # type: ignore[arg-type]
    with pytest.raises(Disagrees, match=r"^executed here it is .* away from that, where .* would be rounding"):
        graph.confirm(CASE)


# What PyTorch has no execution for, or not in this way: by onnx's own reference implementation, in float64 too.
OTHERS: list[tuple[Any, ...]] = [
    ("ConvTranspose", [X, f(3, 4, 3, 3), f(4)], {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}),
    ("GRU", [f(5, 2, 4), f(1, 9, 4), f(1, 9, 3), f(1, 18)], {"hidden_size": 3}, 2),
    ("ScatterElements", [f(3, 3), i([0, -1]), f(1, 2)], {"axis": 1, "reduction": "add"}, 1, 18),
    ("GatherND", [X, np.zeros((2, 2), np.int64)], {"batch_dims": 1}),
    ("Selu", [X], {}), ("ThresholdedRelu", [X], {}), ("Hardmax", [X], {}), ("IsInf", [X], {}), ("ReverseSequence",
     [f(4, 2, 3), i(3, 4)], {}), ("QuantizeLinear", [X, np.float32(0.1), np.uint8(128)], {}),
    ("HannWindow", [np.array(8, np.int64)], {}, 1, 17),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "rest"),
    [(n[0], n[1], n[2], n[3:]) for n in OTHERS], ids=[f"{n[0]}-{k}" for k, n in enumerate(OTHERS)],
)  # fmt: skip
def test_what_pytorch_does_not_cover_is_executed_in_float64(
    kind: str, inputs: Any, attributes: Any, rest: Any, tmp_path: Path
) -> None:
    outputs, opset = (*rest, 1, 15)[0], rest[1] if len(rest) > 1 else 15
    one_node(tmp_path / "node.onnx", kind, inputs, attributes, outputs, opset)
    names = [f"y{k}" for k in range(outputs)]
    spec = reference(tmp_path / "node.onnx", ["x0"], names)
    assert not settling.settle(SettleRequest(spec, {"x0": inputs[0]})).why
    found = oracle.evaluate(OracleRequest(spec, [{"x0": inputs[0]}], names))
    assert found.dtype == "float64" and not found.note
    rows, _ = twin.run(modelling.load(spec), [{"x0": inputs[0]}], names, recipe("int8", None))
    for name in names:
        exact, rounded = found.outputs[0][name], rows[0][name]
        if exact.dtype.kind == "f" and inputs[0].dtype.kind == "f" and kind != "Hardmax":
            assert 1e-4 < distance(rounded, exact) < 0.1  # the twin sees that it depends on the data


def reference(file: Path, inputs: list[str], outputs: list[str], **more: Any) -> ModelSpec:
    return ModelSpec(str(file.parent), REFERENCE_FACTORY, {"inputs": inputs, "outputs": outputs, **more},
                     reference=str(file))  # fmt: skip


def graph_of(
    path: Path, nodes: list[Any], inputs: dict[str, list[Any]], held: dict[str, Any], opsets: Any = ()
) -> Path:
    """A file with the output y, of float32."""
    from onnx import TensorProto, helper, numpy_helper

    types = {"flag": TensorProto.BOOL, "count": TensorProto.INT64}
    given = [helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()]
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v, n) for n, v in held.items()])  # fmt: skip
    made = [helper.make_opsetid(domain, version) for domain, version in (("", 17), *opsets)]
    onnx.save(helper.make_model(graph, opset_imports=made, ir_version=8), str(path))
    return path


def branch(nodes: list[Any], name: str, output: str, held: dict[str, Any]) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    output_info = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [output_info], [numpy_helper.from_array(v, n) for n, v in held.items()])


def test_both_branches_of_an_if_are_executed_in_float64(tmp_path: Path) -> None:
    """Each with constants of its own under the same names, one within another, and values from outside."""
    from onnx import helper

    inner = [
        branch([helper.make_node("Mul", ["h", "w"], ["out"])], "a", "out", {"w": f(4)}),
        branch([helper.make_node("Selu", ["h"], ["out"])], "b", "out", {"w": f(4)}),
    ]
    outer = branch(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("If", ["small"], ["out"], then_branch=inner[0],
         else_branch=inner[1])], "c", "out", {"w": f(4, 4)},
    )  # fmt: skip
    other = branch([helper.make_node("Neg", ["x"], ["out"])], "d", "out", {})
    nodes = [
        helper.make_node("Less", ["count", "three"], ["small"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=outer, else_branch=other),
    ]
    sizes = {"x": ["n", 4], "flag": [], "count": []}
    path = graph_of(tmp_path / "if.onnx", nodes, sizes, {"three": np.array(3, np.int64)})
    spec = reference(path, list(sizes), ["y"])
    cases = [{"x": f(2, 4), "flag": np.array(a), "count": np.array(n)} for a in (True, False) for n in (1, 5)]
    assert all(not settling.settle(SettleRequest(spec, case)).why for case in cases)
    found = oracle.evaluate(OracleRequest(spec, cases, ["y"]))
    assert found.dtype == "float64" and len({row["y"].tobytes() for row in found.outputs}) == 3
    with pytest.raises(ParityError, match="If chooses by the data"):
        torch.jit.trace(modelling.load(spec), tuple(torch.from_numpy(v) for v in cases[0].values()))


def test_a_loop_is_executed_in_float64(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("MatMul", ["s", "w"], ["t"])], "body",
        [helper.make_tensor_value_info(n, t, []) for n, t in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))]
        + [helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []),
         helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)]
    path = graph_of(tmp_path / "loop.onnx", nodes, {"count": [], "x": [2, 4]}, {"w": f(4, 4), "yes": np.array(True)})
    case = {"count": np.array(3), "x": f(2, 4)}
    spec = reference(path, list(case), ["y"])
    assert not settling.settle(SettleRequest(spec, case)).why
    found = oracle.evaluate(OracleRequest(spec, [case], ["y"]))
    exact = f(2, 4).astype(np.float64) @ np.linalg.matrix_power(f(4, 4).astype(np.float64), 3)
    assert found.dtype == "float64" and distance(found.outputs[0]["y"], exact) < 1e-14


def fused(path: Path) -> Path:
    """A file with an operator that ONNX Runtime alone has."""
    from onnx import helper

    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")]
    return graph_of(path, nodes, {"x": ["n", 4]}, {"w": f(4, 4)}, [("com.microsoft", 1)])


def test_a_graph_that_cannot_be_executed_here_is_run_by_onnxruntime_and_says_so(tmp_path: Path) -> None:
    spec = reference(fused(tmp_path / "node.onnx"), ["x"], ["y"])
    case = {"x": f(2, 4)}
    found = oracle.evaluate(OracleRequest(spec, [case], ["y"]))
    assert found.dtype == "float32" and "com.microsoft.FusedMatMul has no execution here" in found.note
    assert distance(found.outputs[0]["y"], f(2, 4) @ f(4, 4)) < 1e-6
    module = modelling.load(spec)
    with pytest.raises(ParityError, match=r"no twin: node\.onnx is executed by onnxruntime"):
        twin.run(module, [case], ["y"], recipe("fp16", None))
    with pytest.raises(ParityError, match="nothing can be made from it"):
        torch.jit.trace(module, (torch.from_numpy(case["x"]),))


def test_a_file_that_disagrees_here_is_left_to_onnxruntime_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_node(tmp_path / "node.onnx", "Relu", [X], {}, 1, 17)
    spec, case = reference(tmp_path / "node.onnx", ["x0"], ["y0"]), {"x0": X}
    monkeypatch.setitem(OPERATORS, "Relu", lambda node, x: x * 1.5)  # type: ignore[arg-type]
    why = settling.settle(SettleRequest(spec, case)).why
    assert re.fullmatch(
        r"executed here it is \S+ of its outputs' rms away from that, where 1e-05 would be rounding", why
    )
    left = reference(tmp_path / "node.onnx", ["x0"], ["y0"], left=why)
    for chosen in (spec, left):
        found = oracle.evaluate(OracleRequest(chosen, [case], ["y0"]))
        assert found.dtype == "float32" and why in found.note
        assert np.array_equal(found.outputs[0]["y0"], np.maximum(X, 0))
    with pytest.raises(ParityError, match=r"no twin: .*executed here it is"):
        twin.run(modelling.load(left), [case], ["y0"], recipe("fp16", None))


def test_a_case_that_fails_here_alone_is_onnxruntimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At one size there is an execution, at another there is none."""
    path = tmp_path / "node.onnx"
    one_node(path, "Relu", [f(2, 3)], {}, 1, 17)
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, str(path))

    def relu(node: Any, x: Any) -> Any:
        if len(x) > 2:
            raise onnx_layers.Unsupported("Relu of many")
        return torch.relu(x)

    monkeypatch.setitem(OPERATORS, "Relu", relu)
    monkeypatch.setattr(onnx_evaluator.Evaluator, "run", lambda *_: 1 / 0)
    spec, cases = reference(path, ["x0"], ["y0"]), [{"x0": f(2, 3)}, {"x0": f(5, 3)}]
    found = oracle.evaluate(OracleRequest(spec, cases, ["y0"]))
    assert found.dtype == "float32" and "executed here it fails" in found.note and "Relu of many" not in found.note
    assert np.array_equal(found.outputs[1]["y0"], np.maximum(f(5, 3), 0))


def test_a_file_of_float16_is_executed(tmp_path: Path) -> None:
    """Its rounding is no part of the oracle, and where onnxruntime executes it, it is given float16."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ports = [[helper.make_tensor_value_info(n, TensorProto.FLOAT16, [2, 4])] for n in "xy"]
    graph = helper.make_graph(nodes, "g", *ports, [numpy_helper.from_array(f(4, 4).astype(np.float16), "w")])
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    case = {"x": f(2, 4).astype(np.float16)}
    for left in ("", "for a test"):
        found = oracle.evaluate(OracleRequest(reference(path, ["x"], ["y"], left=left), [case], ["y"]))
        assert distance(found.outputs[0]["y"], case["x"].astype(float) @ f(4, 4).astype(np.float16)) < 1e-3


def test_what_onnxruntime_refuses_says_nothing_about_the_file(tmp_path: Path) -> None:
    spec = reference(fused(tmp_path / "node.onnx"), ["x"], ["y"])
    with pytest.raises(ParityError, match=r"^node\.onnx: onnxruntime refuses the inputs: "):
        oracle.evaluate(OracleRequest(spec, [{"x": f(2, 5)}], ["y"]))
    one_node(tmp_path / "sum.onnx", "Add", [f(2, 3), f(3)], {}, 1, 17)
    spec, case = reference(tmp_path / "sum.onnx", ["x0"], ["y0"]), {"x0": f(2, 4)}
    assert not settling.settle(SettleRequest(spec, case)).why
    with pytest.raises(ParityError, match=r"^sum\.onnx: onnxruntime refuses the inputs: "):
        oracle.evaluate(OracleRequest(spec, [case], ["y0"]))


def test_a_damaged_onnx_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07nonsense")
    with pytest.raises(ParityError, match=r"^bad\.onnx: no valid ONNX file: [^\n]*$"):
        files.module(tmp_path / "bad.onnx", ["x"], ["y"])
