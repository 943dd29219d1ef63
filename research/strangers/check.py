"""Does each architecture exist, run in eager mode and react to its inputs? No suite and no converter takes part."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from research.strangers import data
from research.strangers.by_hand import inputs, rounding
from research.strangers.suite import Stranger


def check(stranger: Stranger, packages: Path) -> str:
    """One line: parameters, and for each output its shape, spread over elements and how far two cases differ."""
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
    module, _, factory = stranger.settings["factory"].partition(":")
    made = getattr(importlib.import_module(module), factory)()
    with tempfile.TemporaryDirectory() as folder:
        data.provide(stranger.settings, Path(folder))
        cases = inputs.cases(Path(folder, stranger.settings["golden"]), stranger.settings)[:2]
    names = [spec["name"] for spec in stranger.settings["inputs"]]
    first, second = rounding.outputs(made, cases, names, torch.float32)
    declared = [spec["name"] for spec in stranger.settings["outputs"]]
    if len(first) != len(declared):
        raise ValueError(f"{len(first)} outputs, declared are {', '.join(declared)}")
    told = [
        f"{name} {list(a.shape)} spread {np.std(a):.3g}, two cases differ by {np.abs(a - b).mean():.3g}"
        for name, a, b in zip(declared, first, second, strict=True)
    ]
    return f"{sum(p.numel() for p in made.parameters())} parameters; {'; '.join(told)}"
