"""Drawn inputs: what an artefact computes on recipes that nobody chose, each judged by what its precision costs.

All recipes of a cell are drawn first and then go through artefact and oracle in batches; hypothesis meets the results
when it looks for the simplest input that fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from parity.cases import kept
from parity.cases.drawing import Drawing
from parity.cases.extremes import Sweep, edges, extremes, sweep
from parity.cases.recipes import Fill, Recipe, family
from parity.core.case import Case
from parity.core.decisions import place_of_bound
from parity.core.errors import ParityError
from parity.core.kinds import PROPERTY
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.judging import judge
from parity.judging.single import GIVES_NAN, OTHER_INTEGERS
from parity.session import driving, ways
from parity.session.session import Runtime
from parity.session.ways import Decided
from parity.suite import accepting, reach, together
from parity.suite.bench import Bench, Result
from parity.suite.check_kind import CheckContext, SuiteKind, always, measures
from parity.suite.recorder import Recorder

MOST_NAMED = 6  # reasons, in one note
MOST_UNDEFINED = 0.5  # share of the inputs that may say nothing of an output: the model is undefined there, or a tie


def run(check: CheckContext) -> None:
    """Judge the extremes and what lies at edges, the kept recipes, then the drawn ones; shrink and keep what fails."""
    runtime, parity, drawing = check.runtime, check.recorder, check.drawing
    assert drawing is not None
    bench = Bench(runtime, parity.limits, parity.proved)
    config, model = runtime.session.config, bench.model
    examples, seed = drawing.examples(model), drawing.seed(model)
    replayed, odd = kept.load(config.root, model, drawing.before)
    flat = [*extremes(model.contract), *_edges(model, parity)]
    drawn = runtime.session.memo.once(_drawn, model, config.root, examples, seed)
    decided = _decided(bench, [*flat, *drawn])
    flat += decided.turning
    fresh = {recipe.digest for recipe in (*flat, *drawn)}
    replayed = [recipe for recipe in replayed if recipe.digest not in fresh]
    results = bench.judge([*flat, *replayed, *drawn])
    driven = _driven(bench, [*flat, *drawn], parity)
    lacking, more = _lacking(bench, [*flat, *drawn], [r.case for r in driven], parity)
    driven += more
    record(bench, [*results[: len(flat)], *driven], results[len(flat) :], parity)
    parity.add(*together.checks(bench, results[len(flat) :]))
    reach.check(bench, results[len(flat) :], parity)
    swept = _swept(bench, parity)
    _tell_one_way(bench, decided, lacking, parity)
    _tell_ranges(model, parity)
    bench.tell_twins(parity)
    for text in odd:
        parity.find(text, "warning")
    _tell_driven(bench, [r for r in driven if bench.fails(r)], parity)
    failing = [r for r in (*results, *swept) if bench.fails(r)]
    if failing:
        simplest = None
        if drawn and failing[0] in results[len(flat) :]:  # an extreme, an edge, a sweep: as simple as an input can be
            simplest = _simplest(bench, examples, seed, results[len(results) - len(drawn) :])
        bench.tell(simplest or failing[0], parity)


def _edges(model: ModelConfig, parity: Recorder) -> list[Recipe]:
    """Integers around the numbers that file or module decides by; the chain of proof reads those."""
    if all(family(spec) != "integer" for spec in model.contract.inputs):
        return []
    return edges(model.contract, parity.decides().get("thresholds", []), model.states)


def _decided(bench: Bench, recipes: Sequence[Recipe]) -> Decided:
    """What the model decides on what is measured, and what turns the rest: once a session for the same inputs."""
    session, model = bench.session, bench.model
    return session.memo.once(partial(ways.decided, session), model, session.golden_if_any(model), recipes)


def _driven(bench: Bench, recipes: Sequence[Recipe], parity: Recorder) -> list[Result]:
    """Inputs that gradients lead to, judged: once a session for the same inputs. A model without says so, in a note."""
    session, model = bench.session, bench.model
    made = session.memo.once(partial(driving.driven, session), model, session.golden_if_any(model), recipes)
    if made.note:
        parity.find(f"no input was driven to the ends of what the model computes: {made.note}", "note")
    return bench.judge_cases(made.cases, aimed=True)


def _lacking(
    bench: Bench, recipes: Sequence[Recipe], driven: Sequence[Case], parity: Recorder
) -> tuple[list[str], list[Result]]:
    """Of the bounds and choices of the module that the file lacks: those that go one way only, and inputs that turn the
    others, judged. Gradients lead to a bound first."""
    sites = parity.decides().get("fewer", [])
    if not sites:
        return [], []
    session, model, once = bench.session, bench.model, bench.session.memo.once
    golden = session.golden_if_any(model)
    places = sorted({where for site in sites if (where := place_of_bound(site))})
    made = once(partial(driving.driven, session), model, golden, recipes, places).cases if places else []
    found = once(partial(ways.turned, session), model, golden, recipes, [*driven, *made], sites)
    turning = [recipe.case(model.contract) for recipe in found.turning]
    return found.one_way, bench.judge_cases([*made, *turning], aimed=True)


def _tell_driven(bench: Bench, failing: Sequence[Result], parity: Recorder) -> None:
    """Keep the first failing input that no recipe makes, and say how to look at it."""
    if not failing:
        return
    case = failing[0].case
    mark = case.id.rpartition("~")[2]
    try:
        path = kept.save_arrays(bench.session.config.root, bench.cell.model, f"driven_{mark}", case.inputs)
    except ParityError as error:
        parity.find(str(error), "warning")
        return
    text = f"{case.id} kept as {path.relative_to(bench.session.config.root)}: copy it to the golden folder to keep it"
    parity.notes.append(text)
    parity.find(f"failing input: {text}", "note")


def _tell_ranges(model: ModelConfig, parity: Recorder) -> None:
    """Say in a note how far inputs without a declared range were drawn: beyond it nothing is measured."""
    for spec in model.contract.inputs:
        if spec.name in model.open_ranges:
            low, high = (Fill("").names(spec, ())[end] for end in ("lo", "hi"))
            shown = "up to golden's maximum, " if spec.range is not None else ""
            parity.find(f"{spec.name}: no range is declared: drawn {shown}from {low:g} to {high:g}", "note")


def _tell_one_way(bench: Bench, decided: Decided, lacking: Sequence[str], parity: Recorder) -> None:
    """Record the decisions of the module whose other way nothing measured, and warn of those that nobody accepted.

    Where the chain of proof is complete, a decision that the file holds too needs no word. Bounds and choices need one
    where the file lacks them.
    """
    if decided.note:
        parity.find(f"what the module decides by its inputs was not watched: {decided.note}")
        return
    open_ones = decided.one_way
    if open_ones and parity.proved():
        absent = parity.decides().get("absent", open_ones)
        open_ones = [site for site in open_ones if site in absent]
    names = [f"{accepting.MODULE}{site}" for site in (*open_ones, *lacking)]
    accepted = accepting.of_cell(bench.session, bench.cell)
    names = accepting.still_open(names, accepting.MODULE, accepted, parity)
    parity.add(judge.check_one_way(names, parity.limits()))
    found = "decided the same way in every case, so that the other was never compared"
    accepting.warn(names, found, "Add a golden case that goes the other way, or", parity)


def _swept(bench: Bench, parity: Recorder) -> list[Result]:
    """Every row of the tables that the chain of proof could not audit: what fails is recorded, else the worst."""
    contract = bench.model.contract
    integers = {spec.name for spec in contract.inputs if family(spec) == "integer"}
    rows = {name: count for name, count in parity.unaudited().items() if name in integers} if integers else {}
    if not rows:
        return []
    plan = sweep(contract, rows, bench.sizes(contract.example()) or contract.example())
    results = bench.judge(plan.recipes)
    judged = [r for r in results if not r.undefined or bench.fails(r)]
    for spec in contract.outputs:
        measured = [r for r in judged if spec.name not in r.silent]
        failing = [r for r in measured if bench.fails(r)]
        worst = max(measured, key=lambda r: r.judged[spec.name].ratio, default=None) if not failing else None
        parity.add(*(bench.check("property", r, spec) for r in failing or ([worst] if worst else [])))
    parity.add(*bench.lift_checks("property", judged))
    parity.find(_words_of_sweep(plan, rows, [r for r in results if r not in judged or r.silent]))
    return results


def _words_of_sweep(plan: Sweep, rows: Mapping[str, int], silent: Sequence[Result]) -> str:
    """Which rows were tried, and which were not."""
    names = ", ".join(f"{name} ({count} rows)" for name, count in rows.items())
    text = f"no audit could be made of what {names} looks up: every row was tried, in {len(plan.recipes)} inputs"
    for name, (untried, count) in plan.left.items():
        text += f"; {untried} of the {count} values of {name} were not"
    if silent:
        why = silent[0].undefined or next(iter(silent[0].silent.values()))
        text += f"; {len(silent)} inputs say nothing or not of every output, as {silent[0].case.id}: {why}"
    return text


def _drawn(model: ModelConfig, root: Path, examples: int, seed: int) -> list[Recipe]:
    """The recipes that every target of a model is run on."""
    if not examples:
        return []  # hypothesis takes a while to import
    from parity.cases import strategies

    source = strategies.strategy(model.contract, model.properties.strategy, root)
    return strategies.draw(source, examples, seed)


def _simplest(bench: Bench, examples: int, seed: int, drawn: Sequence[Result]) -> Result | None:
    from parity.cases import strategies

    model = bench.model
    source = strategies.strategy(model.contract, model.properties.strategy, bench.session.config.root)
    return bench.simplest(source, examples, seed, drawn)


def record(bench: Bench, flat: Sequence[Result], results: Sequence[Result], parity: Recorder) -> None:
    """A check for every output of every recipe that can be judged, and one for how many drawn ones cannot.

    `flat` are the extremes and edges: one on which the model itself is undefined says nothing about a file.
    """
    undefined = [r for r in (*flat, *results) if r.undefined and not bench.fails(r)]
    for result in (*flat, *results):
        if result in undefined:
            continue
        for spec in bench.model.contract.outputs:
            if spec.name not in result.silent:
                parity.add(bench.check("property", result, spec))
    parity.add(*bench.lift_checks("property", [*flat, *results]))
    for result in _first_silent(flat):
        if result in undefined:
            parity.find(f"not judged: {result.case.id}: {result.undefined}", "note")
            continue
        for name, why in result.silent.items():
            parity.find(f"not judged: {name} of {result.case.id}: {why}", "note")
    contract = bench.model.contract
    invented = {axis for axis in contract.sizes() if axis not in contract.dims and not contract.is_batch(axis)}
    results = [r for r in results if not (r.refused and invented)]  # nobody said that the model takes such sizes
    skipped = [r for r in results if r.skipped]
    share = len(skipped) / len(results) if results else 0.0
    detail = f"{len(results)} recipes, {len(skipped)} of them undefined at {bench.cell.precision}"
    if skipped:
        detail += f", as {skipped[0].case.id}: {_words_of_skipped(skipped)}"
        parity.find(detail, "note")
    _tell_strange([*flat, *results], parity)
    parity.add(judge.limited("property", "all", "undefined_share", share, MOST_UNDEFINED, detail))
    if ties := bench.words_of_ties(results):
        parity.find(ties, "note")
        share = len(bench.ties(results)) / len(results)
        parity.add(judge.limited("property", "ties", "undefined_share", share, MOST_UNDEFINED, ties))


def _tell_strange(results: Sequence[Result], parity: Recorder) -> None:
    """Warn of what a file gives where the model is not finite, and the model does not: nothing can judge it."""
    strange: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        for name, judged in result.judged.items():
            aimed = result.aimed and judged.strange != OTHER_INTEGERS  # most files overflow where gradients lead to
            if judged.strange and not result.beyond and not aimed:
                strange.setdefault((name, judged.strange), []).append(result)
    for (name, why), several in strange.items():
        text = f"{name}: {why}, on {len(several)} inputs, as {several[0].case.id}: no limit judges them there"
        parity.find(f"{text}; declare a range in which the model is finite", "warning")


def _words_of_skipped(results: Sequence[Result]) -> str:
    """How many inputs were not judged, or not in which outputs, and why."""
    reasons = Counter(r.refused for r in results if r.refused)
    for result in results:
        reasons.update(f"{name}: {judged.undefined}" for name, judged in result.judged.items() if judged.undefined)
        in_part = [name for name, judged in result.judged.items() if judged.skipped and not judged.undefined]
        reasons.update(f"{name}: {GIVES_NAN} in some elements, the others were judged" for name in in_part)
    return "; ".join(f"{why} (on {count})" for why, count in reasons.most_common(MOST_NAMED))


def _first_silent(flat: Sequence[Result]) -> list[Result]:
    """`flat` with one undefined edge and one undefined driven input at most: a model that refuses one tends to refuse
    its neighbours."""
    at_edges = [r for r in flat if r.skipped and r.recipe and r.recipe.on_edge]
    driven = [r for r in flat if r.skipped and not r.recipe]
    return [r for r in flat if r not in at_edges[1:] and r not in driven[1:]]


@measures(PROPERTY)
def test_property(parity_cell: Cell, parity_runtime: Runtime, parity_drawing: Drawing, parity: Recorder) -> None:
    """On extremes and on what hypothesis draws from the contract, every output is within what the precision costs."""
    run(CheckContext(parity_runtime, parity, drawing=parity_drawing))


KIND = SuiteKind(PROPERTY, always, run, test_property)
