"""What can be found out about a model by making it and running it once, so that nobody has to be asked. In a child.

Sources, in order: what the command line says; what the module says of itself (`example_input_array` of Lightning,
`dummy_inputs` of Hugging Face, `pretrained_cfg` of timm); its first layer, where that takes vectors.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.commands.messages import Discovered, DiscoveryRequest
from parity.core.contract import Contract, InputSpec
from parity.core.errors import ParityError
from parity.process.child import stage
from parity.reference import modelling

BATCH = "batch"
INDICES = re.compile(r"ids?$|ids?_|token|mask|index|indices|position|length")


def discover(request: DiscoveryRequest) -> Discovered:
    """The contract of a model that states none. Raises ParityError with one line that says what to add where something
    cannot be found out, or does not run."""
    given, outputs = request.given, request.outputs
    module = modelling.load(request.model)
    stage("run")
    names = _arguments(module)
    own = _stated(module, names)
    inputs = [dict(i) for i in given] or own
    for i, entry in enumerate(inputs):
        if not entry["name"]:
            entry["name"] = names[i] if i < len(names) else f"input_{i}"
        known = next((o for o in own if o["name"] == entry["name"]), {})
        for key in ("dtype", "range"):
            if key in known:
                entry.setdefault(key, known[key])
    if not inputs:
        first = names[0] if names else "image"
        raise ParityError(f"the shape of the input {first!r} cannot be found out: add --input {first}=batch,3,224,224")
    lacking = [n for n in _required(module) if n not in {i["name"] for i in inputs}]
    if lacking and len(inputs) < len(_required(module)):
        raise ParityError(f"forward() also needs {', '.join(lacking)}: add --input {lacking[0]}=DIMS")
    inputs, found = _runnable(module, inputs)
    if outputs and len(outputs) != len(found):
        raise ParityError(
            f"the model returns {len(found)} outputs, --output names {len(outputs)}: {', '.join(outputs)}"
        )
    return Discovered(inputs, list(outputs) or found, _preprocess(module))


def _arguments(module: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]


def _required(module: nn.Module) -> list[str]:
    parameters = inspect.signature(module.forward).parameters
    return [n for n in _arguments(module) if parameters[n].default is inspect.Parameter.empty]


def _stated(module: nn.Module, names: Sequence[str]) -> list[dict[str, Any]]:
    """The inputs that the module itself gives an example of."""
    example = getattr(module, "example_input_array", None)
    if example is None:
        example = getattr(module, "dummy_inputs", None)
    if isinstance(example, torch.Tensor):
        example = (example,)
    if isinstance(example, (tuple, list)):
        example = dict(zip(names, example, strict=False))
    if (
        isinstance(example, Mapping)
        and all(isinstance(v, torch.Tensor) and v.ndim for v in example.values())
        and example
    ):
        words = getattr(getattr(module, "config", None), "vocab_size", None)
        return [_entry(str(name), value, words) for name, value in example.items() if not names or name in names]
    size = _settings(module).get("input_size")
    if size and len(size) == 3 and names:
        return [{"name": names[0], "shape": [BATCH, *map(int, size)], "dtype": "float32"}]
    first = next((m for m in module.modules() if not list(m.children())), None)
    if isinstance(first, nn.Linear) and len(_required(module)) == 1:
        return [{"name": names[0], "shape": [BATCH, first.in_features], "dtype": "float32"}]
    return []


def _entry(name: str, value: torch.Tensor, words: int | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "shape": [BATCH, *value.shape[1:]]}
    entry["dtype"] = str(value.dtype).removeprefix("torch.")
    if not value.is_floating_point() and value.dtype != torch.bool:
        high = int(words) - 1 if words and "ids" in name else int(value.max())
        entry["range"] = [0, max(high, 1)]
    return entry


def _settings(module: nn.Module) -> Mapping[str, Any]:
    """timm's description of how a model was trained."""
    found = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    return found if isinstance(found, Mapping) else {}


def _preprocess(module: nn.Module) -> dict[str, Any] | None:
    settings = _settings(module)
    if not settings.get("mean") or not settings.get("std"):
        return None
    found: dict[str, Any] = {"mean": [float(v) for v in settings["mean"]], "std": [float(v) for v in settings["std"]]}
    if settings.get("interpolation") in ("bilinear", "bicubic"):
        found["resize"] = settings["interpolation"]
    return found


def _runnable(module: nn.Module, inputs: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Inputs of stated types, and the outputs that they give: floats where the model takes them, else integers for what
    is called an index, up to the size of its first table."""
    floats = [{"dtype": "float32", **entry} for entry in inputs]
    try:
        return floats, _run(module, floats)
    except ParityError:
        rows = next((m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)), 2)
        whole = [_integers(e, rows) if INDICES.search(e["name"]) else {"dtype": "float32", **e} for e in inputs]
        if whole == floats:
            raise
        try:
            return whole, _run(module, whole)
        except ParityError:  # the first attempt is what was asked for
            pass
        raise


def _integers(entry: Mapping[str, Any], rows: int) -> dict[str, Any]:
    most = 1 if "mask" in entry["name"] or "type" in entry["name"] else rows - 1
    return {"dtype": "int64", **entry, **({} if "range" in entry else {"range": [0, most]})}


def _run(module: nn.Module, inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Run once on drawn inputs; the names of the outputs."""
    from parity.cases import draw

    specs = tuple(
        InputSpec(i["name"], tuple(i["shape"]), i["dtype"], tuple(i["range"]) if i.get("range") else None)
        for i in inputs
    )
    contract = Contract(specs, ())
    drawn = draw.inputs(contract, contract.example(), 0)
    try:
        with torch.no_grad():
            result = module(*(torch.from_numpy(np.array(v)) for v in drawn.values()))
    except Exception as error:
        shapes = ", ".join(f"{n} {list(v.shape)} {v.dtype}" for n, v in drawn.items())
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ParityError(f"the model does not run on {shapes}: {lines[0][:200]}") from error
    if isinstance(result, Mapping):
        bad = [k for k, v in result.items() if not isinstance(v, torch.Tensor)]
        names = [str(k) for k in result]
    else:
        values = result if isinstance(result, (tuple, list)) else (result,)
        bad = [str(i) for i, v in enumerate(values) if not isinstance(v, torch.Tensor)]
        names = ["output"] if len(values) == 1 else [f"output_{i}" for i in range(len(values))]
    if bad:
        raise ParityError(f"the model's output {bad[0]} is not a tensor: let the factory wrap the model so that "
                          "forward() returns tensors only (docs/models.md)")  # fmt: skip
    return names
