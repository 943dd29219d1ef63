"""python -m research.strangers.by_hand PROJECT MODEL < CELLS: a line of JSON for each cell, as it is judged.

CELLS: a JSON list of {"cell", "target", "precision", "folder"}, `folder` holding the cell's file.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from research.strangers.by_hand import rounding, verdict
from research.strangers.by_hand.files import opened
from research.strangers.by_hand.inputs import Array, cases, settings
from research.strangers.by_hand.verdict import Verdict

SETS = {"yolo_nms": ("boxes", "scores", "classes")}  # outputs whose rows are a set


class Judge:
    """One model: its inputs, what it computes in float64 and float32, and at each precision by hand."""

    def __init__(self, project: Path, model: str) -> None:
        table = settings(project, model)
        self.model = model
        self.names = [spec["name"] for spec in table["inputs"]]
        self.outputs = [spec["name"] for spec in table["outputs"]]
        self.cases = cases(project / table["golden"], table)
        self.calibration = cases(project / table["calibration"], table)
        module, _, factory = table["factory"].partition(":")
        make = getattr(importlib.import_module(module), factory)
        self.single = rounding.outputs(make(**table.get("options", {})), self.cases, self.names, torch.float32)
        self.module = make(**table.get("options", {}))
        self.note = ""
        self.dtype = torch.float64
        self.want = self._double()
        self.hand: dict[str, list[list[list[Array]]]] = {}

    def _double(self) -> list[list[Array]]:
        """The module's outputs in float64; in float32, and said so, where it does not run in float64."""
        try:
            want = rounding.outputs(self.module.double(), self.cases, self.names, torch.float64)
            if all(np.isfinite(o).all() for case in want for o in case):
                return want
            self.note = "; not finite in float64, held against float32"
        except (RuntimeError, TypeError, ValueError) as error:
            self.note = f"; does not run in float64 ({str(error)[:80]}), held against float32"
        self.module, self.dtype = self.module.float(), torch.float32
        return self.single

    def at(self, precision: str) -> list[list[list[Array]]]:
        """The outputs at the precision by hand, made once. Empty for fp32."""
        if precision not in self.hand:
            try:
                self.hand[precision] = rounding.by_hand(
                    self.module, precision, self.cases, self.calibration, self.names, self.dtype
                )
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                self.note += f"; not rounded by hand ({str(error)[:80]})"
                self.hand[precision] = []
        return self.hand[precision]

    def judge(self, target: str, precision: str, folder: Path) -> Verdict:
        if target.startswith("coreml"):
            return _structure(folder)
        try:
            runner = opened(target, folder, self.names)
            got = [self._ordered(runner(case)) for case in self.cases]
        except Exception as error:  # whatever a runtime raises is a file that does not run
            return Verdict("wrong", f"does not run: {type(error).__name__}: {str(error)[:200]}")
        said = self._compared(precision, got)
        return self._on_other_kernels(precision, folder, got, said) if target == "tflite" else said

    def _on_other_kernels(self, precision: str, folder: Path, got: list[list[Array]], said: Verdict) -> Verdict:
        """The verdict, with that of LiteRT's builtin kernels where theirs is another; undecided where the file is right
        on both and they are further apart than the precision costs: then one set of kernels is wrong."""
        runner = opened("tflite", folder, self.names, "builtin")
        other = [self._ordered(runner(case)) for case in self.cases]
        builtin = self._compared(precision, other)
        if said.state != "right" and builtin.state == "right":
            return Verdict(said.state, f"{said.reason}; right on the builtin kernels", said.error, said.cost)
        floats = [k for k, value in enumerate(got[0]) if value.dtype.kind == "f"]
        apart = max((verdict.relative([g[k] for g in got], [o[k] for o in other]) for k in floats), default=0.0)
        if said.state == "right" and apart > max(verdict.LEAST[precision][0], said.cost or 0.0):
            reason = f"{said.reason}; XNNPACK and the builtin kernels are {apart:.3g} apart"
            return Verdict("cannot say", reason, said.error, said.cost)
        return said

    def _ordered(self, results: dict[str, Array] | list[Array]) -> list[Array]:
        """The results in the declared order: by name, and by position where the file has no names."""
        if isinstance(results, list):
            if len(results) != len(self.outputs):
                raise ValueError(f"{len(results)} outputs for {len(self.outputs)}")
            return results
        if set(self.outputs) <= set(results):
            return [results[name] for name in self.outputs]
        if len(results) == len(self.outputs) == 1:
            return list(results.values())
        raise KeyError(f"outputs {', '.join(results)} for {', '.join(self.outputs)}")

    def _compared(self, precision: str, got: list[list[Array]]) -> Verdict:
        hand = self.at(precision)
        if self.model in SETS:
            got = verdict.as_sets(got, self.want)
            hand = [verdict.as_sets(outputs, self.want) for outputs in hand]
        verdicts = {
            name: verdict.judge(
                precision,
                [case[k] for case in got],
                [case[k] for case in self.want],
                [case[k] for case in self.single],
                [[case[k] for case in outputs] for outputs in hand],
            )
            for k, name in enumerate(self.outputs)
        }
        said = verdict.whole(verdicts)
        return Verdict(said.state, said.reason + self.note, said.error, said.cost)


def _structure(folder: Path) -> Verdict:
    """Core ML does not run here: that the package opens, and how many operators it has, is all that is said."""
    import coremltools

    package = next(iter([*folder.rglob("*.mlpackage"), *folder.rglob("*.mlmodel")]))
    spec = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()
    program = spec.mlProgram.functions["main"].block_specializations if spec.HasField("mlProgram") else {}
    count = sum(len(block.operations) for block in program.values())
    return Verdict("cannot say", f"not run here; opens, {count} operators, {len(spec.description.output)} outputs")


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.path.append(sys.argv[1])  # a project may have its model's module in its folder
    judge = Judge(Path(sys.argv[1]), sys.argv[2])
    for cell in json.load(sys.stdin):
        said: dict[str, Any] = asdict(judge.judge(cell["target"], cell["precision"], Path(cell["folder"])))
        print(json.dumps({"cell": cell["cell"], **said}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
