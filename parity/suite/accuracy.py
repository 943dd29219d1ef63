"""Labelled golden cases: how often the artefact is right, against how often the oracle is."""

from __future__ import annotations

from parity.core.case import Case, telling
from parity.core.contract import classifying
from parity.core.kinds import ACCURACY
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.judging.check_cases import check_labels, doubt_labels
from parity.judging.post_processing import post_process, post_process_all
from parity.session.evaluations import Reference
from parity.session.planning import Data
from parity.session.session import Runtime
from parity.suite.check_kind import CheckContext, SuiteKind, measures
from parity.suite.comparing import note_undecided
from parity.suite.recorder import Recorder


def planned(model: ModelConfig, target: Target, data: Data) -> bool:
    """Where the true class of a golden case is known, and an output decides between classes."""
    return data.labelled > 0 and bool(classifying(model.contract.outputs))


def run(check: CheckContext) -> None:
    """Record the drop in accuracy of every output that decides between labels."""
    runtime, reference, parity = check.runtime, check.reference, check.recorder
    assert reference is not None
    model = runtime.session.config.models[runtime.cell.model]
    specs = model.contract.outputs
    labelled_cases = [i for i in telling(check.golden) if check.golden[i].label is not None]
    labels = [check.golden[i].label for i in labelled_cases]
    wants = [post_process(specs, reference.outputs[i]) for i in labelled_cases]
    rows = runtime.run([check.golden[i].inputs for i in labelled_cases])
    got = post_process_all(specs, rows, wants)
    limits = {spec.name: parity.limits(spec.name) for spec in specs}
    parity.add(*check_labels(specs, labels, got, wants, limits))
    for name, why in doubt_labels(specs, labels, wants).items():
        parity.find(f"labels of {name}: {why}", "warning")
    for spec in specs:
        note_undecided(parity, spec.name)


@measures(ACCURACY)
def test_accuracy(
    parity_cell: Cell,
    parity_golden: list[Case],
    parity_reference: Reference,
    parity_runtime: Runtime,
    parity: Recorder,
) -> None:
    """On labelled golden cases, the artefact is right as often as the oracle, within the allowed drop."""
    run(CheckContext(parity_runtime, parity, golden=parity_golden, reference=parity_reference))


KIND = SuiteKind(ACCURACY, planned, run, test_accuracy)
