"""One cell's artefact and its oracle, warm, for inputs that belong to no golden set: run, judged, shrunk, repeated.

What each input may be off by is its own floor (`parity.judging.single`). Everything goes through the children in
batches, and only what is left undecided reaches the twins.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parity.cases import draw, kept
from parity.cases.recipes import Recipe, family
from parity.core.case import Array, Case
from parity.core.contract import OutputSpec
from parity.core.errors import NoTwin, ParityError
from parity.core.kinds import Kind
from parity.core.record import Check
from parity.formats import snippet
from parity.judging import judge, single
from parity.judging.limits import DRAWN, Limit, is_default
from parity.judging.post_processing import PostProcessed, post_process
from parity.process.isolate import ChildFailure
from parity.reference.recipes import RECIPES, TIES
from parity.session.placement import placed
from parity.session.proof import proved_on
from parity.session.session import Runtime
from parity.suite.recorder import Recorder

BATCH_BYTES = 64 << 20  # of inputs, in one call of a child
MOST_LIFTED = 8  # inputs that the lift is made on: each costs a second, and a file with more is looked at
SHRINKS = 80  # evaluations that shrinking may cost
REPEATED = 4  # runs that the time of one is taken from
LEAST_SECONDS = 1e-4  # of those


@dataclass
class Result:
    """What became of one input: each output's judgement, or why it could not be run."""

    case: Case
    recipe: Recipe | None = None
    aimed: bool = False  # gradients led to it
    got: PostProcessed | None = None
    want: PostProcessed | None = None
    judged: dict[str, single.Judged] = field(default_factory=dict)
    broke: str = ""  # the artefact's own error
    refused: str = ""  # the model's own error
    lifted: str = ""  # what the lift, made on this very input, says: the file computes what the model does

    @property
    def beyond(self) -> bool:
        """Whether an input lies beyond the declared range."""
        return any(fill.magnitude > 1 for fill in (self.recipe.inputs.values() if self.recipe else ()))

    @property
    def silent(self) -> dict[str, str]:
        """The outputs that say nothing of the artefact on this input, and why."""
        return {name: why for name, j in self.judged.items() if (why := j.silent or j.undefined)}

    @property
    def undefined(self) -> str:
        """Why nothing can be judged on this input, not one output; else empty."""
        reasons = [judged.undefined for judged in self.judged.values()]
        return self.refused or (reasons[0] if reasons and all(reasons) else "")

    @property
    def skipped(self) -> bool:
        """Whether the model is undefined on this input, in one element of one output at least."""
        return bool(self.refused) or any(j.undefined or j.skipped for j in self.judged.values())


class Bench:
    """Runs recipes through one cell and its oracle, and judges them."""

    def __init__(
        self,
        runtime: Runtime,
        limits: Callable[[str], Mapping[str, Limit]],
        proved: Callable[[], bool] = lambda: False,
    ):
        """`proved`: whether the chain of proof of the cell's file is complete."""
        self.proved = proved
        self.runtime, self.session, self.cell = runtime, runtime.session, runtime.cell
        self.model = self.session.config.models[self.cell.model]
        notes = runtime.artifact.notes
        self.fixed, self.enumerated = (
            bool(notes.get("fixed")),
            notes.get("enumerated", {}) if notes.get("fixed") else {},
        )
        self.limits = {o.name: limits(o.name) for o in self.model.contract.outputs}
        self.usual = self._usual()
        self.without: dict[str, str] = {}  # flavours of twin that could not be asked, and why

    def _usual(self) -> dict[str, single.Usual]:
        """The golden floor, where there is golden data and the model has a twin."""
        floors: Mapping[str, Any] = {}
        cases = self.session.golden_if_any(self.model)
        if cases:
            try:
                oracle = self.session.reference(self.model, cases).post_processed(self.model)
                floors = self.session.floors(self.cell, cases, oracle)
            except NoTwin:
                floors = {}
        precision = self.cell.precision
        return {o.name: single.Usual.of(floors.get(o.name), precision) for o in self.model.contract.outputs}

    @cached_property
    def seconds(self) -> float:
        """What the file takes for one input of the example's sizes, without what each call of a child costs."""
        contract = self.model.contract
        inputs = draw.inputs(contract, contract.example(), self.session.config.seed)
        moments = [time.perf_counter()]
        for count in (1, 1, 1 + REPEATED):  # the first may compile
            self.runtime.run([inputs] * count)
            moments.append(time.perf_counter())
        _, single, several = np.diff(moments)
        return max(float(several - single), LEAST_SECONDS) / REPEATED

    def sizes(self, asked: Mapping[str, int]) -> dict[str, int]:
        """The sizes of a file with fixed axes that come nearest to those `asked` for: the example's, and what it
        enumerates, all axes together. Empty where every declared size can be had."""
        if not self.fixed:
            return {}
        lead = next(iter(self.enumerated), "")
        known = list(self.enumerated.get(lead, ()))
        place = known.index(asked[lead]) if asked.get(lead) in known else 0
        return self.model.contract.example() | {axis: sizes[place] for axis, sizes in self.enumerated.items()}

    def judge(self, recipes: Sequence[Recipe], stored: bool = True) -> list[Result]:
        """A result for each recipe, in order. Raises ChildFailure where the artefact's process died."""
        return self._judge([Result(r.case(self.model.contract, self.sizes(r.dims)), r) for r in recipes], stored)

    def judge_cases(
        self, cases: Sequence[Case], wants: Sequence[Mapping[str, Array]] | None = None, *, aimed: bool = False
    ) -> list[Result]:
        """A result for each case, in order. `wants` are the model's outputs, where the oracle is not to be asked for
        them; `aimed`: gradients led to the cases. Raises ChildFailure."""
        results = [Result(case, aimed=aimed) for case in cases]
        for result, want in zip(results, wants or (), strict=wants is not None):
            result.want = post_process(self.model.contract.outputs, want)
        return self._judge(results, True)

    def _judge(self, results: list[Result], stored: bool) -> list[Result]:
        for part in _parts(results):
            self._oracle([r for r in part if r.want is None], stored)
            self._artefact([r for r in part if not r.refused])
        judgeable = [r for r in results if not r.refused and not r.broke]
        self._settle(judgeable, stored)
        if stored:
            self._lift([r for r in judgeable if self._over(r)])
        return results

    def _lift(self, results: Sequence[Result]) -> None:
        """Make the lift of a proved file on inputs that it is off by more than correct files have shown: what remains
        where it holds is what the precision costs. What is grossly off, or not finite, is wrong all the same."""
        within = [r for r in results if all(self._tolerable(r, name) for name in r.judged)][:MOST_LIFTED]
        if not within or not self.proved():
            return
        for result in within:
            result.lifted = proved_on(self.session, self.cell, result.case)

    def _tolerable(self, result: Result, output: str) -> bool:
        """Whether an output is within its limit, or beyond a default one by less than the output itself."""
        judged, assumed = result.judged[output], result.want
        if self.within(output, judged):
            return True
        if judged.exact or judged.reason or assumed is None or not is_default(self.limit(output, judged).source):
            return False
        return judged.error <= self.usual[output].gross(assumed.outputs[output])

    def _oracle(self, part: Sequence[Result], stored: bool) -> None:
        if not part:
            return
        try:
            rows = self.session.evaluated(self.model, [r.case for r in part], "oracle", stored)
        except ChildFailure as failure:
            if failure.state != "error":
                raise
            if len(part) == 1:
                part[0].refused = f"the model itself refuses it: {failure.reason}"
                return
            for result in part:
                self._oracle([result], stored)
            return
        for result, row in zip(part, rows, strict=True):
            result.want = post_process(self.model.contract.outputs, row)

    def _artefact(self, part: Sequence[Result]) -> None:
        if not part:
            return
        try:
            layouts = [r.recipe.layouts() if r.recipe else {} for r in part]
            rows = self.runtime.run([r.case.inputs for r in part], layouts)
        except ChildFailure as failure:
            if failure.stage == "load":
                raise
            if failure.state != "error" and len(part) == 1:
                if part[0].recipe is not None:
                    self._keep(part[0].recipe)
                raise
            if len(part) == 1:
                part[0].broke = failure.reason
                return
            for result in part:
                self._artefact([result])
            return
        for result, row in zip(part, rows, strict=True):
            assert result.want is not None
            result.got = post_process(self.model.contract.outputs, row, result.want)
            for name, want in result.want.outputs.items():
                if name in self.usual:
                    got, flat = result.got.outputs.get(name), bool(result.recipe and result.recipe.flat)
                    result.judged[name] = single.judge(got, want, self.usual[name], flat)
            self._set_aside(result)

    def _set_aside(self, result: Result) -> None:
        """Beside an output of NaN, judge no integers, and beyond the declared range nothing."""
        if not result.skipped:
            return
        for name, judged in result.judged.items():
            if result.beyond or judged.exact:
                result.judged[name] = single.beside_nan(judged)

    def _settle(self, results: Sequence[Result], stored: bool) -> None:
        """Ask the twins, the cell's own first, about what golden floors leave undecided; each can only excuse."""
        for flavour in self.flavours():
            open_ = [r for r in results if self._over(r)]
            if not open_:
                return
            try:
                rows = self.session.evaluated(
                    self.model, [r.case for r in open_], "twin", stored, precision=self.cell.precision, flavour=flavour
                )
            except NoTwin as error:  # nothing is excused by it
                self.without[flavour] = str(error)
                continue
            self._excuse(open_, rows)
        open_ = [r for r in results if self._over(r)]
        if open_ and self.session.runs_plainly(self.cell):
            with contextlib.suppress(NoTwin):
                self._excuse(open_, self.session.plain(self.model, [r.case for r in open_], self.cell.precision))
        open_ = [r for r in results if self._over(r)]
        if open_ and self.cell.precision == "fp32":
            with contextlib.suppress(NoTwin):
                self._excuse(open_, placed(self.session, self.cell, [r.case for r in open_]).outputs)
        self._settle_ties([r for r in results if self._over(r)])
        self._excuse_amplified([r for r in results if r.recipe and r.recipe.flat and self._over(r)], stored)

    def _excuse(self, results: Sequence[Result], rows: Sequence[Mapping[str, Array]]) -> None:
        """Take the outputs of a twin, a row a result, into the floor of each result. What equals them is right, however
        much of the output the precision costs."""
        for result, raw in zip(results, rows, strict=True):
            assert result.got is not None and result.want is not None
            twin = post_process(self.model.contract.outputs, raw, result.want).outputs
            for name, judged in result.judged.items():
                got, want = result.got.outputs.get(name), result.want.outputs[name]
                equal = got is not None and np.array_equal(got, twin[name], equal_nan=twin[name].dtype.kind == "f")
                bounded = self.promised(result) and not equal
                most = self.most(name, judged, want) if bounded else math.inf
                result.judged[name] = single.settle(judged, got, want, twin[name], most)

    def _settle_ties(self, results: Sequence[Result]) -> None:
        """Ask the tie breakers about what no twin excuses: where they jump, the model decides between equals."""
        if not results:
            return
        try:
            tries = self.session.tie_breakers(self.model, [r.case for r in results], self.cell.precision)
        except NoTwin as error:
            self.without[TIES] = str(error)
            return
        for number, result in enumerate(results):
            assert result.got is not None and result.want is not None
            wants = result.want
            others = [post_process(self.model.contract.outputs, rows[number], wants).outputs for rows in tries]
            for name, judged in result.judged.items():
                got, want = result.got.outputs.get(name), wants.outputs[name]
                each = [other[name] for other in others]
                result.judged[name] = single.settle_tie(judged, got, want, each, self.usual[name])

    def _excuse_amplified(self, results: Sequence[Result], stored: bool) -> None:
        """Let flat inputs say nothing where the model amplifies rounding; its float32 twin shows it."""
        if not results:
            return
        flavour = next(iter(RECIPES["fp32"]))
        try:
            rows = self.session.evaluated(
                self.model, [r.case for r in results], "twin", stored, precision="fp32", flavour=flavour
            )
        except NoTwin as error:
            self.without[flavour] = str(error)
            return
        for result, raw in zip(results, rows, strict=True):
            assert result.want is not None
            twin = post_process(self.model.contract.outputs, raw, result.want).outputs
            for name, judged in result.judged.items():
                if not self.within(name, judged):
                    want, usual = result.want.outputs[name], self.usual[name]
                    result.judged[name] = single.unless_amplified(judged, want, usual, twin[name])

    def most(self, output: str, judged: single.Judged, want: Array) -> float:
        """The most that a twin may add to the floor: times the limit, it is what may be excused at all."""
        return self.usual[output].most(want, self.cell.precision) / max(self.limit(output, judged).value or 1.0, 1.0)

    def promised(self, result: Result) -> bool:
        """Whether every input holds what the contract says that the model takes: a range is declared, and kept.

        A mask that hides everything leaves a softmax nothing but its rounding, and is promised nowhere. Nor is an input
        that gradients led to: it makes an exp() of ten thousand where pictures make one of ten, and what overflows
        there in the twin, too, is the precision's.
        """
        if result.aimed:
            return False
        inputs = result.recipe.inputs if result.recipe else {}
        for spec in self.model.contract.inputs:
            fill = inputs.get(spec.name)
            if family(spec) == "float" and (spec.range is None or (fill is not None and fill.magnitude > 1)):
                return False
            if family(spec) == "mask" and fill is not None and fill.kind == "padding":
                return False
        return True

    def flavours(self) -> tuple[str, ...]:
        """The twins of the cell's precision, the one that leaves least to the others first: the one nearest to correct
        exports; at fp32, where files follow none bit by bit, the one that rounds most."""
        own, names = self.session.flavour(self.cell), tuple(RECIPES[self.cell.precision])
        if self.cell.precision == "fp32":
            return names[::-1]
        return (own, *(n for n in names if n != own)) if own in names else names

    def _over(self, result: Result) -> bool:
        return any(not self.within(name, j) for name, j in result.judged.items())

    def limit(self, output: str, judged: single.Judged | None) -> Limit:
        return self.limits[output]["differing_share" if judged and judged.exact else DRAWN]

    def within(self, output: str, judged: single.Judged) -> bool:
        bound = self.limit(output, judged).value
        if judged.silent or judged.undefined:
            return True
        return judged.ratio <= (bound if bound is not None else math.inf) and not judged.reason

    def fails(self, result: Result) -> bool:
        return bool(result.broke) or (not result.refused and not result.lifted and self._over(result))

    def simplest(self, source: Any, count: int, seed: int, known: Sequence[Result]) -> Result | None:
        """The simplest recipe that fails, reached from the same draws; at most SHRINKS more evaluations."""
        from parity.cases import strategies

        memo = {r.recipe.digest: r for r in known if r.recipe is not None}
        left = SHRINKS

        def fails(recipe: Recipe) -> bool:
            nonlocal left
            if recipe.digest not in memo:
                if left == 0:
                    return False
                left -= 1
                memo[recipe.digest] = self.judge([recipe], stored=False)[0]
            return self.fails(memo[recipe.digest])

        best = strategies.shrink(source, count, seed, fails, self.model.contract)
        return memo[best.digest] if best else None

    def script(self, result: Result) -> list[str]:
        """What repeats a failing result by hand, in the project's folder."""
        assert result.recipe is not None and result.want is not None
        name = max(result.judged, key=lambda n: result.judged[n].ratio) if result.judged else next(iter(self.usual))
        got = result.got.outputs.get(name) if result.got else None
        place, want = snippet.element(got, result.want.outputs[name])
        artifact, target, root = self.runtime.artifact, self.runtime.target, self.session.config.root
        folder = artifact.folder
        if folder.is_relative_to(root) or (folder.is_relative_to(Path.home()) and root.is_relative_to(Path.home())):
            folder = Path(os.path.relpath(folder, root))  # an absolute one would name a home, which reports do not
        script = snippet.lines(
            target, folder, artifact.notes, self.model.contract, result.recipe,
            self.sizes(result.recipe.dims), name, place, want, self.runtime.description,
        )  # fmt: skip
        python = self.runtime.python
        if python != sys.executable:
            script[0] += (
                f"  # run it with {os.path.relpath(python, root) if Path(python).is_relative_to(root) else python}"
            )
        return script

    def _keep(self, recipe: Recipe) -> str:
        try:
            path = kept.save(self.session.config.root, self.cell.model, recipe)
        except ParityError as error:
            return str(error)
        return f"kept as {path.relative_to(self.session.config.root)}; make it golden: parity promote " + (
            f"{self.cell.model} {recipe.digest}"
        )

    def tell(self, result: Result, parity: Recorder) -> None:
        """Keep a failing recipe, and say in the test's message and in the record how to repeat it."""
        assert result.recipe is not None
        text = f"{result.recipe.id} {self._keep(result.recipe)}\n" + "\n".join(self.script(result))
        parity.notes.append(text)
        parity.find(f"simplest failing input: {text}", "note")

    def tell_twins(self, parity: Recorder) -> None:
        """Warn of the twins that could not be asked: an input may fail for the want of them."""
        for flavour, why in self.without.items():
            text = f"no twin {self.cell.precision} {flavour}, which excuses nothing then: {why.splitlines()[0]}"
            parity.find(text, "warning")

    def ties(self, results: Sequence[Result]) -> list[Result]:
        """The inputs on which some output is decided between equals."""
        return [r for r in results if single.TIE in r.silent.values()]

    def words_of_ties(self, results: Sequence[Result]) -> str:
        """Which outputs say nothing of the artefact on which inputs, because of ties; empty where there are none."""
        tied = self.ties(results)
        if not tied:
            return ""
        outputs = ", ".join(sorted({name for r in tied for name, why in r.silent.items() if why == single.TIE}))
        return (
            f"{outputs}: on {len(tied)} of {len(results)} inputs, as {tied[0].case.id}, the model decides between "
            f"equals: its answer jumps when its results move by a unit of {self.cell.precision}"
        )

    def lift_checks(self, kind: Kind, results: Sequence[Result]) -> list[Check]:
        """A check for each input that the lift was made on and holds."""
        return [judge.lifted(kind, r.case.id, r.lifted) for r in results if r.lifted]

    def check(self, kind: Kind, result: Result, spec: OutputSpec) -> Check:
        """The check of one output of one input."""
        judged = result.judged.get(spec.name)
        limit = self.limit(spec.name, judged)
        if judged is None:
            return judge.single(kind, result.case.id, spec, limit, None, result.broke or "was not measured")
        detail = judged.reason or judged.words
        if judged.exact and not judged.reason:
            detail = f"{judged.error:.3g} of the elements differ"
        return judge.single(kind, result.case.id, spec, limit, judged.ratio, detail)


def _parts(results: Sequence[Result]) -> list[list[Result]]:
    parts: list[list[Result]] = [[]]
    size = 0
    for result in results:
        bytes_ = sum(v.nbytes for v in result.case.inputs.values())
        if parts[-1] and size + bytes_ > BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(result)
        size += bytes_
    return parts if parts[-1] else []
