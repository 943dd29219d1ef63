"""A Core ML file, run by Core ML on macOS and by this project's own evaluator elsewhere. In the child."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.formats.coreml.classifier import labels
from parity.formats.coreml.state import execute, predict
from parity.formats.labels import every_list, of_metadata
from parity.formats.target import Array, narrowed


class CoreMLSession:
    """The package, run by Core ML on macOS and by the evaluator elsewhere; `executor` in the description says which."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        self.path, self.notes = Path(folder, notes["entry"]), notes
        self.executor = "coreml-runtime" if platform.system() == "Darwin" else "mil-eval"
        if self.executor == "mil-eval":
            from parity import mil

            self.program: Any = mil.load(self.path)
        else:  # pragma: no cover  (macOS)
            import coremltools as ct

            self.program = ct.models.MLModel(str(self.path), compute_units=ct.ComputeUnit.CPU_ONLY)

    def describe(self) -> dict[str, Any]:
        described = describe(self.path)
        for name, output in self.notes.get("states", {}).items():  # written before a call and read after it
            for side, known in (("inputs", name), ("outputs", output)):
                described[side].append({"name": known, "shape": described["states"][name], "dtype": None})
        return described | {"executor": self.executor}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fed = narrowed(inputs)
        if self.executor == "mil-eval":
            return execute(self.program, self.notes, fed)
        return predict(self.program, self.notes, fed)  # pragma: no cover  (macOS)


def describe(path: Path) -> dict[str, Any]:
    """Inputs, outputs and operator counts of a saved model, read from its specification; of one with several functions,
    those of its default function, and the names of the others."""
    from parity.mil.package import Package

    spec = Package(path).spec
    name = spec.description.defaultFunctionName or "main"
    entered = next((f for f in spec.description.functions if f.name == name), spec.description)
    kinds = {65568: "float32", 65600: "float64", 131104: "int32", 65552: "float16", 131080: "int8"}

    def features(described: Any) -> list[dict[str, Any]]:
        found = []
        for feature in described:
            array = feature.type.multiArrayType
            if feature.name == entered.predictedFeatureName != "":
                continue  # the label of the likeliest class: no tensor, and nothing that a model's outputs declare
            found.append({
                "name": feature.name, "shape": [int(d) for d in array.shape], "dtype": kinds.get(array.dataType),
                "shapes": [[int(d) for d in s.shape] for s in array.enumeratedShapes.shapes],
            })  # fmt: skip
        return found

    counted: Counter[str] = Counter()
    program = spec.WhichOneof("Type") == "mlProgram"
    if program:
        functions = spec.mlProgram.functions
        for function in [functions[name]] if name in functions else functions.values():
            for block in function.block_specializations.values():
                counted.update(op.type for op in block.operations if op.type != "const")
    else:
        counted.update(str(layer.WhichOneof("layer")) for layer in spec.neuralNetwork.layers)
    held = {f.name for f in spec.description.functions}
    if program and name in spec.mlProgram.functions:
        held.update(spec.mlProgram.functions)  # whether the description tells them or not
    unmeasured = sorted(held - {name})
    others = {"signature": name, "unmeasured_signatures": unmeasured} if unmeasured else {}
    return {
        "inputs": features(entered.input),
        "outputs": features(entered.output),
        "states": {f.name: [int(d) for d in f.type.stateType.arrayType.shape] for f in entered.state},
        "ops": dict(sorted(counted.items())),
        "labels": [str(label) for label in labels(spec)] or of_metadata(spec.description.metadata.userDefined),
        "label_lists": every_list(dict(spec.description.metadata.userDefined)),
    } | others
