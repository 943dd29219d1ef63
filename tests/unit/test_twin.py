"""Twins of every kind of layer: they run any module, leave it as it was, and round what they say they round."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.core.errors import ParityError
from parity.core.settings import ModelSpec
from parity.reference import grid, recipes, twin
from parity.reference.messages import TwinRequest
from parity.reference.recipes import RECIPES, Recipe, recipe

FLAVOURS = [(p, f) for p, flavours in RECIPES.items() for f in flavours]
COST = {"fp32": 1e-5, "fp16": 0.01, "dynamic": 0.1, "int8": 0.25}  # of the output's rms, over any layer here


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def norm2d() -> nn.Module:
    layer = nn.BatchNorm2d(6)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.3, 3)
    layer.weight.data.uniform_(0.5, 2)
    layer.bias.data.normal_()
    return layer


class Plain(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor], **tensors: Tensor):
        super().__init__()
        self.function = function
        for name, value in tensors.items():
            setattr(self, name, nn.Parameter(value, requires_grad=False))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, **dict(self.named_parameters()))


class First(nn.Module):
    """The first output of a recurrent layer or of attention."""

    def __init__(self, inner: nn.Module, times: int = 1):
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*[x] * self.times)[0]


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, padding=1), (2, 6, 16)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True)), (2, 6, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, dilation=2), (1, 6, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3), (1, 2, 5, 6, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2), (1, 6, 5, 5)),
    "conv, norm": (lambda: nn.Sequential(nn.Conv2d(6, 6, 3, bias=False), norm2d(), nn.ReLU6()), (1, 6, 9, 9)),
    "norm, conv": (lambda: nn.Sequential(norm2d(), nn.LeakyReLU(), nn.Conv2d(6, 6, 3)), (1, 6, 9, 9)),
    "linear": (lambda: nn.Linear(8, 5), (3, 8)),
    "linear over time": (lambda: nn.Linear(8, 5), (2, 7, 8)),
    "bilinear": (lambda: Plain(lambda x, w: torch.einsum("bi,ijk,bj->bk", x, w, x), w=torch.randn(8, 8, 3)), (3, 8)),
    "attention": (lambda: First(nn.MultiheadAttention(8, 2, batch_first=True), 3), (2, 7, 8)),
    "encoder": (encoder, (2, 7, 8)),
    "causal": (lambda: Plain(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), (2, 7, 8)),
    "gru": (lambda: First(nn.GRU(8, 6, 2, batch_first=True)), (2, 7, 8)),
    "lstm": (lambda: First(nn.LSTM(8, 6, bidirectional=True)), (7, 2, 8)),
    "rnn": (lambda: First(nn.RNN(8, 6)), (7, 2, 8)),
    "gru cell": (lambda: nn.GRUCell(8, 8), (3, 8)),
    "layer norm": (lambda: nn.LayerNorm(8), (3, 8)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (2, 6, 5, 5)),
    "instance norm": (lambda: nn.InstanceNorm2d(6, affine=True), (1, 6, 5, 5)),
    "rms norm": (lambda: nn.RMSNorm(8), (3, 8)),
    "activations": (lambda: nn.Sequential(nn.SiLU(), nn.GELU(), nn.Mish(), nn.PReLU(), nn.ELU()), (3, 8)),
    "hard activations": (lambda: nn.Sequential(nn.Hardswish(), nn.Hardsigmoid(), nn.ReLU6()), (3, 8)),
    "pools": (lambda: nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)), (1, 6, 9, 9)),
    "resize": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (1, 6, 5, 5)),
    "softmax": (lambda: nn.Softmax(-1), (3, 8)),
    "log softmax": (lambda: nn.LogSoftmax(-1), (3, 8)),
    "concatenation": (lambda: Plain(lambda x: torch.cat([x, 2 * x.flip(1)], 1) / 3), (3, 8)),
}  # fmt: skip


def cases(shape: tuple[int, ...], count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 1, shape).astype(np.float32)} for _ in range(count)]


def made(name: str) -> tuple[nn.Module, list[dict[str, np.ndarray]]]:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    return build().eval(), cases(shape)


def outputs(module: nn.Module, fed: list[dict[str, np.ndarray]], chosen: Recipe) -> np.ndarray:
    return np.stack([row["y"] for row in twin.run(module, fed, ["y"], chosen)[0]])


def one(module: nn.Module, x: Tensor, chosen: Recipe) -> Tensor:
    return torch.from_numpy(outputs(module, [{"x": x.numpy()}], chosen)[0])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("precision", "flavour"), FLAVOURS)
def test_every_layer_in_every_flavour(name: str, precision: str, flavour: str) -> None:
    module, fed = made(name)
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        want = np.stack([module.double()(torch.from_numpy(c["x"]).double()).numpy() for c in fed])
        module.float()
    got = outputs(module, fed, recipe(precision, flavour))
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert error < COST[precision], error
    assert outputs(module, fed, recipe(precision, flavour)).tobytes() == got.tobytes()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("name", ["conv2d", "depthwise", "linear", "encoder", "gru", "lstm", "conv, norm"])
@pytest.mark.parametrize(("precision", "flavour"), FLAVOURS)
def test_a_twin_is_not_the_module_itself(name: str, precision: str, flavour: str) -> None:
    module, fed = made(name)
    chosen = recipe(precision, flavour)
    left_alone = chosen.small or {"GRU", "LSTM"} & chosen.untouched
    with torch.no_grad():
        eager = np.stack([module(torch.from_numpy(c["x"])).double().numpy() for c in fed])
    assert left_alone or outputs(module, fed, chosen).tobytes() != eager.tobytes()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("parts", [2, 7])
def test_partial_sums_add_up(transposed: bool, groups: int, parts: int) -> None:
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(4, 6, 3, 2, 1, groups=groups)
    x = torch.randn(1, 4, 8, 8)
    assert torch.allclose(one(layer, x, Recipe(parts=parts)).float(), layer(x), atol=1e-6)


def test_fp16_storage_is_rounded_weights_and_float_arithmetic() -> None:
    layer, x = nn.Linear(16, 4), torch.randn(2, 16)
    want = F.linear(x, layer.weight.half().float(), layer.bias.half().float())
    assert torch.allclose(one(layer, x, recipe("fp16", "storage")).float(), want, atol=1e-6)


def test_fp16_compute_gives_fp16_values_and_overflows_as_fp16_does() -> None:
    x = torch.tensor([[200.0, 300.0]])
    got = one(Plain(lambda x: x * x), x, recipe("fp16", "compute"))
    assert got.tolist() == [[40000.0, float("inf")]]
    assert one(Plain(lambda x: x * x), x, recipe("fp16", "storage")).tolist() == [[40000.0, 90000.0]]


def test_fp16_accumulation_loses_what_fp16_sums_lose() -> None:
    layer, x = nn.Linear(2, 1, bias=False), torch.tensor([[2048.0, 1.0]])
    layer.weight.data.fill_(1)
    assert float(one(layer, x, recipe("fp16", "accumulate"))) == 2048
    assert float(one(layer, x, recipe("fp16", "storage"))) == 2049


@pytest.mark.parametrize(
    "build", [nn.Linear, lambda a, b: nn.Conv2d(a, b, 1), lambda a, b: nn.ConvTranspose2d(a, b, 1)]
)
def test_int8_weights_have_a_scale_for_each_output_channel(build: Callable[[int, int], nn.Module]) -> None:
    layer = build(40, 30)
    weight = (
        layer.weight.data.reshape(30, 40)
        if not isinstance(layer, nn.ConvTranspose2d)
        else layer.weight.data[..., 0, 0].T
    )
    weight *= torch.logspace(-3, 0, 30)[:, None]
    layer.bias.data.zero_()
    x = torch.randn(1, 40) if isinstance(layer, nn.Linear) else torch.randn(1, 40, 1, 1)
    error = (one(layer, x, recipe("dynamic", "weights")).float() - layer(x).detach()).abs().flatten()
    assert (error <= weight.abs().amax(1) / 254 * x.abs().sum() + 1e-7).all()
    assert error.any()


def test_transposed_groups_have_scales_of_their_own() -> None:
    layer = nn.ConvTranspose2d(4, 4, 1, groups=2, bias=False)
    layer.weight.data[:2] *= 1e-4
    x = torch.randn(1, 4, 1, 1)
    error = (one(layer, x, recipe("dynamic", "weights")).float() - layer(x).detach()).abs().flatten()
    assert error[:2].max() < 1e-6 and error[2:].max() > 1e-5


def test_hybrid_rounds_the_input_by_its_own_range_and_leaves_small_weights_alone() -> None:
    large, small, x = nn.Linear(64, 16, bias=False), nn.Linear(64, 15, bias=False), torch.randn(4, 64)
    low, high = float(x.min()), float(x.max())
    step = (high - low) / 255
    zero = round(-low / step)
    rounded = (torch.clamp(torch.round(x / step) + zero, 0, 255) - zero) * step
    want = F.linear(rounded, grid.symmetric8(large.weight.data, (1,)))
    assert torch.allclose(one(large, x, recipe("dynamic", "hybrid")).float(), want, atol=1e-5)
    assert torch.allclose(one(small, x, recipe("dynamic", "hybrid")).float(), small(x), atol=1e-6)


def test_int8_uses_the_ranges_of_the_calibration_data() -> None:
    layer = Plain(lambda x: x + 1)
    calibration = [{"x": np.array([-1.0, 1.55], np.float32)}]
    rows, notes = twin.run(layer, [{"x": np.array([0.4, 50.0], np.float32)}], ["y"], recipe("int8"), calibration)
    assert rows[0]["y"] == pytest.approx([1.4, 2.55], abs=0.012)
    assert not notes
    assert "no calibration data" in twin.run(layer, calibration, ["y"], recipe("int8"))[1][0]


def test_int8_results_lie_on_at_most_256_levels_unless_fused() -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.randn(1, 3, 40, 40)
    got = one(conv, x, recipe("int8"))
    levels = torch.unique(got)
    assert 100 < len(levels) <= 256
    assert float(got.min()) == 0  # the range is that of the ReLU's result: nothing is spent on what it cuts off


def test_batch_normalisation_is_folded_before_weights_are_rounded() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(6, 6, 3, bias=False), norm2d()).eval()
    x = torch.randn(1, 6, 9, 9)
    conv, norm = layer
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight, bias = (conv.weight * scale.reshape(-1, 1, 1, 1)).detach(), (norm.bias - norm.running_mean * scale).detach()
    got = one(layer, x, recipe("fp16", "storage")).float()
    assert torch.allclose(got, F.conv2d(x, weight.half().float(), bias.half().float()), atol=1e-6)


def test_constants_that_no_input_reaches_are_computed_before_they_are_rounded() -> None:
    """A weight that the module computes from its parameters is one constant to a converter."""
    module = Plain(lambda x, a, b: F.linear(x, a @ b), a=torch.randn(16, 8), b=torch.randn(8, 16))
    x = torch.randn(2, 16)
    want = F.linear(x, (module.a @ module.b).half().float())
    assert torch.allclose(one(module, x, recipe("fp16", "storage")).float(), want, atol=1e-5)


def test_buffers_written_in_place_are_data_and_the_module_keeps_its_own() -> None:
    class Cache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.cache[:1] = x * 3
            return self.cache * 1.7

    module, x = Cache(), torch.full((1, 4), 1.001)
    got = one(module, x, recipe("fp16", "compute"))
    assert torch.equal(got, got.half().double()) and float(got[0, 0]) != pytest.approx(1.001 * 3 * 1.7, rel=1e-5)
    assert not module.cache.any()


@pytest.mark.parametrize(("precision", "flavour"), FLAVOURS)
def test_in_place_and_out_variants_are_rounded_like_the_others(precision: str, flavour: str) -> None:
    def plain(x: Tensor, w: Tensor) -> Tensor:
        return F.silu(torch.addmm(x, x, w) * 1.7 + 0.3)

    def writing(x: Tensor, w: Tensor) -> Tensor:
        y = torch.empty_like(x)
        torch.mul(x.clone().addmm_(x, w), 1.7, out=y)
        y.add_(0.3)
        return F.silu(y, inplace=True)

    x, w = torch.randn(40, 40), torch.randn(40, 40)
    chosen = recipe(precision, flavour)
    assert torch.equal(one(Plain(writing, w=w), x, chosen), one(Plain(plain, w=w), x, chosen))


def test_control_flow_on_data_is_named() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) if float(x.sum()) > 0 else torch.exp(x) - 0.5 * x

    fed = [{"x": np.array(v, np.float32)} for v in ([3.0, -1.0], [-1.0, -1.0])]
    rows, notes = twin.run(Branch(), fed, ["y"], recipe("int8"), fed[:1])
    assert "control flow depends on the data" in notes[0]
    assert rows[1]["y"] == pytest.approx(np.exp(-1) + 0.5, abs=0.02)


def test_masked_attention_keeps_its_infinities() -> None:
    mask = torch.triu(torch.full((4, 4), float("-inf")), 1)
    module = Plain(lambda x: torch.softmax(x @ x.transpose(-1, -2) + mask, -1))
    for flavour in RECIPES["int8"]:
        got = one(module, torch.randn(1, 4, 8), recipe("int8", flavour))
        assert not torch.triu(got[0], 1).any()


LEAST = torch.finfo(torch.float32).min
MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "times": lambda scores, keep: scores + (1 - keep) * LEAST,
    "tensor": lambda scores, keep: scores + (1 - keep) * torch.tensor([LEAST]),
    "fill": lambda scores, keep: scores.masked_fill(keep == 0, LEAST),
    "where": lambda scores, keep: torch.where(keep == 0, torch.tensor(LEAST), scores),
}


@pytest.mark.parametrize("flavour", ["storage", "compute"])
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_by_the_float32_minimum_is_what_an_fp16_file_has(kind: str, flavour: str) -> None:
    """Converters hold it at -65504. As minus infinity it would make NaN of zero times it, and of a row all masked."""
    module = Plain(lambda x: torch.softmax(MASKS[kind](x @ x.transpose(-1, -2), (x[:, None, :, 0] > 0).float()), -1))
    x = torch.randn(1, 4, 8)
    x[0, :, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    got = one(module, x, recipe("fp16", flavour))
    assert got.isfinite().all() and not got[..., [1, 3]].any()
    x[0, :, 0] = -1
    assert one(module, x, recipe("fp16", flavour)).isfinite().all()


@pytest.mark.parametrize("flavour", ["storage", "compute"])
def test_what_a_mask_fills_in_is_a_constant_that_fp16_rounds(flavour: str) -> None:
    """-65000 is -64992 in every fp16 file."""
    x = torch.tensor([[1.0, -1.0]])
    in_place = Plain(lambda x: (2 * x).masked_fill_(x > 0, -65000.0))
    for module in (in_place, Plain(lambda x: (2 * x).masked_fill(x > 0, torch.tensor(-65000.0)))):
        assert one(module, x, recipe("fp16", flavour)).tolist() == [[-64992.0, -2.0]]
        assert one(module, x, recipe("fp32")).tolist() == [[-65000.0, -2.0]]


def test_an_infinite_constant_stays_infinite_in_fp16() -> None:
    assert grid.stored16(torch.tensor([1e6, -1e6, float("inf"), 0.1])).tolist() == [
        65504.0, -65504.0, float("inf"), float(np.float16(0.1))
    ]  # fmt: skip


def test_integer_inputs_and_outputs() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(10, 4)

        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
            return self.words(ids).sum(1), ids.clone()

    rows, _ = twin.run(Tokens(), [{"ids": np.array([[1, 2, 9]])}], ["y", "ids"], recipe("fp16", "compute"))
    assert rows[0]["ids"].dtype == np.int64 and rows[0]["y"].dtype == np.float64


def test_float64_modules_run_in_float32_and_say_so() -> None:
    _, notes = twin.run(nn.Linear(3, 3).double(), cases((1, 3), 1), ["y"], recipe("fp32"))
    assert "not float32" in notes[0]


def test_unknown_names_and_no_cases_are_refused() -> None:
    with pytest.raises(ParityError, match="no twin for precision 'fp8'"):
        recipe("fp8")
    with pytest.raises(ParityError, match="no flavour 'storage' of int8; there are: split, whole, ort"):
        recipe("int8", "storage")
    with pytest.raises(ParityError, match="at least one case"):
        twin.run(nn.Linear(3, 3), [], ["y"], recipe("fp32"))


def test_evaluate_has_the_shape_of_the_oracle() -> None:
    spec = ModelSpec(".", "torch.nn:Linear", {"in_features": 8, "out_features": 3})
    found = twin.evaluate(TwinRequest(spec, cases((2, 8)), ["y"], "fp16"))
    assert len(found.outputs) == 3
    assert found.outputs[0]["y"].shape == (2, 3) and found.outputs[0]["y"].dtype == np.float64
    assert next(iter(recipes.RECIPES["fp16"])) == "storage"


def test_ranges_are_measured_once_for_each_set_of_calibration_data(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"in_features": 8, "out_features": 3}
    spec = ModelSpec("once", "torch.nn:Linear", options)
    begun: list[str] = []
    begin = twin.Twin.begin
    monkeypatch.setattr(twin.Twin, "begin", lambda self, phase, seed=0: (begun.append(phase), begin(self, phase, seed)))
    fed, wide = cases((2, 8)), [{"x": np.full((2, 8), 9, np.float32)}]
    first, again, other = (twin.evaluate(TwinRequest(spec, fed, ["y"], "int8", c)).outputs for c in (fed, fed, wide))
    assert begun.count("calibrate") == len(fed) + len(wide)
    for row, same, coarse in zip(first, again, other, strict=True):
        assert np.array_equal(row["y"], same["y"]) and not np.array_equal(row["y"], coarse["y"])


class Placed(nn.Module):
    """A table that is sliced to the input's length, and a first state of the input's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 6), requires_grad=False)
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x + self.table[: x.shape[1]])[0]


@pytest.mark.parametrize(("precision", "flavour"), FLAVOURS)
def test_cases_of_other_sizes_in_one_call_are_those_of_calls_of_their_own(precision: str, flavour: str) -> None:
    torch.manual_seed(0)
    module, chosen = Placed().eval(), recipe(precision, flavour)
    cases = [{"x": np.random.default_rng(n).standard_normal((rows, n, 6)).astype(np.float32)}
             for rows, n in ((2, 9), (1, 1), (3, 7), (2, 9))]  # fmt: skip
    together, _ = twin.run(module, cases, ["y"], chosen, calibration=cases)
    for case, row in zip(cases, together, strict=True):
        (alone,), _ = twin.run(module, [case], ["y"], chosen, calibration=cases)
        limit = COST[precision] if chosen.jitter else 1e-12
        np.testing.assert_allclose(row["y"], alone["y"], atol=limit)


def test_a_mean_that_is_added_up_one_by_one_loses_what_pairs_keep() -> None:
    """What ONNX Runtime's GlobalAveragePool loses on flat pictures: found on efficientnet_b0."""
    flat = np.full((2, 3, 112, 112), 0.7, np.float32) * np.arange(1, 4, dtype=np.float32)[None, :, None, None]
    layer = Plain(lambda x: x.mean((2, 3), keepdim=True))
    want = flat.astype(np.float64).mean((2, 3), keepdims=True)
    errors = {}
    for flavour in RECIPES["fp32"]:
        (row,), _ = twin.run(layer, [{"x": flat}], ["y"], recipe("fp32", flavour))
        assert row["y"].shape == want.shape
        errors[flavour] = float(np.abs(row["y"] / want - 1).max())
    assert errors["plain means"] > 1e-5 > 1e-6 > errors["order"]
    single = np.abs(np.arange(4, dtype=np.float32)[None])
    (row,), _ = twin.run(Plain(lambda x: x.mean()), [{"x": single}], ["y"], recipe("fp32", "plain means"))
    assert row["y"] == pytest.approx(1.5) and row["y"].shape == ()


class Spectrum(nn.Module):
    """A logarithm, which ONNX Runtime does not quantise, of a sum, which it does, before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(1, 4, 8, stride=4), nn.Conv1d(4, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(torch.log(self.enter(x).pow(2) + 1e-6))


def test_what_enters_a_product_is_on_a_grid_whatever_made_it() -> None:
    """The sum rounds to 0, its logarithm is minus infinity, and the file has the lowest level there."""
    torch.manual_seed(0)
    module = Spectrum().eval()
    rng = np.random.default_rng(0)
    cases = [{"x": rng.uniform(-1, 1, (1, 1, 64)).astype(np.float32)} for _ in range(8)]
    rows, _ = twin.run(module, cases, ["y"], recipe("int8", "ort"), cases)
    assert all(np.isfinite(row["y"]).all() for row in rows)
    seen = []
    before = module.leave.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    twin.run(module, cases[:1], ["y"], recipe("int8", "ort"), cases)
    before.remove()
    assert any(torch.isinf(value).any() for value in seen)  # the case is one


@pytest.mark.parametrize(("words", "rounded"), [(200, True), (20, False)])
def test_tables_are_rounded_where_hybrid_files_store_them_as_integers(words: int, rounded: bool) -> None:
    """TFLite's converter gives a table one symmetric scale, and leaves it in float below 1,024 elements."""
    torch.manual_seed(0)
    table = nn.Embedding(words, 8)
    ids = {"x": np.arange(words)}
    (row,), _ = twin.run(table, [ids], ["y"], recipe("dynamic", "hybrid"))
    weight = table.weight.detach().double().numpy()
    step = np.abs(weight).max() / 127
    want = np.rint(weight / step) * step if rounded else weight
    np.testing.assert_allclose(row["y"], want, atol=1e-6)


DRAWN = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return DRAWN.standard_normal(shape).astype(np.float32)


def rounded(module: nn.Module, cases: list[np.ndarray], flavour: str) -> list[np.ndarray]:
    rows, _ = twin.run(module, [{"x": x} for x in cases], ["y"], recipe("int8", flavour))
    return [row["y"] for row in rows]


BESIDE = {
    "where": lambda x: torch.where(x > 1, torch.full_like(x, -1e9), x * 2),
    "fill": lambda x: (x * 2).masked_fill(x > 1, -1e9),
    "add": lambda x: x * 2 + torch.where(x > 1, -1e9, 0.0),
    "join": lambda x: torch.cat([x * 300, torch.sigmoid(x)], 1),
}


@pytest.mark.parametrize("flavour", RECIPES["int8"])
@pytest.mark.parametrize("name", BESIDE)
def test_an_output_at_int8_is_not_lost_beside_far_larger_elements(name: str, flavour: str) -> None:
    """Its floor is that of the best placement: small elements have no grid in common with a mask, or with pixels."""
    module = Plain(BESIDE[name])
    cases = [normal(2, 8) for _ in range(4)] + [normal(2, 8).clip(None, 0.9)]  # one without a masked element
    for x, y in zip(cases, rounded(module, cases, flavour), strict=True):
        want = module(torch.from_numpy(x).double()).numpy()
        small = np.abs(want) < 1e6 if name != "join" else np.arange(16) >= 8 + 0 * np.abs(want)
        error = np.sqrt(np.square(y - want)[small].mean() / np.square(want)[small].mean())
        assert error < 0.03


def test_what_operators_read_again_has_one_grid() -> None:
    """A runtime that quantises a softmax has one grid for what it reads."""
    scores = Plain(lambda x: torch.where(x > 1, torch.full_like(x, -1e9), x * 2).softmax(-1))
    (y,) = rounded(scores, [np.array([[0.9, -0.5, 2.0, 0.1]], np.float32)], "whole")
    assert np.allclose(y[0, [0, 1, 3]], 1 / 3, atol=0.01)
