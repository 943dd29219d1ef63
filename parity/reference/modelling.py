"""The PyTorch side, in a child process only: make the module, load its weights without running foreign code, and
name what it is by a fingerprint that changes whenever it would compute something else."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import traceback
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.core.errors import ParityError
from parity.core.settings import ModelSpec
from parity.files import archives, npz
from parity.process import child
from parity.reference import description, files, provenance, reads

_loaded: dict[str, nn.Module] = {}


def load(spec: ModelSpec) -> nn.Module:
    """The module of `spec` in eval mode, on the CPU, as float32.

    Kept for the life of the child. Raises ParityError with one line when the factory, the file or the checkpoint is no
    good.
    """
    key = repr(spec)
    if key not in _loaded:
        _loaded[key] = _made(spec)
    return _loaded[key]


def _made(spec: ModelSpec) -> nn.Module:
    """A module that nothing has run yet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with reads.making(spec):
        module = _make(spec)
    if spec.checkpoint:
        with reads.unheard():
            load_checkpoint(module, Path(spec.checkpoint), spec.whole_module)
    return module.eval().requires_grad_(False)


def _make(spec: ModelSpec) -> nn.Module:
    if spec.reference:
        options = spec.options
        return files.module(Path(spec.reference), options["inputs"], options["outputs"], options.get("left", ""))
    name, _, attribute = spec.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(name), attribute)
    except ImportError as error:
        raise ParityError(f"factory {spec.factory}: cannot import {name!r} from {spec.root}: {error}") from error
    except AttributeError:
        raise ParityError(f"factory {spec.factory}: module {name!r} has no {attribute!r}") from None
    options = dict(spec.options)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ParityError(f"factory {spec.factory}: options {options}: {error}") from None
    try:
        module = factory(**options)
    except ParityError:
        raise
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or ["no message"]
        raise ParityError(f"factory {spec.factory} raised {type(error).__name__}: {lines[0]:.200}") from None
    if not isinstance(module, nn.Module):
        raise ParityError(f"factory {spec.factory} returned {type(module).__name__}, not a torch.nn.Module")
    return module


def load_checkpoint(module: nn.Module, path: Path, whole_module: bool = False) -> None:
    """Load `path` (.safetensors, .npz, .pt, .pth) strictly into `module`; nothing in the file is ever executed, unless
    `whole_module` says that the user vouches for a pickled one."""
    state = read_checkpoint(path, whole_module)
    if callable(rename := getattr(module, "adapt_state_dict", None)):  # a model that knows other names of its tensors
        try:
            state = rename(state)
        except (ValueError, KeyError) as error:
            raise ParityError(f"checkpoint {path.name}: {error}") from None
    own = module.state_dict()
    missing = sorted(k for k in own if k not in state and not k.endswith("num_batches_tracked"))
    unknown = sorted(k for k in state if k not in own)
    if missing or unknown:
        what = [f"lacks {len(missing)}, first {missing[0]!r}"] if missing else []
        what += [f"has {len(unknown)} that the model does not know, first {unknown[0]!r}"] if unknown else []
        raise ParityError(f"checkpoint {path.name}: of the model's tensors it {' and '.join(what)}")
    for name, value in state.items():
        if own[name].shape != value.shape:
            raise ParityError(
                f"checkpoint {path.name}: {name!r} is {list(value.shape)} there, {list(own[name].shape)} in the model"
            )
    module.load_state_dict(state, strict=False)


def read_checkpoint(path: Path, whole_module: bool = False) -> dict[str, torch.Tensor]:
    """The tensors in a checkpoint file by name. Raises ParityError with one line for anything else.

    `whole_module` unpickles a .pt or .pth file without restriction, which runs whatever code it holds, and takes the
    tensors of the module that comes out.
    """
    try:
        if whole_module and path.suffix in (".pt", ".pth", ".ckpt"):
            value = torch.load(path, map_location="cpu", weights_only=False)
            return _state_dict(value.state_dict() if isinstance(value, nn.Module) else value, path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".npz":
            # Half: while the arrays become parameters, both are there.
            arrays = npz.load(path, most_bytes=child.memory // 2)
            return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        if path.suffix in (".pt", ".pth", ".ckpt"):
            if zipfile.is_zipfile(path):
                archives.check_sizes(zipfile.ZipFile(path).infolist(), most_bytes=child.memory // 2)
            return _state_dict(torch.load(path, map_location="cpu", weights_only=True), path)
    except ParityError:
        raise
    except Exception as error:
        text = str(error)
        pickled = path.is_file() and path.read_bytes()[:1] in (b"P", b"\x80")  # a zip archive, or a bare pickle
        if pickled and any(w in text for w in ("weights_only", "WeightsUnpickler", "Unsupported global")):
            raise ParityError(
                f"checkpoint {path.name}: holds more than tensors and would run code when loaded; refused. "
                "Save model.state_dict() instead, best as .safetensors (parity export --allow-whole-module runs it)"
            ) from None
        first = text.strip().splitlines()[0][:160] if text.strip() else type(error).__name__
        raise ParityError(f"checkpoint {path.name}: damaged, or not a {path.suffix} checkpoint ({first})") from None
    raise ParityError(f"checkpoint {path.name}: unknown format; use .safetensors, .npz, .pt or .pth")


def _state_dict(value: Any, path: Path) -> dict[str, torch.Tensor]:
    for name in ("state_dict", "model_state_dict", "model", "ema"):
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            value = value[name]
    if not isinstance(value, dict) or not value or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise ParityError(f"checkpoint {path.name}: holds no state dict of tensors")
    return {str(k).removeprefix("module."): v for k, v in value.items()}


def fingerprint(spec: ModelSpec) -> dict[str, str]:
    """What the model is, in hashes of its parts; two models with the same fingerprint compute the same.

    "weights": every parameter and buffer by name, dtype, shape and bytes. "structure": every submodule's class and
    plain attributes (strides, epsilons, flags), and which factory made it with which options. "attributes": all else
    that can be reached from the module, with the functions and classes that compute with it. "source": the files that
    define any of this, in the project or not, and what they import. "package NAME": the version of each distribution
    that any of this comes from. The module is one that has not run yet: running may leave something in its attributes.
    """
    module = _made(spec) if repr(spec) in _loaded else load(spec)
    root = Path(spec.root)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    found = description.describe(module, root, tensors)
    source, packages = provenance.sources({spec.factory.partition(":")[0], *found.modules})
    return {
        "weights": _weights(tensors),
        "structure": _structure(spec, module),
        "attributes": found.digest,
        "source": source,
        **{f"package {name}": version for name, version in packages.items()},
    }


def _weights(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def _structure(spec: ModelSpec, module: nn.Module) -> str:
    digest = hashlib.sha256(json.dumps([spec.factory, spec.options], sort_keys=True, default=repr).encode())
    for name, part in module.named_modules():
        plain = {k: v for k, v in sorted(vars(part).items()) if not k.startswith("_") and _is_plain(v)}
        digest.update(f"{name}\0{type(part).__module__}.{type(part).__qualname__}\0{plain!r}\n".encode())
    return digest.hexdigest()


def _is_plain(value: Any, depth: int = 3) -> bool:
    """Whether a value is a number, a text, or lists of these a few levels deep: its text is then the same in every
    process."""
    if isinstance(value, (tuple, list)):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return isinstance(value, (int, float, str, bool, type(None)))


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """The module's own attention: the fused path that stands in for it cannot be traced, and computes otherwise."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def forward(module: nn.Module, inputs: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The module's outputs by name. Inputs go in by position, in the order given; outputs come as a tensor, a tuple in
    the declared order, or a dict by name. Raises ParityError when count or names do not match what was declared."""
    with torch.no_grad():
        result = module(*inputs.values())
    if isinstance(result, torch.Tensor):
        result = (result,)
    if isinstance(result, Mapping):
        if set(result) != set(names):
            raise ParityError(f"the model returns outputs {sorted(result)}, declared are {sorted(names)}")
        result = tuple(result[name] for name in names)
    if not isinstance(result, (tuple, list)):
        result = (result,)
    if len(result) != len(names):
        raise ParityError(f"the model returns {len(result)} outputs, declared are {len(names)}: {', '.join(names)}")
    if not all(isinstance(value, torch.Tensor) for value in result):
        raise ParityError("the model returns something that is not a tensor: wrap it so that it returns tensors only")
    return dict(zip(names, result, strict=True))
