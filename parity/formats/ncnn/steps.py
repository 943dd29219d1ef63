"""NCNN layer by layer: an extractor that is given what the layer reads computes nothing else. Child only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.files import ncnn as ncnn_files
from parity.formats.graph import Array, Grid, Values
from parity.formats.ncnn.runtime import NcnnSession
from parity.formats.steps import NotPossible, Step, ports


class NcnnSteps:
    """One .param file with its .bin."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        self.session = NcnnSession(folder, notes)
        self.folder, self.notes = folder, notes
        self.net, self.ncnn = self.session.net, self.session.ncnn
        self.inputs, self.outputs = ports(notes, "inputs"), ports(notes, "outputs")
        self.grids: Mapping[str, Grid] = {}
        layers = ncnn_files.layers(Path(folder, notes["entry"]).read_text(encoding="utf-8"))
        self.steps: Sequence[Step] = [
            Step(i, layer.kind, layer.bottoms, layer.tops) for i, layer in enumerate(layers) if layer.kind != "Input"
        ]
        self.counts = {layer.name: len(layer.tops) for layer in layers}

    def feed(self, case: Mapping[str, Array]) -> Values:
        return {port.tensor: np.ascontiguousarray(case[port.name][0]) for port in self.inputs}

    def run(self, step: Step, values: Values) -> Values:
        extractor = self.net.create_extractor()
        held = [self.ncnn.Mat(np.ascontiguousarray(values[name])).clone() for name in step.reads]
        for name, mat in zip(step.reads, held, strict=True):
            extractor.input(name, mat)
        found = {}
        for name in step.writes:
            code, mat = extractor.extract(name)
            if code != 0:
                raise NotPossible(f"ncnn does not run {step.kind} alone (code {code})")
            found[name] = np.array(mat).copy()
        return found

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        file = Path(self.folder, self.notes["entry"])
        weights = Path(self.folder, self.notes.get("weights", file.with_suffix(".bin").name))
        param, content = ncnn_files.cut(
            file.read_text(encoding="utf-8"), weights.read_bytes(), [s.index for s in steps]
        )
        Path(folder, "step.param").write_text(param, encoding="utf-8")
        Path(folder, "step.bin").write_bytes(content)
        inner = {name for s in steps for name in s.writes}
        np.savez(Path(folder, "inputs.npz"), **{n: values[n] for s in steps for n in s.reads if n not in inner})
        return "step.param"
