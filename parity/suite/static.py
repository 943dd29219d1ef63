"""A file against the model itself: the chain of proof, and the lowering of Core ML files."""

from __future__ import annotations

from parity import formats
from parity.core.case import Case
from parity.core.kinds import STATIC
from parity.core.plan import Cell
from parity.core.proof import LEFT_OUT, Proof
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.judging import judge
from parity.session import lowering
from parity.session.planning import Data
from parity.session.proof import proof_of
from parity.session.session import Runtime, Session
from parity.suite import accepting
from parity.suite.check_kind import CheckContext, SuiteKind, measures
from parity.suite.recorder import Recorder

MOSTLY = 0.5  # a file of reduced precision with a larger share of float32 weights is told


def planned(model: ModelConfig, target: Target, data: Data) -> bool:
    """Both need cases to compute on, and a target whose files they can read."""
    return data.cases > 0 and bool(target.lowering or target.graph)


def run(check: CheckContext) -> None:
    """Record the lowering's checks, then those of the chain of proof, each where the target has it."""
    runtime, parity = check.runtime, check.recorder
    cell, session, cases = runtime.cell, runtime.session, list(check.golden)
    if runtime.target.lowering:
        _prove_lowering(cell, cases, runtime, parity)
    if runtime.target.graph:
        _prove_chain(cell, cases, session, parity)


def _prove_chain(cell: Cell, cases: list[Case], session: Session, parity: Recorder) -> None:
    proof = proof_of(session, cell, cases)
    parity.add(*judge.check_proof(proof, parity.limits()))
    parity.details["proof"] = judge.proof_record(proof)
    share = proof.link("audit").figures.get("unreduced", 0.0)
    if cell.precision != "fp32" and share > MOSTLY:
        parity.find(f"this file holds fp32 weights ({share:.0%} of them): it was declared {cell.precision}", "warning")
    _tell_constants(cell, proof, session, parity)
    _tell_operators(cell, proof, session, parity)
    left_out = next((link.figures.get(LEFT_OUT, 0) for link in proof.links if link.name == "match"), 0)
    if left_out:
        parity.find(
            f"the file branches by sizes: the chain of proof is of the branch that {len(cases) - left_out} of "
            f"{len(cases)} golden cases take; figures judge the others",
            "warning",
        )
    reasons: dict[tuple[str, bool], list[str]] = {}
    for link in proof.links:
        if link.state == "not possible":
            reasons.setdefault((link.reason, link.offered), []).append(link.name)
    for (reason, offered), names in reasons.items():
        rest = "lowering and noise ratio judge " if formats.get(cell.target).lowering else "the noise ratio judges "
        text = f"the chain of proof lacks {', '.join(names)}: {reason}; {rest}"
        parity.find(text + ("alone" if offered else "in its place"), "warning" if offered else "note")


def _tell_constants(cell: Cell, proof: Proof, session: Session, parity: Recorder) -> None:
    """Record the numbers that the file holds and the module does not, and warn of those that nobody accepted."""
    link = next((link for link in proof.links if link.name == "match"), None)
    if link is None or "unexplained" not in link.figures:
        return
    words = {f"{accepting.CONSTANT}{c['name']}": f"{c['count']} numbers of shape {c['shape']}"
             for c in link.figures["unexplained"]}  # fmt: skip
    names = accepting.still_open(words, accepting.CONSTANT, accepting.of_cell(session, cell), parity)
    open_ones = [f"{name} ({words[name]})" for name in names]
    parity.add(judge.check_constants(open_ones, parity.limits()))
    found = "the file holds numbers that no tensor of the module explains"
    accepting.warn(open_ones, found, "Look at what each is for, then", parity)


def _tell_operators(cell: Cell, proof: Proof, session: Session, parity: Recorder) -> None:
    """Record what the file decides by data and the module does not, and warn of what nobody accepted."""
    link = next((link for link in proof.links if link.name == "operators"), None)
    if link is None or link.state == "not possible":
        return
    operators: list[str] = link.figures["unexplained"]
    open_ones = accepting.still_open(operators, "", accepting.of_cell(session, cell), parity)
    parity.add(judge.check_unexplained(open_ones, parity.limits()))
    found = "the file decides by data where the module does not"
    accepting.warn(open_ones, found, "Look at what each does, then", parity)
    if drawn := link.figures["module_random"]:
        parity.find(
            f"the module draws random numbers by itself ({', '.join(drawn)}): no two runs of it agree, and no file "
            "can be held against it there. Draw them outside, as an input",
            "warning",
        )


def _prove_lowering(cell: Cell, cases: list[Case], runtime: Runtime, parity: Recorder) -> None:
    session = runtime.session
    oracle = session.reference(session.config.models[cell.model], cases)
    found = lowering.measure(session, cell, cases, oracle)
    parity.add(*found.checks(parity.limits))
    parity.details["risk"] = found.risk
    for text in found.warnings():
        parity.find(text, "warning")


@measures(STATIC)
def test_proof(parity_cell: Cell, parity_golden: list[Case], parity_runtime: Runtime, parity: Recorder) -> None:
    """The chain of proof: every constant of the file is a tensor of the model, and its graph computes the model.

    Core ML besides: the fp32 file is the model's with no activation rounded; and what a device may do, as warnings.
    """
    run(CheckContext(parity_runtime, parity, golden=parity_golden))


KIND = SuiteKind(STATIC, planned, run, test_proof)
