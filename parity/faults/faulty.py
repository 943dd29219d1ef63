"""A module with a fault in it, for everything that takes a module: an exporter, the chain of proof, the oracle.

A fault of the graph replaces torch functions while the module runs, so a tracer or torch.export writes the faulty
operators into the file; a fault of the weights stands in the module's own tensors. In a child process only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from parity.core.errors import ParityError
from parity.core.settings import ModelSpec
from parity.faults.base import Subject, Value, registered
from parity.faults.bench import Patched
from parity.faults.extra import load
from parity.faults.library import contract_of
from parity.process import serialise
from parity.reference import modelling
from parity.reference.copying import copied

FACTORY = "parity.faults.faulty:module"


def spec_of(
    model: ModelSpec, contract: Mapping[str, Any], fault: str, value: Value | None, within: str = "",
    plugins: Sequence[str] = (),
) -> ModelSpec:  # fmt: skip
    """What `modelling.load` makes the faulty module of: the model's own spec behind this module's factory."""
    options = {"model": serialise.to_builtins(model), "contract": dict(contract), "fault": fault, "value": value,
               "within": within, "plugins": list(plugins)}  # fmt: skip
    return ModelSpec(model.root, FACTORY, options)


def module(
    model: Mapping[str, Any], contract: Mapping[str, Any], fault: str, value: Any = None, within: str = "",
    plugins: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """A copy of the model with the fault in place, under its own parameter names. What replaces functions does so in
    the whole model, or in the submodule `within` alone. Where tensors are all that differs, `other_tensors` is the
    model's own spec and their names.

    Raises ParityError where the model has no place for the fault, or the fault acts outside the module.
    """
    load(plugins)
    known = registered(names=[fault])[0]
    if known.where != "module":
        raise ParityError(f"the fault {fault!r} acts on the {known.where}, not in the module")
    right = serialise.from_builtins(ModelSpec, model)
    faulty = copied(modelling.load(right))
    value = tuple(value) if isinstance(value, list) else value
    subject = known.on(Subject(faulty, (), contract_of(contract)), value)
    if subject is None:
        raise ParityError(f"the model has no place for the fault {fault!r}")
    own = dict(faulty.named_parameters()) | dict(faulty.named_buffers())
    with torch.no_grad():
        for name, tensor in subject.tensors.items():
            own[name].copy_(tensor)
    if subject.patches:
        _behind(faulty.get_submodule(within), subject)
    else:
        faulty.other_tensors = right, tuple(subject.tensors)  # type: ignore[assignment]
    return faulty


def _behind(faulty: nn.Module, subject: Subject) -> None:
    """Every call of the module, and of copies of it, runs with the subject's functions in place of torch's.

    Through a class of its own: a function in the instance would go on calling the module that a copy was made of.
    """
    kind = type(faulty)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Patched(subject):
            return kind.forward(self, *args, **kwargs)

    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    faulty.__class__ = type(kind.__name__, (kind,), names)
