"""Runs subjects: a module with the tensors, functions and inputs that a fault gives it. In a child process only.

The module is never rebuilt. Tensors are written into it and restored, torch functions are replaced while it runs, and
cases go through it in batches where its contract says that the first axis is the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parity.core.case import Array
from parity.core.contract import Contract
from parity.faults.base import Handler, Row, Rows, Subject
from parity.reference import modelling, twin
from parity.reference.copying import copied
from parity.reference.dispatch import Ranges
from parity.reference.recipes import recipe

BATCH = 16  # cases that go through the module together: more are no faster on one thread
ELEMENTS = 700_000  # of input in one batch: what is larger no longer stays in the processor's cache, and takes longer
UNUSED = "nothing in the model for it to act on"


class Inapplicable(Exception):
    """The fault has no place in this model; the text says why."""


class Bench:
    """One model on one set of cases. `subject` is what is right; faults start from it."""

    def __init__(
        self,
        module: nn.Module,
        contract: Contract,
        inputs: Sequence[Row],
        precision: str = "fp32",
        sources: Sequence[str | None] = (),
    ):
        self.module = module
        self.subject = Subject(module, tuple(inputs), contract, precision, tuple(sources))
        self._copies: dict[torch.dtype, nn.Module] = {torch.float32: module}
        self._batched: bool | None = None
        self._clean: dict[bool, Rows] = {}
        self.memory: dict[object, Rows | None] = {}  # what hypotheses gave, for the next artefact of the same model
        self.dtype, self.note = torch.float64, ""
        try:
            self._forward(self.subject, [0], torch.float64)
        except RuntimeError as error:
            self.dtype, self.note = (
                torch.float32,
                f"the module cannot run in float64 ({str(error).splitlines()[0]:.160})",
            )

    def clean(self, exact: bool = True) -> Rows:
        """The outputs without a fault."""
        if exact not in self._clean:
            self._clean[exact] = self.run(self.subject, exact)
        return self._clean[exact]

    def run(self, subject: Subject, exact: bool = True, cases: Sequence[int] | None = None) -> Rows:
        """The subject's outputs as float64 arrays, computed in float64 or (not `exact`) float32.

        Of `cases` only, where they are given: not for subjects whose outputs are changed over all cases together.
        Raises Inapplicable where the model never calls what the fault replaces, or does not run with it.
        """
        assert cases is None or not subject.after
        chosen = list(range(len(subject.inputs)) if cases is None else cases)
        dtype = self.dtype if exact and not subject.single else torch.float32
        base = self.subject
        if (subject.after and subject.inputs is base.inputs and not subject.patches and not subject.tensors
                and not subject.single):  # fmt: skip
            rows = self.clean(exact)
        else:
            rows = self._rows(subject, chosen, dtype)
        for change in subject.after:
            rows = change(rows)
        return rows

    def twin(
        self, subject: Subject, cases: Sequence[int], flavour: str | None, calibration: Sequence[Row],
        ranges: Ranges | None = None,
    ) -> Rows:  # fmt: skip
        """What the precision's twin gives for these cases with the fault in place; outputs are left as they come.

        `ranges` are those of the module without a fault, kept from call to call: empty, they are filled. Where they are
        given, cases go through together, as no range is a case's own.
        """
        names, own = [o.name for o in subject.contract.outputs], bool(subject.tensors or subject.patches)
        together = ranges is not None and not own and not subject.alone and self._batches()
        groups = self._groups(subject, list(cases)) if together else [[i] for i in cases]
        inputs = [_joined([subject.inputs[i] for i in group]) for group in groups]
        with _wearing(self.module, subject), Patched(subject):
            rows, _ = twin.run(self.module, inputs, names, recipe(subject.precision, flavour), calibration or None,
                               None if own else ranges)  # fmt: skip
        parts = [part for group, row in zip(groups, rows, strict=True) for part in _split(row, subject, group)]
        found = dict(zip((i for group in groups for i in group), parts, strict=True))
        return [found[i] for i in cases]

    def _rows(self, subject: Subject, cases: list[int], dtype: torch.dtype) -> Rows:
        groups = [[i] for i in cases] if subject.alone or not self._batches() else self._groups(subject, cases)
        found: dict[int, Row] = {}
        try:
            with _wearing(self._module(dtype), subject), Patched(subject) as patched:
                for group in groups:
                    found |= dict(zip(group, self._forward(subject, group, dtype, worn=True), strict=True))
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise Inapplicable(f"the model does not run with it: {str(error).splitlines()[0]:.120}") from error
        if patched.unused():
            raise Inapplicable(UNUSED)
        return [found[i] for i in cases]

    def _module(self, dtype: torch.dtype) -> nn.Module:
        if dtype not in self._copies:
            self._copies[dtype] = copied(self.module).to(dtype)
        return self._copies[dtype]

    def _forward(self, subject: Subject, group: list[int], dtype: torch.dtype, worn: bool = False) -> list[Row]:
        """The outputs of some cases, run together; batch sizes of the cases may differ."""
        given = _joined([subject.inputs[i] for i in group])
        fed = {name: torch.from_numpy(np.array(value)) for name, value in given.items()}
        fed = {name: value.to(dtype) if value.is_floating_point() else value for name, value in fed.items()}
        torch.manual_seed(subject.seed)
        with modelling.plain_attention():
            result = modelling.forward(self._module(dtype), fed, [o.name for o in subject.contract.outputs])
        rows = {k: _numpy(v) for k, v in result.items()}
        whole = sum(_size(subject.inputs[i]) for i in group)
        if len(group) > 1 and any(v.ndim == 0 or v.shape[0] != whole for v in rows.values()):
            raise RuntimeError("an output has no batch axis")
        return _split(rows, subject, group)

    def _groups(self, subject: Subject, cases: list[int]) -> list[list[int]]:
        """Cases of equal shapes, together as long as they are few and small."""
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i in cases:
            alike.setdefault(tuple(v.shape[1:] for v in subject.inputs[i].values()), []).append(i)
        found = []
        for group in alike.values():
            size = sum(v.size for v in subject.inputs[group[0]].values())
            together = max(2, min(BATCH, ELEMENTS // max(size, 1)))
            found += [group[k : k + together] for k in range(0, len(group), together)]
        return found

    def _batches(self) -> bool:
        """Whether cases may share a run: the first axis of every input is the batch, and rows do not see each other."""
        if self._batched is None:
            contract, inputs = self.subject.contract, self.subject.inputs
            declared = all(contract.batched(i) for i in contract.inputs)
            self._batched = False
            if declared and len(inputs) > 1:
                first = next(g for g in self._groups(self.subject, list(range(len(inputs)))))[:2]
                with contextlib.suppress(RuntimeError):
                    together = self._forward(self.subject, first, self.dtype)
                    single = [self._forward(self.subject, [i], self.dtype)[0] for i in first]
                    tolerance = 1e-9 if self.dtype == torch.float64 else 1e-4
                    self._batched = all(
                        np.allclose(t[k], s[k], rtol=tolerance, atol=tolerance * float(np.abs(s[k]).max(initial=0)))
                        for t, s in zip(together, single, strict=True) for k in s
                    )  # fmt: skip
        return self._batched


def _joined(cases: Sequence[Mapping[str, Array]]) -> Row:
    """Cases one after the other along their first axis."""
    if len(cases) == 1:
        return dict(cases[0])
    return {name: np.concatenate([np.asarray(case[name]) for case in cases]) for name in cases[0]}


def _split(rows: Row, subject: Subject, group: Sequence[int]) -> list[Row]:
    """The outputs of joined cases, for each case."""
    if len(group) == 1:
        return [rows]
    ends = np.cumsum([_size(subject.inputs[i]) for i in group])[:-1]
    parts = {k: np.split(v, ends) for k, v in rows.items()}
    return [{k: p[n] for k, p in parts.items()} for n in range(len(group))]


def _size(case: Mapping[str, Array]) -> int:
    return next((len(value) for value in case.values() if value.ndim), 1)


def _numpy(value: Tensor) -> Array:
    return np.asarray((value.to(torch.float64) if value.is_floating_point() else value).numpy())


@contextlib.contextmanager
def _wearing(module: nn.Module, subject: Subject) -> Iterator[None]:
    """The subject's tensors written into the module, and its own written back, whatever happens."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    before = {name: own[name].detach().clone() for name in subject.tensors}
    try:
        with torch.no_grad():
            for name, value in subject.tensors.items():
                own[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)


class Patched:
    """The subject's patches in force, each counting the calls that it stood in for."""

    def __init__(self, subject: Subject):
        self.modes = [_Replacing(dict(patch())) for patch in subject.patches]
        self._stack = contextlib.ExitStack()

    def unused(self) -> bool:
        return any(mode.calls == 0 for mode in self.modes)

    def __enter__(self) -> Patched:
        for mode in self.modes:
            self._stack.enter_context(mode)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class _Replacing(TorchFunctionMode):
    """Stands in for torch functions by name while the module runs, however it calls them."""

    def __init__(self, handlers: dict[str, Handler]):
        super().__init__()
        self.handlers, self.calls = handlers, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = self.handlers.get(getattr(func, "__name__", ""))
        if handler is None:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return handler(func, args, kwargs or {})
