"""A session's models: what a child needs to make one, and the fingerprint of what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from parity import formats as targets
from parity.core.case import Case, digest
from parity.core.errors import ParityError
from parity.core.settings import REFERENCE_KINDS, ModelConfig, ModelSpec
from parity.formats.target import versions
from parity.process.isolate import ChildFailure, child_environment
from parity.reference import reads
from parity.reference.messages import (
    ChainRequest,
    Evaluated,
    OracleRequest,
    PlainRequest,
    Settled,
    SettleRequest,
    TwinRequest,
)
from parity.session.artefact_files import file_records
from parity.session.cases import Cases
from parity.session.guard import ORACLE, Guarded, Outputs, Row, guarded
from parity.session.memo import remembered
from parity.session.resources import Part, Resources
from parity.store import epochs
from parity.store.cache import key_of
from parity.store.code_key import code_key

SETTLE = "parity.reference.settling:settle"


def module_of(kind: str, request: OracleRequest | PlainRequest | TwinRequest | ChainRequest) -> str:
    """The name under which a run remembers that a module hangs, as the oracle or as a twin."""
    precision = "" if isinstance(request, OracleRequest | PlainRequest) else request.precision
    return f"{kind} {precision} of {request.model}"


class Models(Part):
    """Specifications and fingerprints of a project's models."""

    def __init__(self, resources: Resources, cases: Cases):
        super().__init__(resources)
        self.cases = cases

    def spec(self, model: ModelConfig) -> ModelSpec:
        """What a child needs to make the module."""
        plain = self._plain_spec(model)
        left = self._left(model) if model.reference else ""
        return replace(plain, options={**plain.options, "left": left}) if left else plain

    def _plain_spec(self, model: ModelConfig) -> ModelSpec:
        """The same, before it is known who executes a reference file."""
        options: Mapping[str, Any] = model.options
        if model.reference is not None:
            options = {
                "content": self._content(model.reference),
                "inputs": [i.name for i in model.contract.inputs],
                "outputs": [o.name for o in model.contract.outputs],
            }
        return ModelSpec(
            str(self.resources.config.root),
            model.factory,
            dict(options),
            str(model.checkpoint) if model.checkpoint else None,
            str(model.reference) if model.reference else None,
            model.whole_module,
        )

    @remembered
    def _content(self, file: Path) -> list[str]:
        """Hashes of a reference file and of every file that it reads from beside it."""
        try:
            files = file_records(file, targets.recognised(file))
        except ParityError:  # a file that is not there, or not allowed: the child that opens it says so
            files = file_records(file, None)
        return [record.sha256 for record in files]

    @remembered
    def _left(self, model: ModelConfig) -> str:
        """Why a reference file is left to its own runtime; "" where it is executed in PyTorch, in float64.

        Settled once for the same file, packages and case, so that oracle, twins and proof go by the same execution.
        """
        if model.reference is None or REFERENCE_KINDS.get(model.reference.suffix) != "ONNX":
            return ""
        resources = self.resources
        request = SettleRequest(self._plain_spec(model), self._first_case(model))
        spec = {
            "settles": request.model.options,
            "case": digest([Case("", request.case)]),
            "code": code_key(SETTLE),
            "packages": versions(("torch", "numpy", "onnx", "onnxruntime")),
        }

        def settle(folder: Path) -> Mapping[str, Any]:
            call = partial(resources.children.call, "torch", SETTLE, request, Settled, stage="oracle")
            return {"why": call().why}

        try:
            entry = resources.store.build(spec, f"{model.name}~settled", settle)
        except ChildFailure as failure:
            slow = failure.state == "timeout"
            return "executed here it takes longer than the time-out" if slow else ""  # the oracle says what is wrong
        return str(entry.notes["why"])

    def _first_case(self, model: ModelConfig) -> Row:
        """The inputs of the first golden case; drawn ones where there is none."""
        try:
            golden = self.cases.golden_if_any(model)
        except ParityError:  # the tests of the golden data say what is wrong with it
            golden = []
        return golden[0].inputs if golden else self.cases.example(model)

    def fingerprint(self, model: ModelConfig) -> dict[str, str]:
        """Hashes of all that the model computes with, and the epoch of what is stored of it.

        Computed by one worker of the run. Raises ChildFailure where the model cannot be made.
        """
        return dict(self._identified(model)["value"])

    def findings(self, model: ModelConfig) -> tuple[str, ...]:
        """What the guard found, where this process has asked for the fingerprint."""
        identified = self.memo.made(self._identified, model)
        return (identified["finding"],) if identified and identified["finding"] else ()

    @remembered
    def _identified(self, model: ModelConfig) -> dict[str, Any]:
        resources = self.resources

        def make() -> Any:
            try:
                value = resources.children.call(
                    "torch",
                    "parity.reference.modelling:fingerprint",
                    self.spec(model),
                    dict[str, str],
                    stage="export",
                )
            except ChildFailure as failure:
                return {"failure": failure.notes}
            checked = self._guarded(model, value)
            return {"value": checked.fingerprint, "finding": checked.finding}

        shared = resources.store.once(resources.run, f"fp {model.name}", make)
        if "failure" in shared:
            raise ChildFailure(**shared["failure"])
        return dict(shared)

    def _guarded(self, model: ModelConfig, fingerprint: Mapping[str, str]) -> Guarded:
        """The fingerprint, once the model was held against what is stored of it."""
        resources = self.resources
        outputs = [output.name for output in model.contract.outputs]

        def inputs() -> Row:
            return self._first_case(model)

        def evaluate(case: Row) -> Outputs:
            request = OracleRequest(self.spec(model), [case], outputs)
            call = partial(resources.children.call, "torch", ORACLE, request, Evaluated, stage="oracle")
            answer = resources.waiting_once(module_of("oracle", request), call)
            return Outputs(answer.outputs[0], answer.dtype)

        return guarded(resources.store, model.name, fingerprint, inputs, evaluate, self.changed)

    def changed(self, noted: Mapping[str, Mapping[str, str]]) -> str:
        """What a model was seen to read and is not as it was; "" where all is."""
        root = self.resources.config.root
        return reads.changed(reads.of(noted), root, child_environment(root))

    def note_reads(self, model: ModelConfig, noted: Mapping[str, Mapping[str, str]]) -> None:
        """Keep in mind what was read for what is stored of a model."""
        fingerprint = self.fingerprint(model)
        epoch = fingerprint.pop("epoch", "")
        epochs.read(self.resources.store, key_of(fingerprint), epoch, noted)
