"""The target `npz`: linear layers and ReLUs as arrays in a file, run by NumPy. And the metric `bits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import parity

FILE = "layers.npz"


class Npz(parity.Target):
    """What the suite must know before anything runs: names, needs, and the steps that make a file."""

    name = "npz"
    precisions = ("fp32", "fp16")
    requires = ("torch",)  # to export
    extra = "torch"
    session = "parity_npz:NpzSession"
    family = "numpy"  # the child process that runs the file; targets with the same family share one
    runtime_package = "numpy"
    packages = ("torch", "numpy")  # what its files are made and run by: a report names their versions
    suffixes = (".npz",)  # `parity verify` knows its files by them
    graph = "parity_npz.inside:NpzArtefact"  # the chain of proof
    steps = "parity_npz.inside:NpzSteps"  # the first divergence
    draft = "parity_npz.inside:NpzDraft"  # faults in the file, for power

    def routes(self, cell: Any, model: Any, config: Any) -> Sequence[parity.Route]:
        options = {"precision": cell.precision}
        step = parity.Step("layers", "torch", "parity_npz:export", ("torch", "numpy"), options, stage="export")
        return [parity.Route("npz", (step,))]


def export(
    work: str, options: Mapping[str, Any], model: parity.ModelSpec, contract: Mapping[str, Any], **_: Any
) -> Any:
    """In a child: write the file into `work` and say what is in it."""
    from torch import nn

    dtype = {"fp32": np.float32, "fp16": np.float16}[options["precision"]]
    arrays = {}
    for i, layer in enumerate(parity.load_module(model).children()):
        if isinstance(layer, nn.Linear):
            arrays[f"{i}.weight"], arrays[f"{i}.bias"] = (p.numpy().astype(dtype) for p in (layer.weight, layer.bias))
        elif isinstance(layer, nn.ReLU):
            arrays[f"{i}.relu"] = np.zeros(0, dtype)
        else:
            raise parity.ParityError(f"npz files hold linear layers and ReLUs; layer {i} is a {type(layer).__name__}")
    np.savez(Path(work, FILE), **arrays)
    names = {side: {s["name"]: {"name": s["name"]} for s in contract[side]} for side in ("inputs", "outputs")}
    return {"entry": FILE, **names}


class NpzSession:
    """In a child: the opened file."""

    def __init__(self, folder: str, notes: Mapping[str, Any]):
        with np.load(Path(folder, notes["entry"]), allow_pickle=False) as file:
            self.layers = sorted(
                ((k, file[k].astype(np.float32)) for k in file.files), key=lambda e: int(e[0].split(".")[0])
            )
        (self.input,), (self.output,) = ([e["name"] for e in notes[side].values()] for side in ("inputs", "outputs"))

    def describe(self) -> dict[str, Any]:
        weights = [v for k, v in self.layers if k.endswith("weight")]
        return {
            "inputs": [{"name": self.input, "shape": [None, weights[0].shape[1]], "dtype": "float32"}],
            "outputs": [{"name": self.output, "shape": [None, weights[-1].shape[0]], "dtype": "float32"}],
            "ops": {"Linear": len(weights), "Relu": sum(k.endswith("relu") for k, _ in self.layers)},
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x, parts = inputs[self.input], dict(self.layers)
        for key, value in self.layers:
            if key.endswith("weight"):
                x = x @ value.T + parts[key.replace("weight", "bias")]
            elif key.endswith("relu"):
                x = np.maximum(x, 0)
        return {self.output: x}


def bits(got: np.ndarray, want: np.ndarray) -> float:
    """How many bits of the output's largest magnitude the worst element has right."""
    error, scale = float(np.abs(got - want).max()), float(np.abs(want).max())
    return float(min(53.0, np.log2(scale / error))) if error and scale else 53.0


parity.register_target(Npz)
parity.register_metric("bits", bits, sense="min", doc="bits of the largest magnitude that the worst element has right")
