"""A session's models: what a child needs to make one, and the fingerprint of what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.core.settings import ModelConfig, ModelSpec
from parity.process.isolate import ChildFailure
from parity.session.memo import remembered
from parity.session.resources import Part
from parity.store.cache import sha256_file


class Models(Part):
    """Specifications and fingerprints of a project's models."""

    def spec(self, model: ModelConfig) -> ModelSpec:
        """What a child needs to make the module."""
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
        """Hashes of a reference file and of the weights that an ONNX file may have beside it."""
        parts = [file, file.with_name(file.name + ".data")]
        return [sha256_file(part) for part in parts if part.is_file()]

    @remembered
    def fingerprint(self, model: ModelConfig) -> dict[str, str]:
        """Hashes of the model's tensors, structure and source; computed by one worker of the run.

        Raises ChildFailure where the model cannot be made.
        """
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
            return {"value": value}

        shared = resources.store.once(resources.run, f"fp {model.name}", make)
        if "failure" in shared:
            raise ChildFailure(**shared["failure"])
        return dict(shared["value"])
