"""The parametrised tests. A project has one test file that says `from parity.suite import *`.

Each test measures one kind of check for one cell. The bodies say what is measured; what it means is in `judge` and
`gate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from parity import judge
from parity.cases import Case
from parity.plan import Cell
from parity.recorder import Recorder
from parity.session import Reference, Runtime
from parity.suite.contract import check_contract

__all__ = ["test_accuracy", "test_contract", "test_golden", "test_video"]

F = TypeVar("F", bound=Callable[..., None])


def measures(kind: str) -> Callable[[F], F]:
    """Mark a test as the one that measures `kind` for every cell that plans it."""

    def mark(test: F) -> F:
        test.parity_kind = kind  # type: ignore[attr-defined]
        return test

    return mark


@measures("contract")
def test_contract(parity_cell: Cell, parity_runtime: Runtime, parity: Recorder) -> None:
    """The file keeps the model's contract: names, shapes, dtypes, operators, dynamic axes, and repeats itself."""
    check_contract(parity_runtime, parity)


@measures("golden")
def test_golden(
    parity_cell: Cell,
    parity_golden: list[Case],
    parity_reference: Reference,
    parity_runtime: Runtime,
    parity: Recorder,
) -> None:
    """On every golden case, every output is the float64 oracle's within its limits."""
    model = parity_runtime.session.config.models[parity_cell.model]
    got = parity_runtime.run([case.inputs for case in parity_golden])
    wants = parity_reference.outputs
    for spec in model.contract.outputs:
        limits = parity.limits(spec.name)
        for case, outputs, want in zip(parity_golden, got, wants, strict=True):
            parity.add(*judge.check_output("golden", case.id, spec, outputs.get(spec.name), want[spec.name], limits))
        if spec.decides and _comparable(spec.name, got, wants):
            parity.add(*judge.check_decisions(
                "golden", spec, [o[spec.name] for o in got], [w[spec.name] for w in wants], limits
            ))  # fmt: skip
    if parity_reference.note:
        parity.find(f"reference is {parity_reference.dtype}: {parity_reference.note}", "warning")


@measures("video")
def test_video(parity_cell: Cell, parity_video: list[tuple[str, list[Case]]], parity_runtime: Runtime,
               parity: Recorder) -> None:  # fmt: skip
    """On every frame of every clip, in order, every output is the float64 oracle's within its limits."""
    session = parity_runtime.session
    model = session.config.models[parity_cell.model]
    frames = [case for _, cases in parity_video for case in cases]
    wants = session.reference(model, frames, f"video {len(frames)}").outputs
    got = parity_runtime.run([case.inputs for case in frames])
    for spec in model.contract.outputs:
        limits = parity.limits(spec.name)
        for case, outputs, want in zip(frames, got, wants, strict=True):
            parity.add(*judge.check_output("video", case.id, spec, outputs.get(spec.name), want[spec.name], limits))
        if spec.decides and _comparable(spec.name, got, wants):
            parity.add(*judge.check_decisions(
                "video", spec, [o[spec.name] for o in got], [w[spec.name] for w in wants], limits
            ))  # fmt: skip


@measures("accuracy")
def test_accuracy(
    parity_cell: Cell,
    parity_golden: list[Case],
    parity_reference: Reference,
    parity_runtime: Runtime,
    parity: Recorder,
) -> None:
    """On labelled golden cases, the artefact is right as often as the oracle, within the allowed drop."""
    model = parity_runtime.session.config.models[parity_cell.model]
    chosen = [i for i, case in enumerate(parity_golden) if case.label is not None]
    got = parity_runtime.run([parity_golden[i].inputs for i in chosen])
    wants = [parity_reference.outputs[i] for i in chosen]
    labels = [label for i in chosen if (label := parity_golden[i].label) is not None]
    for spec in model.contract.outputs:
        if spec.decides and spec.labels and _comparable(spec.name, got, wants):
            parity.add(*judge.check_accuracy(
                spec, [o[spec.name] for o in got], [w[spec.name] for w in wants], labels, parity.limits(spec.name)
            ))  # fmt: skip


def _comparable(name: str, got: list[dict[str, Any]], want: Any) -> bool:
    """Whether decisions of an output can be compared at all; where not, its per-case checks already say why."""
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = list(zip(got, want, strict=True))
    return all(name in g and g[name].shape == w[name].shape for g, w in pairs)
