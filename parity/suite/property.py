"""Drawn inputs: what an artefact computes on recipes that nobody chose, each judged by what its precision costs.

All recipes of a cell are drawn first and then go through artefact and oracle in batches; hypothesis meets the results
when it looks for the simplest input that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parity.cases import kept
from parity.cases.drawing import Drawing
from parity.cases.recipes import Recipe
from parity.core.kinds import PROPERTY
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.judging import judge
from parity.session.planning import Data
from parity.session.session import Runtime
from parity.suite.bench import Bench, Result
from parity.suite.check_kind import CheckContext, SuiteKind, measures
from parity.suite.recorder import Recorder

MOST_UNDEFINED = 0.5  # share of the inputs that may say nothing of an output: the model is undefined there, or a tie


def planned(model: ModelConfig, target: Target, data: Data) -> bool:
    """Where the project lets inputs be drawn."""
    return model.properties.examples > 0


def run(check: CheckContext) -> None:
    """Judge the kept recipes, then the drawn ones; shrink and keep what fails."""
    from parity.cases import strategies

    runtime, parity, drawing = check.runtime, check.recorder, check.drawing
    assert drawing is not None
    bench = Bench(runtime, parity.limits)
    config, model = runtime.session.config, bench.model
    examples, seed = drawing.examples(model), drawing.seed(model)
    replayed, odd = kept.load(config.root, model, drawing.before)
    source = strategies.strategy(model.contract, model.properties.strategy, config.root)
    drawn = runtime.session.memo.once(_drawn, model, config.root, examples, seed)
    known = {r.digest for r in drawn}
    results = bench.judge([*(r for r in replayed if r.digest not in known), *drawn])
    record(bench, results, parity)
    bench.tell_twins(parity)
    for text in odd:
        parity.find(text, "warning")
    failing = [r for r in results if bench.fails(r)]
    if failing:
        found = bench.simplest(source, examples, seed, results[len(results) - len(drawn) :])
        bench.tell(found or failing[0], parity)


def _drawn(model: ModelConfig, root: Path, examples: int, seed: int) -> list[Recipe]:
    """The recipes that every target of a model is run on."""
    from parity.cases import strategies

    source = strategies.strategy(model.contract, model.properties.strategy, root)
    return strategies.draw(source, examples, seed)


def record(bench: Bench, results: Sequence[Result], parity: Recorder) -> None:
    """A check for every output of every recipe that can be judged, and one for how many cannot."""
    outputs = bench.model.contract.outputs
    undefined = [r for r in results if r.undefined and not bench.fails(r)]
    for result in results:
        if result in undefined:
            continue
        for spec in outputs:
            if spec.name not in result.tied:
                parity.add(bench.check("property", result, spec))
    share = len(undefined) / len(results) if results else 1.0
    detail = f"{len(results)} recipes, {len(undefined)} of them undefined at {bench.cell.precision}"
    if undefined:
        detail += f", as {undefined[0].case.id}: {undefined[0].undefined}"
        parity.find(detail, "note")
    parity.add(judge.limited("property", "all", "undefined_share", share, MOST_UNDEFINED, detail))
    if ties := bench.ties(results):
        parity.find(ties, "note")
        share = sum(bool(r.tied) for r in results) / len(results)
        parity.add(judge.limited("property", "ties", "undefined_share", share, MOST_UNDEFINED, ties))


@measures(PROPERTY)
def test_property(parity_cell: Cell, parity_runtime: Runtime, parity_drawing: Drawing, parity: Recorder) -> None:
    """On inputs that hypothesis draws from the contract, every output is within what the precision costs there."""
    run(CheckContext(parity_runtime, parity, drawing=parity_drawing))


KIND = SuiteKind(PROPERTY, planned, run, test_property)
