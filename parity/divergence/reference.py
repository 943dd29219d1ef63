"""What every intermediate tensor should be, and what the precision costs it; with module path and source line.

The untouched module runs in float64 under the twin's dispatch mode, which sees each ATen operator. Then the twin runs
twice: as it is, for the error that has gathered at each place, and with every result put right again before the next
operator reads it, for the error that each place adds. Tensors lie in a file each, so that memory holds one at a time.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from parity.core.settings import ModelSpec
from parity.reference import modelling, twin
from parity.reference.copying import copied
from parity.reference.dispatch import Place, Twin
from parity.reference.recipes import Recipe, recipe

Array = np.ndarray[Any, np.dtype[Any]]
Pass = Literal["exact", "plan", "calibrate", "gathered", "added"]
LARGEST = 2**22  # elements: what a sketch is taken of; larger tensors are sampled evenly


@dataclass
class Value:
    """One intermediate tensor of the reference. Errors are rms, in the tensor's own units."""

    number: int
    shape: tuple[int, ...]
    rms: float
    sketch: Array  # five figures that no layout changes
    layer: str
    source: str
    kind: str
    reads: tuple[int, ...]  # the values that it is computed from
    gathered: float = 0.0
    added: float = 0.0


class Reference:
    """All values of one module on one case. A context manager: the files go with it."""

    def __init__(
        self,
        model: ModelSpec,
        case: Mapping[str, Array],
        outputs: Sequence[str],
        precision: str,
        flavour: str | None = None,
        calibration: Sequence[Mapping[str, Array]] = (),
    ):
        self.precision, self.case = precision, case
        self.folder = Path(tempfile.mkdtemp(prefix="divergence-"))
        self.values: list[Value] = []
        module = modelling.load(model)
        self.name = type(module).__name__
        watched = _Watched(recipe(precision, flavour), self)
        exact = True
        try:
            double = copied(module).double()
            watched.run(double, case, outputs, "exact", torch.float64)
            del double
        except RuntimeError:
            exact = False
        single = copied(module)
        if not exact:
            watched.run(single, case, outputs, "exact", torch.float32)
        watched.run(single, case, outputs, "plan", torch.float32)
        if watched.recipe.activations == "int8":
            for other in calibration or [case]:
                watched.run(single, other, outputs, "calibrate", torch.float32)
        passes: tuple[Pass, Pass] = ("gathered", "added")
        for what in passes:
            watched.run(single, case, outputs, what, torch.float32)
        for value in self.values:
            if value.kind == "move" and value.reads:  # has what it was moved from
                sources = [self.values[n] for n in value.reads]
                value.gathered = value.rms * max((v.gathered / v.rms for v in sources if v.rms), default=0.0)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def array(self, number: int) -> Array:
        """The float64 values of one tensor."""
        return np.asarray(np.load(self.folder / f"{number}.npy"))

    def keep(self, value: Tensor, layer: str, source: str, kind: str, reads: tuple[int, ...]) -> int:
        array = np.asarray(value.detach().to(torch.float64).numpy())
        number = len(self.values)
        np.save(self.folder / f"{number}.npy", array)
        size = rms(np.where(np.isfinite(array), array, 0.0))  # masks hold infinities
        self.values.append(Value(number, array.shape, size, sketch(array), layer, source, kind, reads))
        return number


def rms(array: Array) -> float:
    """Root mean square; infinite where anything is not finite."""
    flat = np.asarray(array, np.float64).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(float(flat @ flat) / max(flat.size, 1)) if np.isfinite(flat).all() else math.inf


def off(got: Array, right: Array) -> float:
    """Rms of the difference; equal infinities differ by nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        got = np.asarray(got, np.float64)
        return rms(np.where(got == right, 0.0, got - right))


def sketch(array: Array) -> Array:
    """Mean, spread, skew, least and largest: alike for tensors of the same content in any layout."""
    flat = np.asarray(array, np.float64).reshape(-1)
    flat = flat[:: max(1, flat.size // LARGEST)]
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return np.full(5, np.nan)
    mean = flat.mean()
    away = flat - mean
    spread = math.sqrt(float(away @ away) / flat.size)
    return np.array([mean, spread, np.cbrt((away**3).mean()), flat.min(), flat.max()])


class _Watched(Twin):
    """The twin's dispatch mode with an eye on every result."""

    def __init__(self, chosen: Recipe, reference: Reference):
        super().__init__(chosen)
        self.reference, self.what = reference, "exact"
        self.stack: list[str] = [""]
        self.at: dict[Place, int] = {}  # place -> number of its value
        self.behind: dict[int, tuple[StorageWeakRef, int]] = {}  # storage -> the value that was last written there
        self._reads: tuple[int, ...] = ()
        self._last = -1

    def run(self, module: nn.Module, case: Mapping[str, Array], outputs: Sequence[str], what: Pass, dtype: Any) -> None:
        self.what = what
        self.stack, self.behind = [""], {}
        hooks = []
        for name, part in module.named_modules():
            if name:
                hooks.append(part.register_forward_pre_hook(lambda *_, n=name: self.stack.append(n)))
                hooks.append(part.register_forward_hook(lambda *_: self.stack.pop() and None, always_call=True))
        hooks += twin.mark_recurrent(module, self) if what in ("gathered", "added") else []
        phase: Any = {"exact": "plan", "plan": "plan", "calibrate": "calibrate"}.get(what, "round")
        try:
            with twin.plain_kernels():
                self.begin(phase)
                given = {k: torch.from_numpy(np.array(v)) for k, v in case.items()}
                given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}
                with self.watching(given) as fed:
                    for name, value in fed.items():
                        if what == "exact" and value.is_floating_point():
                            number = self.reference.keep(value, name, "", "input", ())
                            self._wrote(value, number)
                    modelling.forward(module, fed, outputs)
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self._count
        if self.what == "exact":
            tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
            known = [self.behind[_key(t)][1] for t in tensors if _key(t) in self.behind and self._is_data(t)]
            self._reads = tuple(dict.fromkeys(known))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.what == "exact" and self._count == before:
            self._moved_to(func, result)
        elif self.what == "exact" and isinstance(result, Tensor):  # one that was written into, too
            self._wrote(result, self._last)
        return result

    def _wrote(self, tensor: Tensor, number: int) -> None:
        self.behind[_key(tensor)] = (StorageWeakRef(tensor.untyped_storage()), number)

    def _moved_to(self, func: Any, result: Any) -> None:
        """Views, copies and joins: new values where the elements are others, or in another order."""
        for tensor in (t for t in tree_leaves(result) if isinstance(t, Tensor)):
            if not tensor.is_floating_point() or not self._is_data(tensor) or tensor.numel() < 2:
                continue
            name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)
            if name in ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "detach", "alias",
                        "contiguous", "_to_copy", "lift_fresh"):  # fmt: skip
                if _key(tensor) not in self.behind and self._reads:
                    self._wrote(tensor, self._reads[0])
                if name != "expand" and (self._reads or name != "_to_copy"):  # of integers it makes new values
                    continue
            number = self.reference.keep(tensor, self._layer(), _line(), "move", self._reads)
            if name in ("_to_copy", "cat", "stack", "clone", "index", "index_select", "constant_pad_nd", "pad"):
                self._wrote(tensor, number)

    def _layer(self) -> str:
        return self.stack[-1] or self.reference.name

    def _settle(self, place: Place, value: Tensor) -> Tensor:
        result = super()._settle(place, value)
        if place[0] < 0 or self.what in ("plan", "calibrate") or not result.is_floating_point() or not result.numel():
            return result
        if self.what == "exact":
            number = self.reference.keep(result, self._layer(), _line(), place[1], self._reads)
            self.at.setdefault(place, number)
            self._last = number
            self._wrote(result, number)
            return result
        folds = place in self._folded
        number = self.at.get(self._folded[place] if folds else place, -1)
        if number < 0 or self.reference.values[number].shape != tuple(result.shape):
            return result
        right = self.reference.array(number)
        error = off(result.to(torch.float64).numpy(), right)
        for known in {number, self.at[place]} if place in self.at else {number}:
            setattr(self.reference.values[known], self.what, error)
        return result if folds or self.what == "gathered" else torch.from_numpy(right).to(result.dtype)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


_OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def _line() -> str:
    """The innermost line of code that is neither torch's nor this package's."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_OWN, "<")) and "site-packages" not in file and "/lib/python" not in file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
