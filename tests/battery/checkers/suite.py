"""This suite's public interface: `parity.compare`, `parity.check`, and whole runs with the record and its gate."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import compare, config, formats, register_metric
from parity.commands.gate import judged
from parity.core.contract import OutputSpec
from parity.core.plan import Cell
from parity.core.record import CellRecord, Environment, RunRecord, dumps, loads, read
from parity.judging import judge, registry
from parity.judging.compare import aggregate
from parity.judging.gate import SET_BY_TEST, settle
from parity.judging.limits import Limit
from parity.suite.recorder import Recorder

from ..protocol import Base, File, Limited, Loss, NotApplicable, Pair, Saved
from .peers import ident, load_plugins, write_plugins

CELL = Cell("m", "onnx", "fp32")


def _limits(case: Pair) -> dict[str, Any]:
    return {"max_rel": case.rtol} if case.rtol else {"max_abs": case.atol}


@contextmanager
def _registered(case: Limited) -> Iterator[None]:
    """The case's own metric in the registry, while it is asked."""
    names = list(case.limits) if case.metric else []
    for name in names:
        register_metric(name, case.metric, sense="min" if name.endswith("min") else "max", doc="of the battery")  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            registry.METRICS.pop(name)


class Compare(Base):
    """`parity.compare` on every declared output of every planned case, and `aggregate` over them."""

    name = "parity.compare"

    def pair(self, case: Pair) -> bool:
        found = {}
        for index in range(case.planned):
            got, want = ((side[index] if index < len(side) else {}) for side in (case.got, case.want))
            for name in case.names:
                found[f"{index} {name}"] = compare(got.get(name), want.get(name), **_limits(case))  # type: ignore[arg-type]
        return aggregate(found).passed

    def limited(self, case: Limited) -> bool:
        if not case.limits and case.toml and case.id != "limit-none-given":
            raise NotApplicable("a mistake in a file")
        with _registered(case):
            return compare(case.got, case.want, **case.limits).passed


class Check(Base):
    """`parity.check` in a test of one's own: the recorder's verdict when the test ends."""

    name = "parity.check"

    def pair(self, case: Pair) -> bool:
        recorder = Recorder(CELL, "property")
        for index in range(case.planned):
            got, want = ((side[index] if index < len(side) else {}) for side in (case.got, case.want))
            for name in case.names:
                recorder.check(name, got.get(name), want.get(name), case=str(index), **_limits(case))
        return not recorder.verdict()

    def limited(self, case: Limited) -> bool:
        if not case.limits:
            raise NotApplicable("without limits the configured ones hold")
        recorder = Recorder(CELL, "property")
        with _registered(case):
            recorder.check("y", case.got, case.want, **case.limits)
            return not recorder.verdict()


class Gate(Base):
    """The way of a whole run: checks as the golden test makes them, the record to JSON and back, `parity gate`."""

    name = "pytest-parity"

    def pair(self, case: Pair) -> bool:
        limits = {m: Limit(m, v, "the battery") for m, v in _limits(case).items()}
        return self._gated(case, limits)

    def limited(self, case: Limited) -> bool:
        if not case.toml:
            raise NotApplicable("a file cannot make this mistake")
        text = (
            "[tool.parity]\n[tool.parity.models.m]\nfactory = 'm:m'\ninputs = [{name = 'x', shape = [3]}]\n"
            f"outputs = [{{name = 'y'}}]\ncells = ['onnx-fp32']\n[tool.parity.limits]\n{case.toml}\n"
        )
        rules = config.parse(text.replace("m-plain", "m-onnx"), Path("pyproject.toml"), formats.facts()).rules
        limits = {r.metric: Limit(r.metric, r.value, r.source) for r in rules}
        return self._gated(Pair(case.id, "", [{"y": case.got}], [{"y": case.want}]), limits)

    def _gated(self, case: Pair, limits: dict[str, Limit]) -> bool:
        checks = []
        for index in range(case.planned):
            got, want = ((side[index] if index < len(side) else {}) for side in (case.got, case.want))
            for name in case.names:
                if want.get(name) is None:
                    continue  # the reference has nothing: no check is made, and the gate must miss it
                found = judge.check_output("golden", str(index), OutputSpec(name), got.get(name), want[name], limits)
                checks += [replace(check, source=SET_BY_TEST) for check in found]
        cell = CellRecord(
            CELL.id, "m", "onnx", "fp32", "missing", planned=("golden",), measured=("golden",),
            planned_cases=case.planned, planned_outputs=case.names, checks=tuple(checks),
        )  # fmt: skip
        record = RunRecord("incomplete", (settle(cell),), Environment("3", {}, "test"))
        return judged(loads(dumps(record))).verdict == "pass"

    def saved(self, case: Saved) -> bool:
        from ..records import base

        return judged(loads(case.edit(base()))).verdict == "pass"

    def files(self, cases: Sequence[File]) -> set[str]:
        """One run of `pytest -m parity` on a project with a model a file; those whose cell passes."""
        with tempfile.TemporaryDirectory() as folder:
            _write_files_project(Path(folder), cases)
            run = _pytest(Path(folder))
            return {c.id for c in cases if run.states[f"{ident(c)}-onnx-fp32"] in ("pass", "waived")}  # type: ignore[arg-type]

    def runs(self, cases: Sequence[Loss]) -> set[str]:
        """Runs of `pytest -m parity` where the golden test of a cell is lost; those whose cell, or run, passes."""
        from ..runs import ALONE

        found: set[str] = set()
        groups = [[c for c in cases if c not in ALONE], *([c] for c in cases if c in ALONE)]
        for group in filter(None, groups):
            with tempfile.TemporaryDirectory() as folder:
                _write_runs_project(Path(folder), group)
                run = _pytest(Path(folder), "-n1" if group[0].id == "worker-lost" else "-n0")
            good = {c.id for c in group if run.states.get(f"{ident(c)}-plain-fp32") in ("pass", "waived")}
            found |= good
            if group[0] in ALONE and (run.code == 0 or run.verdict == "pass"):
                found.add(group[0].id)
            if good - {c.id for c in group if c.honest} == set() and any(not c.honest for c in group) and run.code == 0:
                found |= {c.id for c in group}  # the cells do not pass and the run does
        return found


class _Run:
    def __init__(self, code: int, text: str, report: Path):
        self.code, self.text = code, text
        record = read(report) if report.exists() else None
        self.verdict = record.verdict if record else "no record"
        self.states = {c.id: c.state for c in record.cells} if record else {}


def _pytest(folder: Path, *arguments: str) -> _Run:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "parity", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    return _Run(done.returncode, done.stdout + done.stderr, folder / "reports" / "parity.json")


def _write_files_project(folder: Path, cases: Sequence[File]) -> None:
    from .. import files

    np.savez(folder / "weights.npz", w=files.W.T, b=files.B)
    (folder / "golden").mkdir()
    for index, row in enumerate((files.PROBE, *files.ROWS)):
        np.savez(folder / "golden" / f"case{index}.npz", x=row)
    (folder / "net.py").write_text(_NET, encoding="utf-8")
    tables = ["[tool.parity]", "seed = 1"]
    for case in cases:
        (folder / ident(case)).mkdir()
        case.write(folder / ident(case) / "model.onnx")
        tables.append(
            f"[tool.parity.models.{ident(case)}]\nfactory = 'net:net'\ngolden = 'golden'\ncells = ['onnx-fp32']\n"
            "inputs = [{ name = 'x', shape = [2, 3], range = [-3, 3] }]\noutputs = [{ name = 'y' }, { name = 'z' }]\n"
            f"artifacts = {{ 'onnx-fp32' = '{ident(case)}/model.onnx' }}"
        )
    (folder / "pyproject.toml").write_text("\n".join(tables) + "\n", encoding="utf-8")
    (folder / "test_parity.py").write_text("from parity.suite import *\n", encoding="utf-8")


_NET = """
import numpy as np
import torch
from pathlib import Path

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        with np.load(Path(__file__).with_name("weights.npz")) as held:
            self.load_state_dict({"linear.weight": torch.from_numpy(held["w"]), "linear.bias": torch.from_numpy(held["b"])})

    def forward(self, x):
        y = self.linear(x)
        return y, torch.tanh(y)

def net():
    return Net()
"""  # noqa: E501


def _write_runs_project(folder: Path, cases: Sequence[Loss]) -> None:
    from tests.plugin.tiny_project import CONFTEST, MODEL, TARGET

    (folder / "tinynet.py").write_text(MODEL, encoding="utf-8")
    (folder / "plain_target.py").write_text(TARGET, encoding="utf-8")
    (folder / "conftest.py").write_text(CONFTEST + load_plugins(cases), encoding="utf-8")
    write_plugins(folder, cases, lambda case: f"test_golden[{ident(case)}-plain-fp32]")
    (folder / "golden").mkdir()
    for index in range(3):
        np.savez(folder / "golden" / f"case{index}.npz", x=np.eye(3, dtype=np.float32)[index : index + 1] * 0.9 + 0.1)
    tables = ["[tool.parity]", "seed = 1"]
    for case in cases:
        tables.append(
            f"[tool.parity.models.{ident(case)}]\nfactory = 'tinynet:tiny'\ngolden = 'golden'\ncells = ['plain-fp32']\n"
            "inputs = [{ name = 'x', shape = ['batch', 3], range = [-1, 1] }]\noutputs = [{ name = 'logits' }]"
        )
    tables.append("[tool.parity.limits]")
    tables += [f'"{ident(case)}-plain-fp32" = {{ sqnr = 400 }}' for case in cases if case.broken]
    (folder / "pyproject.toml").write_text("\n".join(tables) + "\n", encoding="utf-8")
    (folder / "test_parity.py").write_text("from parity.suite import *\n", encoding="utf-8")
