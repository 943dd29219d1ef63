"""Faults seeded for real into exports of `skin`: on the torch side before the export, or in the file afterwards.

Each says by which link it must be found and whom that link must name. `tests/proof` and `research/proof.py` share
this list, and the exports that it asks for.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from parity import formats as targets
from parity.cases import golden
from parity.config import load
from parity.core.settings import ModelConfig, ModelSpec
from parity.process import steps
from parity.reference import modelling

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("int8", "dynamic", "fp16", "fp32")
Change = Callable[[nn.Module], "nn.Module | None"]


@dataclass(frozen=True)
class Fault:
    """A change to the module that a converter must not make. One of `links` must name `culprit`; `benign_at` lists the
    precisions whose own rounding covers it; `only` the target that can be made to hold it."""

    name: str
    change: Change
    links: str
    culprit: str
    benign_at: tuple[str, ...] = ()
    only: str = ""


@functools.cache
def config() -> ModelConfig:
    return load(ROOT / "pyproject.toml", targets.facts()).models["skin"]


def spec(fault: str = "") -> ModelSpec:
    """What makes the module: the untouched one, or the one with a fault."""
    own = config()
    if fault:
        return ModelSpec(str(ROOT), "tests.proof.seeded:faulty", {"fault": fault})
    return ModelSpec(str(ROOT), own.factory, dict(own.options), str(own.checkpoint))


def faulty(fault: str) -> nn.Module:
    """The factory of a faulty module."""
    module = copy.deepcopy(modelling.load(spec()))
    change = next(f.change for f in FAULTS if f.name == fault)
    with torch.no_grad():
        return change(module) or module


def cases(kind: str = "golden", count: int | None = None) -> list[dict[str, Any]]:
    """Golden or calibration inputs by name."""
    own = config()
    folder = own.golden if kind == "golden" else own.calibration
    assert folder is not None
    return [dict(case.inputs) for case in golden.load(folder, own.contract)[:count]]


# Changes to the module.


class Around(nn.Module):
    """A module with something done to its input and its output."""

    def __init__(self, inner: nn.Module, before: Any = None, after: Any = None):
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x) if self.before else x
        x = self.inner(x)
        return self.after(x) if self.after else x


class SamePadding(nn.Module):
    """A convolution of stride 2 that pads as TensorFlow's SAME does: more at the end than at the start."""

    def __init__(self, inner: nn.Conv2d):
        super().__init__()
        self.inner = copy.deepcopy(inner)
        self.total = self.inner.kernel_size[0] - self.inner.stride[0]
        self.inner.padding = (0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.total // 2
        high = self.total - low
        return self.inner(functional.pad(x, (low, high, low, high)))


class ShortPool(nn.Module):
    """A global average pool that leaves out the last row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, :-1].mean((2, 3), keepdim=True)


class CountingPool(nn.Module):
    """A global average pool that counts a border of padding of one row and one column."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        return x.mean((2, 3), keepdim=True) * (height * width / ((height + 1) * (width + 1)))


def put(path: str, new: Callable[[nn.Module], nn.Module]) -> Change:
    def change(module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, new(module.get_submodule(path)))

    return change


def every(kind: type[nn.Module], act: Callable[[nn.Module], nn.Module | None]) -> Change:
    def change(module: nn.Module) -> None:
        for name, part in list(module.named_modules()):
            if isinstance(part, kind) and (new := act(part)) is not None:
                put(name, lambda _, new=new: new)(module)

    return change


def weights(path: str, act: Callable[[torch.Tensor], Any]) -> Change:
    """Change one tensor in place, or by what `act` returns."""

    def change(module: nn.Module) -> None:
        tensor = module.get_parameter(path) if path in dict(module.named_parameters()) else module.get_buffer(path)
        new = act(tensor)
        if isinstance(new, torch.Tensor):
            tensor.copy_(new)

    return change


def all_weights(act: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change every convolution and linear weight. BatchNorm is folded first, as the converter would have done."""

    def change(module: nn.Module) -> None:
        fold(module)
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                part.weight.copy_(act(part.weight))

    return change


def fold(module: nn.Module) -> None:
    """Every Conv2d followed by a BatchNorm2d in a Sequential becomes one Conv2d."""
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            following = str(int(name) + 1) if name.isdigit() else ""
            if isinstance(child, nn.Conv2d) and isinstance(norm := getattr(part, following, None), nn.BatchNorm2d):
                setattr(part, name, torch.nn.utils.fusion.fuse_conv_bn_eval(child, norm))
                setattr(part, following, nn.Identity())


def older(tensor: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7))
    return tensor + 0.2 * tensor.std() * noise


def ten_bits(tensor: torch.Tensor) -> torch.Tensor:
    step = tensor.abs().max() / 1023
    return (tensor / step).round() * step


def swap(first: int, second: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def act(tensor: torch.Tensor) -> torch.Tensor:
        order = list(range(len(tensor)))
        order[first], order[second] = second, first
        return tensor[order]

    return act


def zero(index: Any) -> Callable[[torch.Tensor], None]:
    return lambda tensor: tensor.__setitem__(index, 0)


def scaled(index: Any, factor: float) -> Callable[[torch.Tensor], None]:
    return lambda tensor: tensor.__setitem__(index, tensor[index] * factor)


def epsilon(norm: nn.Module) -> None:
    norm.eps = 1e-3  # type: ignore[assignment]


def no_residual(block: nn.Module) -> nn.Module:
    block.residual = False  # type: ignore[assignment]
    return block


_MID = "features.3.1.block"
FAULTS: tuple[Fault, ...] = (
    Fault("stale layer", weights(f"{_MID}.0.0.weight", older), "audit", f"{_MID}.0.0.weight"),
    Fault("stale BatchNorm mean", weights(f"{_MID}.0.1.running_mean", older), "audit", f"{_MID}.0.0.bias"),
    Fault("final bias dropped", weights("classifier.1.bias", zero(...)), "audit lift", "classifier.1.bias"),
    Fault("a bias dropped", weights(f"{_MID}.2.fc1.bias", zero(...)), "audit lift", f"{_MID}.2.fc1.bias"),
    Fault("channel dead", weights("features.2.0.block.0.0.weight", zero(5)), "audit", "features.2.0.block.0.0.weight"),
    Fault("one sign", weights("features.4.0.block.3.0.weight", scaled((7, 3), -1)), "audit", "features.4.0.block.3.0"),
    Fault("bit flip", weights("features.4.1.block.0.0.weight", scaled((9, 4), 2)), "audit", "features.4.1.block.0.0"),
    Fault("two channels swapped", weights(f"{_MID}.1.0.weight", swap(3, 11)), "audit", f"{_MID}.1.0.weight"),
    Fault("kernel mirrored", weights(f"{_MID}.1.0.weight", lambda w: w.flip(3)), "audit", f"{_MID}.1.0.weight"),
    Fault("kernel transposed", weights(f"{_MID}.1.0.weight", lambda w: w.mT.clone()), "audit", f"{_MID}.1.0.weight"),
    Fault("BGR stem", weights("features.0.0.weight", lambda w: w.flip(1)), "audit", "features.0.0.weight"),
    Fault("classes swapped", lambda m: (weights("classifier.1.weight", swap(2, 5))(m),
                                        weights("classifier.1.bias", swap(2, 5))(m))[0],
          "audit", "classifier.1.weight"),
    Fault("weights clipped", weights("features.5.0.weight", lambda w: w.clamp(-2 * w.std(), 2 * w.std())),
          "audit", "features.5.0.weight"),
    Fault("10 bits", all_weights(ten_bits), "audit", "features."),
    Fault("bfloat16 weights", all_weights(lambda w: w.bfloat16().float()), "audit", "features."),
    Fault("fp16 weights", all_weights(lambda w: w.half().float()), "audit", "features.", benign_at=("fp16",)),
    Fault("BatchNorm epsilon", every(nn.BatchNorm2d, epsilon), "lift", "features."),
    Fault("one epsilon", lambda m: epsilon(m.get_submodule("features.4.2.block.1.1")), "lift", "features.4.2.block.1"),
    # onnx2tf cannot convert the explicit asymmetric padding; for TFLite the file is edited instead.
    Fault("SAME padding", put("features.2.0.block.1.0", SamePadding), "lift", "features.2.0.block", only="onnx"),
    Fault("hard-swish for SiLU", every(nn.SiLU, lambda _: nn.Hardswish()), "lift", "features.0.0"),
    Fault("one hard-swish", put("features.4.0.block.0.2", lambda _: nn.Hardswish()), "lift", "features.4.0.block"),
    Fault("hard-sigmoid gates", every(nn.Sigmoid, lambda _: nn.Hardsigmoid()), "lift", "features.1.0.block"),
    Fault("ReLU6 for SiLU", put("features.5.2", lambda _: nn.ReLU6()), "lift", "features.5.0"),
    Fault("pool leaves out a row", put("avgpool", lambda _: ShortPool()), "lift", "features.5.0"),
    Fault("pool counts padding", put("avgpool", lambda _: CountingPool()), "lift", "features.5.0"),
    Fault("residual dropped", put("features.4.1", no_residual), "lift", "features.4."),
    Fault("logits x 1.05", lambda m: Around(m, after=lambda y: y * 1.05), "lift", "classifier.1"),
    Fault("logits x 1.001", lambda m: Around(m, after=lambda y: y * 1.001), "lift", "classifier.1"),
    Fault("softmax added", lambda m: Around(m, after=lambda y: y.softmax(1)), "lift", "classifier.1"),
    Fault("1/256 for 1/255", lambda m: Around(m, before=lambda x: x * (255 / 256)), "lift", "features.0.0"),
    Fault("mean twice", lambda m: Around(m, before=lambda x: x - 0.45), "lift", "features.0.0"),
    Fault("shifted one pixel", lambda m: Around(m, before=lambda x: torch.cat((x[..., :1], x[..., :-1]), 3)), "lift",
          "features.0.0"),
    Fault("mirrored input", lambda m: Around(m, before=lambda x: x[..., list(range(95, -1, -1))]), "lift",
          "features.0.0"),
)  # fmt: skip


# Exports. One export of a module gives the files of every precision.


def export(work: Path, target: str, precisions: tuple[str, ...], fault: str = "", **options: Any) -> dict[str, Path]:
    """Files of `skin` by precision below `work`, with a fault in the module; `options` go to `tune`."""
    own = config()
    subject = Subject(
        (fault or "clean").replace(" ", "_").replace("/", "_"),
        spec(fault),
        {
            "inputs": [{"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in own.contract.inputs],
            "outputs": [{"name": o.name} for o in own.contract.outputs],
        },
        tune(cases("calibration"), **options),
    )
    return convert(subject, work, target, precisions, "".join(f"-{k}-{v}" for k, v in options.items()))


@dataclass(frozen=True)
class Subject:
    """What is exported: the module, its inputs and outputs, and calibration data, whose first row is the example."""

    name: str
    model: ModelSpec
    contract: Mapping[str, Any]
    calibration: list[dict[str, Any]]


def convert(
    subject: Subject, work: Path, target: str, precisions: tuple[str, ...], suffix: str = ""
) -> dict[str, Path]:
    """Files by precision; those that are there already are kept."""
    base = work / target / subject.name
    folders = {p: base / f"{p}{suffix}" for p in precisions}
    missing = {p: folder for p, folder in folders.items() if not (folder / "manifest.json").exists()}
    if not missing:
        return folders
    onnx_options = {"opset": config().opset, "dynamic": target == "onnx"}
    tools = {"int8": "to_int8", "dynamic": "to_dynamic", "fp16": "to_fp16", "fp32": "export"}
    with contextlib.redirect_stdout(io.StringIO()):
        after = _step(subject, base / "source", "onnx:export", None, onnx_options)
        if target == "tflite":
            after = _step(subject, base / "saved", "tflite:to_saved_model", after, {})
        for p, folder in missing.items():
            if target == "tflite":
                _step(subject, folder, "tflite:convert", after, {"precision": p})
            else:
                _step(subject, folder, f"onnx:{tools[p]}", after, onnx_options)
    return folders


def per_tensor(int8: Path, folder: Path) -> Path:
    """The same int8 file with one scale a weight tensor, which TFLite allows."""
    import tensorflow as tf

    if (folder / "manifest.json").exists():
        return folder
    converter = tf.lite.TFLiteConverter.from_saved_model(str(int8.with_name("saved")))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        {n: v.transpose(0, 2, 3, 1) for n, v in row.items()} for row in cases("calibration")
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel = True
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(converter.convert())
    (folder / "manifest.json").write_bytes((int8 / "manifest.json").read_bytes())
    return folder


def tune(rows: list[dict[str, Any]], calibration: str = "own") -> list[dict[str, Any]]:
    """The calibration set under another name: a half of it, darkened (a wrong domain), or noise."""
    if calibration == "half":
        return rows[: len(rows) // 2]
    if calibration == "dark":
        return [{n: (v * 0.3).astype(v.dtype) for n, v in row.items()} for row in rows]
    if calibration == "noise":
        rng = np.random.default_rng(0)
        return [{n: rng.random(v.shape, v.dtype) for n, v in row.items()} for row in rows]
    return rows


def _step(subject: Subject, folder: Path, function: str, after: Path | None, options: Mapping[str, Any]) -> Path:
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        request = steps.StepRequest(
            "parity.formats." + function.replace(":", ".convert:"),
            "convert",
            str(folder),
            str(after) if after else None,
            options,
            subject.model,
            subject.contract,
            subject.calibration[0],
            subject.calibration,
        )
        made = steps.run(request)
        (folder / "manifest.json").write_text(json.dumps({"notes": made}))
    return folder


def notes(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["notes"])
