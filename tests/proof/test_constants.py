"""Match and audit on constants made here: no converter, no runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parity.formats.graph import Constant, Graph, Grid, Operator, Slot
from parity.formats.onnx.clips import Clips
from parity.proof import lift
from parity.proof.audit import audit, gain
from parity.proof.match import Match, arrange, match
from parity.proof.source import Folding, Term, Weight


def per_channel(values: np.ndarray, axis: int = 0, factor: float = 1.0) -> Grid:
    reach = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis))
    return Grid(np.where(reach > 0, reach / 127, 1.0) * factor, np.zeros(len(reach)), axis, -128, 127)


def layer(name: str, values: np.ndarray, kind: Any = "linear") -> Weight:
    bias = Term(f"{name}.bias", np.zeros(values.shape[0]), np.zeros(values.shape[0]))
    return Weight(f"{name}.weight", kind, values, None, bias, (), "x")


class Torch:
    """The torch side as far as `match` looks at it."""

    def __init__(self, *weights: Weight, terms: tuple[Term, ...] = ()):
        self.weights, self.terms = weights, terms


def graph(*constants: Constant, channels_last: bool = False) -> Graph:
    operator = Operator(0, "FULLY_CONNECTED", ("x",), ("y",))
    named = {c.name: c for c in constants}
    return Graph((operator,), named, {}, (), (), channels_last=channels_last, symmetric_weights=True)


def quantised(values: np.ndarray, grid: Grid, layout: str = "OI", operator: int = 0) -> Constant:
    stored = grid.nearest(values).astype(np.int8)
    return Constant(f"w{operator}", stored, grid, (Slot(operator, "weight", layout),))


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 40))


def audited(values: np.ndarray, constant: Constant, precision: str = "int8") -> Any:
    torch_side = layer("fc", values)
    matches = {constant.name: Match(constant, torch_side.name, values, np.abs(values), torch_side)}
    return audit(graph(constant), matches, precision)[1]


# Match.


def test_a_weight_is_found_among_others_of_its_shape(weight: np.ndarray) -> None:
    others = [np.random.default_rng(i).standard_normal(weight.shape) for i in (1, 2)]
    source = Torch(layer("a", others[0]), layer("b", weight), layer("c", others[1]))
    found, link = match(graph(quantised(weight, per_channel(weight))), source)  # type: ignore[arg-type]
    assert found["w0"].name == "b.weight"
    assert link.state == "proved"
    assert link.figures["unused"] == ["a.weight", "c.weight"]


def test_equal_weights_are_told_apart_by_graph_order(weight: np.ndarray) -> None:
    constants = [quantised(weight, per_channel(weight), operator=i) for i in range(2)]
    found, _ = match(graph(*constants), Torch(layer("first", weight), layer("second", weight)))  # type: ignore[arg-type]
    assert [found[c.name].name for c in constants] == ["first.weight", "second.weight"]


@pytest.mark.parametrize("scale", ["a factor", "one factor", "none"])
@pytest.mark.parametrize("held", ["folded", "unfolded"])
def test_batch_norm_is_folded_in_or_left_an_operator(weight: np.ndarray, scale: str, held: str) -> None:
    factors = {"a factor": np.linspace(0.5, 1.5, 6), "one factor": np.full(6, 0.8), "none": np.ones(6)}[scale]
    shift = Term("fc.bias", np.full(6, 0.3), np.full(6, 0.3))
    plain = layer("fc", weight)
    folded = replace(layer("fc", weight * factors[:, None]), bias=shift, unfolded=plain)
    held_as = folded if held == "folded" else plain
    stored = Constant("c", held_as.values.astype(np.float32), None, (Slot(0, "weight", "OI", data="x"),))
    bias = Constant("b", held_as.bias.values.astype(np.float32), None, (Slot(0, "bias", "O", weight="c", data="x"),))
    view = graph(stored, bias)
    sound, link = audit(view, match(view, Torch(folded))[0], "fp32")  # type: ignore[arg-type]
    assert link.state == "proved" and link.figures["tensors"] == 2, link
    assert not any((a.gain != 1).any() for a in sound.values())


def test_layers_that_read_the_same_may_be_held_as_one(weight: np.ndarray) -> None:
    """The source offers query, key and value also as one; neither they nor the whole are then unused."""
    parts = [layer(name, weight + shift) for name, shift in (("q", 0), ("k", 1))]
    whole = replace(layer("fused", np.concatenate([p.values for p in parts])), name="q.weight | k.weight")
    slot = Slot(0, "weight", "OI", data="x")
    matches, link = match(graph(Constant("c", whole.values.astype(np.float32), None, (slot,))), Torch(*parts, whole))
    assert matches["c"].name == "q.weight | k.weight" and link.figures["unused"] == []
    _, link = match(graph(Constant("c", parts[0].values.astype(np.float32), None, (slot,))), Torch(*parts, whole))
    assert link.figures["unused"] == ["k.weight"]


@pytest.mark.parametrize(("value", "matched"), [(0.25, True), (0.2548, False)])
def test_a_number_near_one_of_the_models_is_no_evidence(value: float, matched: bool) -> None:
    """A coefficient of the polynomial for erf, 0.2548, where the model multiplies by 0.25 somewhere."""
    term = Term("0.25 of mul", np.array(0.25), np.array(0.25))
    view = graph(Constant("c", np.array(value, np.float32), None, (Slot(0, "operand"),)))
    sound, link = audit(view, match(view, Torch(terms=(term,)))[0], "fp32")  # type: ignore[arg-type]
    assert link.state == "proved" and ("c" in sound) is matched


def test_no_permutation_is_searched() -> None:
    """A transposed square kernel must not be matched as if it were right: the audit has to see it."""
    weight = np.random.default_rng(0).standard_normal((8, 8))
    constant = quantised(weight.T.copy(), per_channel(weight.T))
    found, _ = match(graph(constant), Torch(layer("fc", weight)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["w0"].values, weight)
    assert audit(graph(constant), found, "int8")[1].state == "failed"


def test_a_weight_that_nothing_fits_fails_the_link(weight: np.ndarray) -> None:
    constant = quantised(weight, per_channel(weight))
    _, link = match(graph(constant), Torch(layer("fc", weight[:, :39])))  # type: ignore[arg-type]
    assert link.state == "failed"
    assert link.culprits[0].name == "w0"


@pytest.mark.parametrize(
    ("layout", "kind", "shape", "want"),
    [
        ("OHWI", "conv", (8, 3, 5, 7), (8, 5, 7, 3)),
        ("1HWO", "conv", (8, 1, 5, 7), (1, 5, 7, 8)),
        ("OIHW", "conv", (8, 3, 5, 7), (8, 3, 5, 7)),
        ("OHWI", "conv", (8, 3, 5), (8, 1, 5, 3)),
        ("OHWI", "transposed", (3, 8, 5, 7), (8, 5, 7, 3)),
        ("IOHW", "transposed", (3, 8, 5, 7), (3, 8, 5, 7)),
        ("IO", "linear", (8, 3), (3, 8)),
        ("OI", "linear", (8, 3), (8, 3)),
        ("VD", "table", (9, 4), (9, 4)),
    ],
)
def test_layouts(layout: str, kind: str, shape: tuple[int, ...], want: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=float).reshape(shape)
    arranged = arrange(layer("w", values, kind), values, layout, want)
    assert arranged is not None
    assert arranged.shape == want
    torch_layout = {"conv": "OIHW", "transposed": "IOHW", "linear": "OI", "table": "VD"}[kind]
    if sorted(layout) == sorted(torch_layout) and len(shape) == len(layout):
        np.testing.assert_array_equal(arranged, values.transpose([torch_layout.index(axis) for axis in layout]))
    wrong = (*want[:-1], want[-1] + 1)
    assert arrange(layer("w", values, kind), values, layout, wrong) is None


@pytest.mark.parametrize(("form", "act"), [("", lambda v: v), ("1/", lambda v: 1 / v), ("-", lambda v: -v)])
def test_element_wise_constants_are_torch_terms_their_reciprocals_or_negatives(form: str, act: Any) -> None:
    scale = np.random.default_rng(0).uniform(0.5, 2, 6)
    constant = Constant("c", act(scale).astype(np.float32), None, (Slot(0, "operand"),))
    found, _ = match(graph(constant), Torch(terms=(Term("norm.weight", scale, scale),)))  # type: ignore[arg-type]
    assert found["c"].name == f"{form}norm.weight"


def test_a_feature_map_is_turned_channels_last_even_where_sizes_coincide() -> None:
    values = np.random.default_rng(0).standard_normal((1, 4, 4, 4))
    constant = Constant("c", np.moveaxis(values, 1, -1).astype(np.float32), None, (Slot(0, "operand"),))
    found, _ = match(graph(constant, channels_last=True), Torch(terms=(Term("p", values, values),)))  # type: ignore[arg-type]
    assert audit(graph(constant), found, "fp32")[1].state == "proved"


@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_one_factor_for_all_channels_is_told_by_size(weight: np.ndarray, stored: Any) -> None:
    """A layer scale of 1e-6 leaves the cosine as it is, and of most weights in fp16 little but the sign."""
    scale = np.full((6, 1), 1e-6)
    bias = Term("fc.bias", np.zeros(6), np.zeros(6))
    plain = replace(layer("fc", weight * 0.1), foldings=(Folding(scale, bias),))
    constant = Constant("w", (weight * 1e-7).astype(stored), None, (Slot(0, "weight", "OI"),))
    found, _ = match(graph(constant), Torch(plain))  # type: ignore[arg-type]
    assert np.allclose(found["w"].values, weight * 1e-7, rtol=1e-6)
    as_it_is = Constant("w", (weight * 0.1).astype(stored), None, (Slot(0, "weight", "OI"),))
    found, _ = match(graph(as_it_is), Torch(plain))  # type: ignore[arg-type]
    assert np.allclose(found["w"].values, weight * 0.1)


# Audit.


def test_rounding_to_the_nearest_step_is_sound(weight: np.ndarray) -> None:
    assert audited(weight, quantised(weight, per_channel(weight))).state == "proved"


def test_one_value_one_step_off_is_found_and_named(weight: np.ndarray) -> None:
    constant = quantised(weight, per_channel(weight))
    stored = constant.stored.copy()
    stored[3, 5] -= np.sign(stored[3, 5]) or 1
    link = audited(weight, replace(constant, stored=stored))
    assert link.state == "failed"
    assert (link.culprits[0].name, link.culprits[0].channels) == ("fc.weight", (3,))
    assert "1 of 240 values" in link.culprits[0].what


def test_flooring_instead_of_rounding_is_found(weight: np.ndarray) -> None:
    grid = per_channel(weight)
    constant = replace(quantised(weight, grid), stored=np.floor(grid.steps(weight)).astype(np.int8))
    assert audited(weight, constant).state == "failed"


def test_a_step_that_tflites_quantiser_makes_no_finer_is_right(weight: np.ndarray) -> None:
    """A layer scale of 1e-6 folded in: kSmallestHalfRange of TensorFlow Lite is 0.5e-6."""
    tiny = weight * 1e-7 / np.abs(weight).max()
    steps = per_channel(np.ones_like(weight))
    assert audited(tiny, quantised(tiny, replace(steps, scale=steps.scale * 0.5e-6))).state == "proved"
    assert audited(tiny, quantised(tiny, replace(steps, scale=steps.scale * 1.5e-6))).state == "failed"


def test_a_dead_channel_is_found_whatever_its_scale(weight: np.ndarray) -> None:
    """ONNX Runtime gives a channel of zeros the scale 1: every weight is then within half a step of it."""
    weight = weight / 10
    dead = weight.copy()
    dead[2] = 0
    link = audited(weight, quantised(dead, per_channel(dead)))
    assert link.state == "failed"
    assert "dead: 2" in link.culprits[0].what


def test_a_folded_factor_is_a_gain_and_sound(weight: np.ndarray) -> None:
    half = quantised(weight / 2, per_channel(weight / 2))
    torch_side = layer("fc", weight)
    found = gain(Match(half, "fc.weight", weight, weight, torch_side))
    np.testing.assert_allclose(found, 0.5, rtol=1e-6)
    link = audited(weight, half)
    assert link.state == "proved"
    assert link.figures["folded"] == ["fc.weight"]


def test_a_factor_folded_into_weights_of_few_levels_is_the_one_that_all_agree_on() -> None:
    """A layer scale of 1e-6 and GELU's half leave eight levels: a channel's regression is off by a hundredth."""
    weight = np.random.default_rng(1).uniform(-6e-8, 6e-8, (24, 96))
    steps = per_channel(np.ones_like(weight))
    steps = replace(steps, scale=steps.scale * 0.5e-6)
    half = quantised(weight / 2, steps)
    assert np.abs(half.stored).max() <= 8
    found = gain(Match(half, "fc.weight", weight, weight, layer("fc", weight)))
    assert np.all(found == 0.5)
    assert audited(weight, half).state == "proved"
    stored = half.stored.copy()
    stored[3, 5] -= np.sign(stored[3, 5]) or 1
    assert audited(weight, replace(half, stored=stored)).state == "failed"
    other = weight * np.where(np.arange(24) == 7, 1.3, 1.0)[:, None]  # a channel with a factor of its own
    assert gain(Match(quantised(other / 2, steps), "fc.weight", weight, weight, layer("fc", weight))).size == 24


def test_clipped_weights_are_no_gain(weight: np.ndarray) -> None:
    clipped = weight.clip(-1, 1)
    assert audited(weight, quantised(clipped, per_channel(clipped))).state == "failed"


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_no_positive_number_is_found(weight: np.ndarray, scale: float) -> None:
    grid = per_channel(weight)
    bad = replace(grid, scale=np.where(np.arange(6) == 4, scale, grid.scale))
    constant = replace(quantised(weight, grid), grid=bad)
    assert audited(weight, constant).state == "failed"


def test_a_weight_with_a_zero_point_is_found(weight: np.ndarray) -> None:
    grid = per_channel(weight)
    shifted = replace(grid, zero=np.where(np.arange(6) == 4, 1.0, 0.0))
    link = audited(weight, replace(quantised(weight, grid), grid=shifted))
    assert any("zero point" in c.what for c in link.culprits)


@pytest.mark.parametrize(("factor", "state"), [(1.0, "proved"), (1.01, "failed")])
def test_the_scale_of_a_bias_is_that_of_data_times_weight(weight: np.ndarray, factor: float, state: str) -> None:
    data = Grid(np.array([0.02]), np.array([3.0]), 0, -128, 127)
    constant = quantised(weight, per_channel(weight))
    assert constant.grid is not None
    torch_side = layer("fc", weight)
    values = torch_side.bias.values
    grid = Grid(constant.grid.scale * data.scale * factor, np.zeros(6), 0, -(2**31), 2**31 - 1)
    bias = Constant("b", np.zeros(6, np.int32), grid, (Slot(0, "bias", "O", "w0", "x"),))
    matches = {
        "w0": Match(constant, torch_side.name, weight, np.abs(weight), torch_side),
        "b": Match(bias, torch_side.bias.name, values, values, torch_side),
    }
    view = replace(graph(constant, bias), grids={"x": data})
    assert audit(view, matches, "int8")[1].state == state


def test_fp16_is_half_a_unit(weight: np.ndarray) -> None:
    constant = Constant("w0", weight.astype(np.float16), None, (Slot(0, "weight", "OI"),))
    assert audited(weight, constant, "fp16").state == "proved"
    stored = constant.stored.copy()
    stored[1, 2] = np.nextafter(stored[1, 2], np.float16(9))
    link = audited(weight, replace(constant, stored=stored), "fp16")
    assert link.state == "failed"
    assert link.culprits[0].channels == (1,)


def test_an_fp32_file_with_fp16_weights_fails_and_says_so(weight: np.ndarray) -> None:
    slots = (Slot(0, "weight", "OI"),)
    assert audited(weight, Constant("w0", weight.astype(np.float32), None, slots), "fp32").state == "proved"
    halved = Constant("w0", weight.astype(np.float16).astype(np.float32), None, slots)
    link = audited(weight, halved, "fp32")
    assert any("fp16 values" in c.what for c in link.culprits)
    stored = Constant("w0", weight.astype(np.float16), None, slots)
    assert any("stored as float16" in c.what for c in audited(weight, stored, "fp32").culprits)


def test_zero_is_no_small_constant() -> None:
    """A mask's zero was taken for an epsilon on correct files. An epsilon lost in a file is the lift's to find."""
    epsilon = Term("1e-05 of add", np.array(1e-5), np.array(1e-5))
    zero = Constant("zero", np.zeros((), np.float32), None, (Slot(0, "operand"),))
    for kind in ("Where", "Add"):
        here = replace(graph(zero), operators=(Operator(0, kind, ("m", "zero"), ("y",)),))
        matches, _ = match(here, Torch(terms=(epsilon,)))  # type: ignore[arg-type]
        assert not matches


def test_what_rounding_may_cost_moves_equal_numbers_alike_and_the_least_half_to_0() -> None:
    """coremltools writes the least fp16 number for an epsilon of 1e-12, which it stands for."""
    from parity.proof.lift import LEAST_HALF, _moved

    rng = np.random.default_rng(0)

    def moved(*numbers: float) -> np.ndarray:
        return _moved(Constant("c", np.array(numbers, np.float16), None), rng)

    assert moved(LEAST_HALF).item() == 0
    assert moved(1e-6).item() == moved(1e-6).item() == float(np.float16(1e-6)) - LEAST_HALF / 2
    assert moved(1.5).item() == 1.5 * (1 - 2.0**-11)
    assert 0 < np.abs(moved(*[1e-6] * 99) - float(np.float16(1e-6))).max() <= LEAST_HALF / 2


def test_infinity_that_both_have_is_no_difference() -> None:
    from parity.proof.local import _deviation

    operator = Operator(0, "Where", ("m",), ("y",))
    want = np.array([-np.inf, 0.0, 2.0], np.float32)
    here = graph()
    assert _deviation(here, operator, "y", want.copy(), want, {}, {}) == 0
    assert _deviation(here, operator, "y", np.array([-np.inf, 0.0, 2.1], np.float32), want, {}, {}) > 1
    for wrong in ([0.0, 0.0, 2.0], [np.inf, 0.0, 2.0], [np.nan, 0.0, 2.0], [-np.inf, -np.inf, 2.0]):
        assert _deviation(here, operator, "y", np.array(wrong, np.float32), want, {}, {}) > 1


def test_numbers_below_the_least_of_fp16_may_be_off_by_it() -> None:
    from parity.proof.local import _deviation

    operator = Operator(0, "MatMul", ("x", "w"), ("y",))
    want = np.array([1e-7, -3e-8, 2e-8], np.float32)
    assert _deviation(graph(), operator, "y", want.astype(np.float16), want, {}, {}) <= 1
    assert _deviation(graph(), operator, "y", (want + 1e-7).astype(np.float16), want, {}, {}) > 1


def test_infinity_stands_for_what_lies_beyond_the_largest_number() -> None:
    """Two masks of the lowest number add up to minus infinity on one kernel, and stop at the lowest on another."""
    from parity.proof.local import _deviation

    operator = Operator(0, "Add", ("m", "n"), ("y",))
    lowest = np.finfo(np.float32).min
    want = np.array([lowest, 0.0, 2.0], np.float32)
    assert _deviation(graph(), operator, "y", np.array([-np.inf, 0.0, 2.0], np.float32), want, {}, {}) == 0
    halves = np.array([-np.inf, 0.0, 2.0], np.float16)
    assert _deviation(graph(), operator, "y", halves, np.array([-131008, 0.0, 2.0], np.float32), {}, {}) == 0
    assert _deviation(graph(), operator, "y", np.array([np.inf, 0.0, 2.0], np.float32), want, {}, {}) > 1


def test_a_grid_whose_last_negative_integer_is_in_use_gives_no_gain(weight: np.ndarray) -> None:
    """A factor of 1.004 stores the largest value as -128, which reads as a gain of 1.008 that nobody folded in."""
    grid = per_channel(weight)
    largest = np.abs(weight).max(axis=1, keepdims=True)
    weight = np.where(np.abs(weight) == largest, -largest, weight)
    constant = quantised(weight * 1.004, grid)
    assert constant.stored.min() == -128
    found = gain(Match(constant, "fc.weight", weight, weight, layer("fc", weight)))
    assert np.all(np.abs(found - 128 / 127) > 1e-3)
    plain = quantised(weight, grid)
    np.testing.assert_allclose(gain(Match(plain, "fc.weight", weight, weight, layer("fc", weight))), 1.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 6.0, {"low": 0.0, "high": 6.0}),
        (0.0, 5.99, {"low": 0.0, "high": 6.0}),  # calibration saw a little less than the bound
        (0.0, 6.01, {"low": 0.0, "high": None}),  # beyond the bound: nothing was clipped there
        (0.0, 4.0, {"low": 0.0, "high": 6.0}),  # calibration saw much less, if this is a ReLU6
        (-6.0, 6.0, {}),
        (-1.0, 6.0, {}),  # one end near a bound, by chance
    ],
)
def test_the_ends_of_a_grid_stand_for_a_clip_only_behind_one(low: float, high: float, expected: Any) -> None:
    step = (high - low) / 255
    grid = Grid(np.array([step]), np.array([round(-128 - low / step)]), 0, -128, 127)
    assert Clips({0.0, 6.0}, {"x": grid}).of("x") == expected


def test_every_reading_of_the_ends_of_grids_is_offered_once() -> None:
    below, same = (Grid(np.array([high / 255]), np.array([-128.0]), 0, -128, 127) for high in (0.7, 1.0))
    clips = Clips({0.0, 1.0}, {"below": below, "resized": same}, {"resized"})
    read = [(clips.of("below"), clips.of("resized"))]
    while clips.reread():
        read.append((clips.of("below"), clips.of("resized")))
    whole, half = {"low": 0.0, "high": 1.0}, {"low": 0.0, "high": None}
    assert read == [(whole, {}), (half, {}), (whole, whole), (half, whole)]
    assert (clips.of("below"), clips.of("resized")) == read[0]


def test_a_grid_of_what_was_silent_rounds_only_in_a_reading_of_its_own() -> None:
    silent, alive = (Grid(np.array([scale]), np.array([0.0]), 0, -128, 127) for scale in (1.0, 0.5))
    clips = Clips({0.0}, {"silent": silent, "alive": alive})
    assert not clips.rounds("silent")
    assert clips.reread() and clips.rounds("silent") and not clips.rounds("alive")
    assert not clips.reread() and not clips.rounds("silent")


def test_a_hybrid_kernel_is_allowed_for_the_data_that_it_multiplies(weight: np.ndarray) -> None:
    """A transposed convolution of TFLite reads the shape of its output before its data."""
    from parity.proof.local import _deviation, _hybrid_reach

    constant = replace(quantised(weight, per_channel(weight)), slots=(Slot(0, "weight", "OI", data="x"),))
    operator = Operator(0, "TRANSPOSE_CONV", ("shape", "w0", "x"), ("y",))
    here = replace(graph(constant), operators=(operator,))
    hybrid = _hybrid_reach(here)
    real = {"x": np.full((1, 40), 2.0, np.float32)}
    allowed = hybrid[0][0] * 2.0 / 127 / 2
    want = np.ones((1, 6), np.float32)
    assert _deviation(here, operator, "y", want + np.float32(0.9 * allowed), want, real, hybrid) <= 1
    assert _deviation(here, operator, "y", want + np.float32(1.1 * allowed), want, real, hybrid) > 1


def test_a_table_that_is_dequantised_after_the_look_up_has_its_grid() -> None:
    onnx_graph = pytest.importorskip("parity.formats.onnx.graph")
    from onnx import TensorProto, helper, numpy_helper

    from parity.formats.onnx import rewriting

    table = np.random.default_rng(0).integers(0, 255, (7, 4), np.uint8)
    stored = {"w": table, "scale": np.float32(0.02), "zero": np.uint8(130)}
    made = helper.make_graph(
        [helper.make_node("Gather", ["w", "ids"], ["rows"]),
         helper.make_node("DequantizeLinear", ["rows", "scale", "zero"], ["y"])],
        "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before = onnx_graph._open(model, {}, "as written").run(["y"], {"ids": np.array([2, 0, 6])})[0]
    rewriting.dequantise_first(model.graph)
    assert [n.op_type for n in model.graph.node] == ["DequantizeLinear", "Gather"]
    np.testing.assert_array_equal(
        onnx_graph._open(model, {}, "as written").run(["y"], {"ids": np.array([2, 0, 6])})[0], before
    )


def test_one_dequantised_tensor_under_the_names_of_two_outputs_keeps_both() -> None:
    onnx_graph = pytest.importorskip("parity.formats.onnx.graph")
    from onnx import TensorProto, helper, numpy_helper

    from parity.formats.onnx import rewriting

    stored = {"w": np.arange(28, dtype=np.uint8).reshape(7, 4), "scale": np.float32(0.02), "zero": np.uint8(130)}
    shape = [3, 4]
    made = helper.make_graph(
        [helper.make_node("Gather", ["w", "ids"], ["rows"]),
         *(helper.make_node("DequantizeLinear", ["rows", "scale", "zero"], [y]) for y in ("y", "z")),
         helper.make_node("Transpose", ["rows"], ["turned"], perm=[1, 0]),
         helper.make_node("DequantizeLinear", ["turned", "scale", "zero"], ["t"])],
        "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
         for n, s in (("y", shape), ("z", shape), ("t", shape[::-1]))],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before = onnx_graph._open(model, {}, "as written").run(["y", "z", "t"], {"ids": np.array([2, 0, 6])})
    rewriting.dequantise_first(model.graph)
    after = onnx_graph._open(model, {}, "as written").run(["y", "z", "t"], {"ids": np.array([2, 0, 6])})
    assert [n.op_type for n in model.graph.node].count("DequantizeLinear") == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("dtype", "share"), [(np.float32, 1.0), (np.float16, 0.0)])
def test_weights_that_are_not_of_the_declared_precision_are_counted(
    weight: np.ndarray, dtype: Any, share: float
) -> None:
    link = audited(weight, Constant("w", weight.astype(dtype), None, (Slot(0, "weight", "OI"),)), "fp16")
    assert (link.state, link.figures["unreduced"]) == ("proved", share)


# Dead channels.


@pytest.mark.parametrize(("bias", "sound"), [(200.0, True), (0.01, False)])
def test_a_channel_for_which_only_its_bias_speaks_may_have_a_wider_scale(
    weight: np.ndarray, bias: float, sound: bool
) -> None:
    """ONNX Runtime widens the scale of such a channel until its bias fits int32 in steps of data times weight."""
    weight[2] *= 1e-6
    grid = per_channel(weight)
    data = Grid(np.array([0.02]), np.array([0.0]), 0, -128, 127)
    scale = grid.scale.copy()
    scale[2] = 200.0 / 2**31 / float(data.scale[0])
    wide = replace(grid, scale=scale)
    values = np.full(6, bias)
    steps = Grid(scale * data.scale, np.zeros(6), 0, -(2**31), 2**31 - 1)
    slot = Slot(0, "bias", "O", weight="w0", data="x")
    stored = Constant("b", steps.nearest(values).astype(np.int32), steps, (slot,))
    view = replace(graph(quantised(weight, wide), stored), grids={"x": data})
    torch_side = replace(layer("fc", weight), bias=Term("fc.bias", values, values))
    link = audit(view, match(view, Torch(torch_side))[0], "int8")[1]  # type: ignore[arg-type]
    assert (link.state == "proved") is sound, link.culprits


@pytest.mark.parametrize("scale", [0.0, 1.0], ids=["scale 0", "any scale"])
@pytest.mark.parametrize("noise", [0.0, 1e-15], ids=["zeros", "what a table's arithmetic leaves"])
def test_a_channel_of_zeros_may_have_any_scale(weight: np.ndarray, scale: float, noise: float) -> None:
    weight[3] = noise
    grid = per_channel(weight)
    scales = grid.scale.copy()
    scales[3] = scale
    stored = np.where(scales[:, None] > 0, weight / np.where(scales, scales, 1)[:, None], 0)
    constant = Constant("w0", np.rint(stored).astype(np.int8), replace(grid, scale=scales), (Slot(0, "weight", "OI"),))
    assert audited(weight, constant).state == "proved", audited(weight, constant).culprits
    weight[3] = 0.01  # zeros where the module has values
    assert audited(weight, constant).state == "failed"


@pytest.mark.parametrize(
    ("written", "rounded"), [(-10000.0, False), (-65504.0, False), (0.5, False), (-65000.0, True), (0.1, True)]
)
def test_a_half_that_nobody_would_write_is_a_rounded_number(written: float, rounded: bool) -> None:
    """-65000 is held as -64992: an integer, as -10000 is, but none that is written."""
    held = Constant("fill", np.array([written]).astype(np.float16), None, (Slot(0, "operand", ""),))
    assert lift._exact(held) is not rounded
