"""The registry of targets. A target is one file here, or a class that a project or an installed extension registers."""

from __future__ import annotations

import importlib

from parity import extensions
from parity.errors import ParityError
from parity.targets.base import Target

_BUILT_IN = {
    "onnx": "parity.targets.onnx:Onnx",
    "tflite": "parity.targets.tflite:TFLite",
    "coreml": "parity.targets.coreml:CoreML",
    "coreml_nn": "parity.targets.coreml:CoreMLNeuralNetwork",
    "coreai": "parity.targets.coreai:CoreAI",
    "ncnn": "parity.targets.ncnn:Ncnn",
    "torchscript": "parity.targets.torch_files:TorchScript",
    "exported": "parity.targets.torch_files:Exported",
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
