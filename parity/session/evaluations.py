"""What a module computes on cases: the oracle in float64, the twins, and floors of noise from both.

Evaluations are kept in the store where model, source, packages and inputs are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from parity.cases.sequence import Free
from parity.core.case import Array, Case, digest
from parity.core.errors import NoTwin
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.formats.target import versions
from parity.judging.floor import Floor, floors, natural
from parity.judging.post_processing import PostProcessed, post_process, post_process_all
from parity.process.isolate import ChildFailure
from parity.reference.messages import ChainRequest, Evaluated, OracleRequest, PlainRequest, TwinRequest
from parity.reference.recipes import TIES, recipe
from parity.session import rows
from parity.session.cases import Cases
from parity.session.memo import remembered
from parity.session.models import Models, module_of
from parity.session.resources import Part, Resources
from parity.store.cache import Entry, key_of
from parity.store.code_key import code_key

TRIES = 8  # of a tie between two, as many break it the other way as not; a single one may not

T = TypeVar("T")
Request = OracleRequest | PlainRequest | TwinRequest | ChainRequest


@dataclass(frozen=True)
class Reference:
    """Oracle outputs by case, in the order of the cases: {output: float64 array}."""

    outputs: tuple[Mapping[str, Array], ...]
    dtype: str
    note: str

    def post_processed(self, model: ModelConfig) -> list[PostProcessed]:
        """The outputs as they are compared."""
        return [post_process(model.contract.outputs, row) for row in self.outputs]


class Evaluations(Part):
    """Outputs of oracle and twins, and the noise floors that they give."""

    def __init__(self, resources: Resources, models: Models, cases: Cases):
        super().__init__(resources)
        self.models, self.cases = models, cases

    @remembered
    def reference(self, model: ModelConfig, cases: Sequence[Case]) -> Reference:
        """The oracle's outputs for `cases`. Raises ChildFailure."""
        return self._stored(model, cases, "oracle", self._oracle(model, cases), {})

    @remembered
    def twin(
        self, model: ModelConfig, cases: Sequence[Case], precision: str, flavour: str | None
    ) -> tuple[Mapping[str, Array], ...]:
        """Outputs of the twin that rounds as `flavour` of `precision` does, one row a case.

        Raises NoTwin where the module has none, ChildFailure where the process died.
        """
        calibration = self.cases.quantising(model, precision)
        depends = {
            "recipe": {"precision": precision, "flavour": flavour},
            "calibration": digest(calibration) if calibration else None,
        }
        request = self._twin(model, cases, precision, flavour)
        evaluated = _twin_or_none(lambda: self._stored(model, cases, "twin", request, depends))
        return evaluated.outputs

    def floors(
        self,
        cell: Cell,
        cases: Sequence[Case],
        oracle: Sequence[PostProcessed],
        rounding: tuple[str, str | None] | None = None,
    ) -> dict[str, Floor]:
        """The noise floor of each output of real numbers: what the cell's precision alone costs on
        `cases`, or what the precision and flavour of `rounding` cost.

        Raises NoTwin where the module has none at that precision, ParityError for what went wrong
        on the way.
        """
        model = self.resources.config.models[cell.model]
        precision, flavour = rounding or (cell.precision, self.flavour(cell))
        rows = self.twin(model, cases, precision, flavour)
        specs = model.contract.outputs
        return floors(oracle, post_process_all(specs, rows, oracle), precision, specs)

    def tie_breakers(
        self, model: ModelConfig, cases: Sequence[Case], precision: str
    ) -> list[Sequence[Mapping[str, Array]]]:
        """The model's outputs where every result in it is moved at random by about a unit of the precision: by try and
        case. Raises NoTwin and ChildFailure."""
        tries = [Case(f"{case.id} moved {number}", case.inputs) for number in range(TRIES) for case in cases]
        rows = self.twin(model, tries, precision, TIES)
        return [rows[start : start + len(cases)] for start in range(0, len(rows), len(cases))]

    @remembered
    def plain(self, model: ModelConfig, cases: Sequence[Case], precision: str) -> Sequence[Mapping[str, Array]]:
        """The outputs of the module as PyTorch runs it in float32 or, at fp16, in float16. Raises NoTwin where it does
        not run so, ChildFailure where the process died."""
        outputs = [o.name for o in model.contract.outputs]
        half = precision == "fp16"
        request = PlainRequest(self.models.spec(model), _inputs(cases), outputs, half)
        return _twin_or_none(lambda: self._stored(model, cases, "plain", request, {"half": half})).outputs

    def runs_plainly(self, cell: Cell) -> bool:
        """Whether PyTorch's own kernels can do to the numbers what the cell's precision does: compute in float32, or at
        fp16 compute in float16 and not only store weights so."""
        if cell.precision != "fp16":
            return cell.precision == "fp32"
        return recipe("fp16", self.flavour(cell)).activations == "fp16"

    def flavour(self, cell: Cell) -> str | None:
        """The twin that is nearest to correct exports of a cell, where any were measured."""
        measured = natural(cell.target, cell.precision)
        return measured.flavour if measured else None

    def evaluated(
        self,
        model: ModelConfig,
        cases: Sequence[Case],
        kind: str,
        stored: bool,
        precision: str = "",
        flavour: str | None = None,
    ) -> Sequence[Mapping[str, Array]]:
        """Outputs of oracle or twin (`kind`) on drawn cases: from the store where all targets draw
        the same, else just made. Raises NoTwin and ChildFailure."""
        if stored and kind == "twin":
            return self.twin(model, cases, precision, flavour)
        if stored:
            return self.reference(model, cases).outputs
        if kind == "oracle":
            return self._computed(kind, self._oracle(model, cases)).outputs
        request = self._twin(model, cases, precision, flavour)
        return _twin_or_none(lambda: self._computed(kind, request)).outputs

    @remembered
    def sequence(
        self,
        model: ModelConfig,
        steps: Sequence[Mapping[str, Array]],
        keep: Sequence[str],
        free: Free | None = None,
        precision: str | None = None,
        flavour: str | None = None,
    ) -> Sequence[Mapping[str, Array]]:
        """The outputs `keep` of steps that feed one another, by the oracle, or by the twin of a
        precision. Raises NoTwin and ChildFailure."""
        calibration = self.cases.quantising(model, precision or "")
        depends = {
            "carry": dict(model.states),
            "keep": list(keep),
            "free": asdict(free) if free else None,
            "precision": precision,
            "flavour": flavour,
            "calibration": digest(calibration) if calibration else None,
        }
        request = ChainRequest(
            self.models.spec(model),
            steps,
            [o.name for o in model.contract.outputs],
            model.states,
            keep,
            free,
            precision,
            flavour,
            _inputs(calibration) if calibration else None,
        )
        cases = [Case(f"step {n}", step) for n, step in enumerate(steps)]

        def evaluate() -> Reference:
            return self._stored(model, cases, "chain", request, depends, keep)

        evaluated = _twin_or_none(evaluate) if precision else evaluate()
        return evaluated.outputs

    def _stored(
        self,
        model: ModelConfig,
        cases: Sequence[Case],
        kind: str,
        request: Request,
        depends: Mapping[str, Any],
        keep: Sequence[str] | None = None,
    ) -> Reference:
        """The answer of `parity.reference.KIND:evaluate` to `request`, made once for the same
        model, source and inputs.

        `depends`: what else it depends on. `keep`: the outputs that it gives, by default all.
        """
        outputs = [o.name for o in model.contract.outputs]
        spec = {
            "evaluates": kind,
            "model": self.models.fingerprint(model),
            "cases": digest(cases),
            "outputs": outputs,
            "code": code_key(f"parity.reference.{kind}:evaluate"),
            "packages": versions(("torch", "numpy")),
            **depends,
        }

        def evaluate(folder: Path) -> Mapping[str, Any]:
            self.resources.progress(model.name, f"{kind}, {len(cases)} cases")
            result = self._computed(kind, request)
            rows.write(folder / "outputs.npz", result.outputs)
            return {
                "dtype": result.dtype,
                "note": result.note,
                "cases": len(cases),
                "reads": asdict(result.reads),
            }

        def is_current(entry: Entry) -> bool:
            return not self.models.changed(entry.notes["reads"])

        name = f"{model.name}~{kind}-{key_of(spec)[:12]}"
        resources = self.resources
        entry = resources.store.build(spec, name, evaluate, rebuild_since=resources.rebuild_since, accepts=is_current)
        self.models.note_reads(model, entry.notes["reads"])
        kept = rows.read(entry.folder / "outputs.npz", len(cases), keep or outputs)
        return Reference(tuple(kept), entry.notes["dtype"], entry.notes["note"])

    def _computed(self, kind: str, request: Request) -> Evaluated:
        """What `parity.reference.KIND:evaluate` gives now, in a child. Raises ChildFailure."""
        function = f"parity.reference.{kind}:evaluate"
        call = partial(self.resources.children.call, "torch", function, request, Evaluated, stage=kind)
        return self.resources.waiting_once(module_of(kind, request), call)

    def _oracle(self, model: ModelConfig, cases: Sequence[Case]) -> OracleRequest:
        outputs = [o.name for o in model.contract.outputs]
        return OracleRequest(self.models.spec(model), _inputs(cases), outputs)

    def _twin(
        self,
        model: ModelConfig,
        cases: Sequence[Case],
        precision: str,
        flavour: str | None,
    ) -> TwinRequest:
        calibration = self.cases.quantising(model, precision)
        return TwinRequest(
            self.models.spec(model),
            _inputs(cases),
            [o.name for o in model.contract.outputs],
            precision,
            _inputs(calibration) if calibration else None,
            flavour,
        )


def _inputs(cases: Sequence[Case]) -> list[Mapping[str, Array]]:
    return [case.inputs for case in cases]


def _twin_or_none(make: Callable[[], T]) -> T:
    """What a twin computes. Its own refusal becomes NoTwin; crash, time-out, lack of memory stay
    what they are."""
    try:
        return make()
    except ChildFailure as failure:
        if failure.state != "error" or failure.reason.startswith("MemoryError"):
            raise
        raise NoTwin(str(failure)) from None
