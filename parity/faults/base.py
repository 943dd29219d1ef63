"""What a fault is: a named operator on a subject; and the registry of those that are known.

A subject is everything that decides what an artefact computes: input arrays, module, stored tensors, the functions
that the module calls, and what is done with its outputs. An operator gives another subject and never changes the one
that it got, so operators compose: two faults are one applied after the other. Imports torch for its types only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from parity import formats
from parity.core.contract import Contract, OutputSpec
from parity.core.errors import ParityError
from parity.core.plan import PRECISIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from parity.formats.draft import Draft

Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Array]
Rows = list[Row]


def rows_of(rows: Iterable[Mapping[str, Array]]) -> Rows:
    """Outputs or inputs by name, one row a case, as they came in a message."""
    return [dict(row) for row in rows]


"""Outputs by name, one dict a case."""
Value = float | int | str | tuple[int, ...]
"""What a parameter can be: a number, the name of a layer or input, or indices."""

Family = Literal["input", "time", "graph", "weights", "precision", "output"]
Where = Literal["input", "module", "output"]
Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Stands in for a torch function: gets the function, its positional and its keyword arguments."""
Patch = Callable[[], Mapping[str, Handler]]
"""Makes the handlers of one run, by the name of the torch function that they stand in for."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated. `module` is shared and stays as it is: `tensors` holds what replaces its own, by name."""

    module: nn.Module
    inputs: tuple[Mapping[str, Array], ...]
    contract: Contract
    precision: str = "fp32"
    sources: tuple[str | None, ...] = ()  # the encoded picture behind each case, where there is one
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    after: tuple[Callable[[Rows], Rows], ...] = ()
    alone: bool = False  # cases must be run one at a time, as an artefact runs them
    single: bool = False  # runs in float32 even where the reference is float64
    seed: int = 0

    def with_inputs(self, change: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> Subject:
        return replace(self, inputs=tuple(change(case) for case in self.inputs))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Subject:
        """Contiguous copies are kept: a view of the module's own memory would change when it is written, and the fault
        that comes next may take the elements as they lie."""
        kept = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
        return replace(self, tensors={**self.tensors, **kept})

    def with_patch(self, patch: Patch, alone: bool = False) -> Subject:
        return replace(self, patches=(*self.patches, patch), alone=self.alone or alone)

    def then(self, change: Callable[[Rows], Rows]) -> Subject:
        return replace(self, after=(*self.after, change))

    def tensor(self, name: str) -> Tensor:
        """The parameter or buffer as it now is."""
        if name in self.tensors:
            return self.tensors[name]
        path, _, attribute = name.rpartition(".")
        tensor: Tensor = getattr(self.module.get_submodule(path), attribute)
        return tensor

    def deciding(self) -> list[OutputSpec]:
        return [o for o in self.contract.outputs if o.decides]


@dataclass(frozen=True)
class Evidence:
    """What a parameter can be read from: the outputs without the fault, and those to explain."""

    clean: Rows
    observed: Rows


@dataclass(frozen=True)
class Parameter:
    """What a family of faults leaves open: a number in [low, high], or one of `choices`, whose first is usual.

    `neutral` is the value at which the fault does nothing, where there is one.
    """

    name: str
    usual: Value | None = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    neutral: float | None = None
    unit: str = ""
    choices: Callable[[Subject, Evidence | None], Sequence[Value]] | None = None


@dataclass(frozen=True)
class Fault:
    """One way in which an artefact goes wrong. `sentence` completes "behaves as if ...".

    `apply(subject)`, or `apply(subject, value)` with a parameter, gives the subject with the fault, or None where the
    model has no place for it. `where` is the part that it acts on. A `benign` change is none that a check may notice.
    """

    name: str
    sentence: str
    family: Family
    where: Where
    apply: Callable[..., Subject | None]
    precisions: tuple[str, ...] = PRECISIONS
    parameter: Parameter | None = None
    benign: bool = False

    def on(self, subject: Subject, value: Value | None = None) -> Subject | None:
        """The subject with this fault, at the parameter's usual value unless one is given."""
        if self.parameter is None:
            return self.apply(subject)
        value = self.usual(subject) if value is None else value
        return None if value is None else self.apply(subject, value)

    def usual(self, subject: Subject) -> Value | None:
        """The value of the parameter at which the fault is injected; None where this model has none."""
        if self.parameter is None or self.parameter.usual is not None:
            return self.parameter.usual if self.parameter else None
        choices = self.parameter.choices(subject, None) if self.parameter.choices else ()
        return choices[0] if choices else None

    def say(self, value: Value | None = None) -> str:
        """The sentence, with the parameter's value."""
        if self.parameter is None or value is None:
            return self.sentence
        shown = f"{value:.6g}" if isinstance(value, float) else f"{value}"
        return f"{self.sentence} ({self.parameter.name} {shown}{self.parameter.unit})"


@dataclass(frozen=True)
class FileFault:
    """One way in which the file itself goes wrong. `sentence` completes "behaves as if ...".

    `edit(draft)` changes an opened copy of the file, and returns whether the file had a place for it. `targets` are the
    formats that it is tried on; none: every one whose files can be edited. Only power injects it: a reference has no
    file to run a hypothesis on.
    """

    name: str
    sentence: str
    edit: Callable[[Draft], bool]
    targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = PRECISIONS
    benign: bool = False

    def say(self, value: Value | None = None) -> str:
        return self.sentence


AnyFault = TypeVar("AnyFault", Fault, FileFault)
_registry: dict[str, Fault | FileFault] = {}


def register_fault(fault: AnyFault) -> AnyFault:
    """Make a fault known to power, and a `Fault` to diagnosis. A name cannot be taken twice.

    Faults act in child processes: register them in a module that `plugins` of the configuration names, or in an
    installed package with an entry point in the group `parity`; not in a test.
    """
    if not fault.name.isidentifier():
        raise ParityError(f"register_fault: {fault.name!r} cannot name a fault: use a Python identifier")
    if fault.name in _registry:
        raise ParityError(f"register_fault: the fault {fault.name!r} exists: choose another name")
    unknown = sorted(set(fault.precisions) - set(PRECISIONS))
    if unknown:
        raise ParityError(
            f"register_fault: {fault.name}: no precision {unknown[0]!r}; there are {', '.join(PRECISIONS)}"
        )
    if isinstance(fault, FileFault):
        _check_targets(fault)
    _registry[fault.name] = fault
    return fault


def _check_targets(fault: FileFault) -> None:
    editable = [target.name for target in formats.every() if target.draft] if fault.targets else []
    others = sorted(set(fault.targets) - set(editable))
    if others:
        raise ParityError(f"register_fault: {fault.name}: no files of {others[0]!r}; there are {', '.join(editable)}")


def fault(
    name: str, sentence: str, family: Family, where: Where, **options: Any
) -> Callable[[Callable[..., Subject | None]], Callable[..., Subject | None]]:
    """Register the decorated operator as a fault."""

    def register(apply: Callable[..., Subject | None]) -> Callable[..., Subject | None]:
        register_fault(Fault(name, sentence, family, where, apply, **options))
        return apply

    return register


def registered(precision: str | None = None, names: Iterable[str] | None = None) -> list[Fault]:
    """The registered faults that can occur at a precision, or those of the given names, in order of registration."""
    known = {name: f for name, f in _registry.items() if isinstance(f, Fault)}
    if names is not None:
        wanted = list(names)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ParityError(f"there is no fault {unknown[0]!r}; known: {', '.join(known)}")
        return [known[name] for name in wanted]
    return [f for f in known.values() if precision is None or precision in f.precisions]


def on_files(target: str | None = None, precision: str | None = None) -> list[FileFault]:
    """The registered faults of files of a target at a precision, in order of registration."""
    return [
        f for f in _registry.values()
        if isinstance(f, FileFault) and (not f.targets or target in (None, *f.targets))
        and precision in (None, *f.precisions)
    ]  # fmt: skip
