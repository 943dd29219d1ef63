"""An ncnn .param (text) and .bin (weights) in the hands of a fault. Child only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.files import ncnn as ncnn_files
from parity.files.ncnn import Layer
from parity.formats.draft import Draft
from parity.formats.graph import Array
from parity.formats.ncnn.graph import NcnnArtefact

_FUSED = 9  # the parameter that holds a layer's own activation: 1 ReLU, 2 leaky, 3 clip, 4 sigmoid, 5 mish, 6 hswish
_BORDERS = ((4, 15), (14, 16))  # left and right, top and bottom: the second is as the first where it is not given
_CONVOLVES = ("Convolution", "ConvolutionDepthWise", "Convolution1D")
_SWAPS = {"Swish": "HardSwish", "HardSwish": "Swish", "Sigmoid": "TanH", "TanH": "Sigmoid", "GELU": "Swish",
          "ReLU": "AbsVal", "HardSigmoid": "Sigmoid", "Clip": "ReLU"}  # fmt: skip
_EPSILON = {"BatchNorm": 1, "LayerNorm": 1, "GroupNorm": 2, "InstanceNorm": 1, "RMSNorm": 1}


class NcnnDraft(Draft):
    kernel_sets = ("ncnn", "plain")
    threads = True

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        self.artefact = NcnnArtefact(folder, notes)
        super().__init__(folder, notes, self.artefact.graph)
        self.lines = ncnn_files.layers(self.artefact.param.read_text(encoding="utf-8"))

    def store(self, name: str, stored: Array) -> None:
        self.artefact.stored[name] = np.ascontiguousarray(stored)

    def _edit(self, index: int, kind: str = "", **changes: Any) -> bool:
        old = self.lines[index]
        parts = {"bottoms": old.bottoms, "tops": old.tops, "parameters": dict(old.parameters)} | changes
        self.lines[index] = Layer(kind or old.kind, old.name, **parts)
        return True

    def change_activation(self, lost: bool) -> bool:
        for index, layer in enumerate(self.lines):
            if layer.kind in (*_CONVOLVES, "InnerProduct") and layer.number(_FUSED):
                given = {k: v for k, v in layer.parameters.items() if k not in (_FUSED, -23310)}
                other = {} if lost else {_FUSED: "1" if layer.number(_FUSED) != 1 else "4"}
                return self._edit(index, parameters={**given, **other})
            if layer.kind in _SWAPS:
                return self._edit(index, "Noop" if lost else _SWAPS[layer.kind], parameters={})
        return False

    def subtract(self) -> bool:
        for index, layer in enumerate(self.lines):
            if layer.kind == "BinaryOp" and layer.number(0) == 0 and len(set(layer.bottoms)) == 2:
                return self._edit(index, parameters={**layer.parameters, 0: "1"})
        return False

    def exchange_operands(self) -> bool:
        for index, layer in enumerate(self.lines):
            ordered = layer.kind == "Concat" or (layer.kind == "BinaryOp" and layer.number(0) in (1, 3))
            if ordered and len(set(layer.bottoms)) >= 2:
                first, second, *rest = layer.bottoms
                return self._edit(index, bottoms=(second, first, *rest))
        return False

    def pad_at_end(self) -> bool:
        for index, layer in enumerate(self.lines):
            if layer.kind in _CONVOLVES and layer.number(4) > 0:
                given = dict(layer.parameters)
                for low, high in _BORDERS:
                    before = layer.number(low, layer.number(4))
                    given |= {low: "0", high: str(before + layer.number(high, before))}
                return self._edit(index, parameters=given)
        return False

    def set_epsilon(self, value: float) -> bool:
        found = [i for i, layer in enumerate(self.lines) if layer.kind in _EPSILON]
        for index in found:
            layer = self.lines[index]
            self._edit(index, parameters={**layer.parameters, _EPSILON[layer.kind]: f"{value:e}"})
        return bool(found)

    def rewrite(self) -> bool:
        kept = {entry["name"] for side in ("inputs", "outputs") for entry in self.notes[side].values()}
        made = [name for layer in self.lines for name in layer.tops if name not in kept]
        other = {name: f"v{i}" for i, name in enumerate(made)}
        for index, layer in enumerate(self.lines):
            bottoms, tops = (tuple(other.get(n, n) for n in names) for names in (layer.bottoms, layer.tops))
            self.lines[index] = Layer(layer.kind, f"layer{index}", bottoms, tops, layer.parameters)
        return True

    def save(self, folder: Path) -> None:
        param = folder / self.notes["entry"]
        param.write_text(ncnn_files.text(self.lines), encoding="utf-8")
        weights = self.notes.get("weights", str(Path(self.notes["entry"]).with_suffix(".bin")))
        (folder / weights).write_bytes(self.artefact._bin({}, lifted=False))
