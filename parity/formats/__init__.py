"""The registry of targets. A target is one file here, or a class that a project or an installed extension registers."""

from __future__ import annotations

import importlib

from parity.core import extensions
from parity.core.errors import ParityError
from parity.formats.target import Target

_BUILT_IN = {
    "onnx": "parity.formats.onnx.target:Onnx",
    "tflite": "parity.formats.tflite.target:TFLite",
    "coreml": "parity.formats.coreml.target:CoreML",
    "coreml_nn": "parity.formats.coreml.target:CoreMLNeuralNetwork",
    "coreai": "parity.formats.coreai.target:CoreAI",
    "ncnn": "parity.formats.ncnn.target:Ncnn",
    "torchscript": "parity.formats.torch.target:TorchScript",
    "exported": "parity.formats.torch.target:Exported",
}
_registered: dict[str, Target] = {}


def register_target(target: type[Target]) -> type[Target]:
    """Make a target known by its name; usable as a class decorator."""
    _registered[target.name] = target()
    return target


def get(name: str) -> Target:
    """The target of that name. Raises ParityError when none has it."""
    if name not in _registered:
        extensions.load()
    if name not in _registered:
        if name not in _BUILT_IN:
            raise ParityError(f"no target {name!r} in this version; there are: {', '.join(names())}")
        module, _, attribute = _BUILT_IN[name].partition(":")
        _registered[name] = getattr(importlib.import_module(module), attribute)()
    return _registered[name]


def names() -> tuple[str, ...]:
    """Every target that a cell may name: built in, then registered. Raises ConfigError for a broken extension."""
    extensions.load()
    return tuple(dict.fromkeys((*_BUILT_IN, *_registered)))
