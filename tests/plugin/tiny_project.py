"""A whole project in a temporary folder: one linear model, and a target whose files and runtime need NumPy only.

Its exporter and its runtime misbehave on demand, so that the plugin and the gate can be tested from the outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.record import RunRecord, read

PYPROJECT = """
[tool.parity]
targets = ["plain"]
precisions = ["fp32", "fp16"]
timeout = 60

[tool.parity.models.tiny]
factory = "tinynet:tiny"
inputs = [{ name = "x", shape = ["batch", 3], range = [-1, 1] }]
outputs = [{ name = "logits", kind = "logits", labels = ["a", "b", "c", "d"] }]
golden = "golden"
properties = { examples = 0 }
"""

MODEL = """
import torch

def tiny():
    net = torch.nn.Linear(3, 4)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1., 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]]) * 3)
        net.bias.copy_(torch.tensor([.1, .2, .3, .4]))
    return net
"""

TARGET = '''
"""A target for tests: weights in an .npz, run by NumPy. PLAIN_EXPORT and PLAIN_RUN say how it misbehaves."""
import ctypes, os, sys, time
from pathlib import Path
import numpy as np
from parity.formats.target import Route, Step, Target

class Plain(Target):
    name, precisions, requires, extra = "plain", ("fp32", "fp16"), ("torch",), "torch"
    session, family, runtime_package = "plain_target:PlainSession", "plain", "numpy"

    def routes(self, cell, model, config):
        first = Step("weights", "torch", "plain_target:export", ("torch",), stage="export")
        half = Step("half", "plain", "plain_target:halve", ("numpy",))
        return [Route("plain", (first, half) if cell.precision == "fp16" else (first,))]

def misbehave(how):
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "hang":
        counted("hang")
        time.sleep(600)
    elif how == "exit":
        sys.exit(3)
    elif how == "_exit":
        os._exit(3)
    elif how == "memory":
        kept = []
        while True:
            kept.append(np.ones(16 << 17))
    elif how == "raise":
        raise ValueError("unsupported operator aten::nothing")
    elif how == "slow":
        time.sleep(2)

def counted(word):
    if os.environ.get("PLAIN_COUNTER"):
        with open(os.environ["PLAIN_COUNTER"], "a") as file:
            file.write(f"{word} {os.getpid()}\\n")

def notes(folder):
    return {"entry": "weights.npz", "inputs": {"x": {"name": "x"}}, "outputs": {"logits": {"name": "logits"}}}

def export(work, model, **_):
    from parity.reference import modelling
    counted("weights")
    misbehave(os.environ.get("PLAIN_EXPORT"))
    net = modelling.load(model)
    np.savez(Path(work, "weights.npz"), w=net.weight.numpy(), b=net.bias.numpy())
    if os.environ.get("PLAIN_EXPORT") == "nothing":
        Path(work, "weights.npz").unlink()
    return notes(work)

def halve(work, after, **_):
    counted("half")
    misbehave(os.environ.get("PLAIN_CONVERT"))
    with np.load(Path(after, "weights.npz")) as held:
        np.savez(Path(work, "weights.npz"), **{k: v.astype(np.float16) for k, v in held.items()})
    return notes(work)

class PlainSession:
    def __init__(self, folder, notes):
        misbehave(os.environ.get("PLAIN_LOAD"))
        with np.load(Path(folder, notes["entry"])) as held:
            self.w, self.b = held["w"].astype(np.float32), held["b"].astype(np.float32)

    def describe(self):
        return {"inputs": [{"name": "x", "shape": [None, 3], "dtype": "float32"}],
                "outputs": [{"name": "logits", "shape": [None, 4], "dtype": "float32"}], "ops": {"Gemm": 1}}

    def run(self, inputs):
        how = os.environ.get("PLAIN_RUN")
        misbehave(how)
        y = inputs["x"] @ self.w.T + self.b
        if how == "nan":
            y[-1, -1] = np.nan
        if how == "wrong":
            y = y[:, ::-1].copy()
        if how == "scaled":
            y = y * np.float32(0.97)
        if how == "one bad case" and inputs["x"][0, 0] > 0.5:
            y += 1
        if how == "dtype":
            y = y.astype(np.int64)
        return {"none": {}, "renamed": {"other": y}, "shape": {"logits": y[:, :3]}, "empty": {"logits": y[:0]},
                "transposed": {"logits": y.T}}.get(how, {"logits": y})
'''

CONFTEST = """
import plain_target
from parity.formats import register_target
register_target(plain_target.Plain)
"""


class Project:
    """A project folder with `pytest` in it."""

    def __init__(self, pytester: pytest.Pytester, cache: Path):
        self.pytester, self.cache, self.path = pytester, cache, pytester.path
        self.write("pyproject.toml", PYPROJECT)
        self.write("tinynet.py", MODEL)
        self.write("plain_target.py", TARGET)
        self.write("conftest.py", CONFTEST)
        self.write("test_parity.py", "from parity.suite import *\n")
        rows = np.eye(3, dtype=np.float32) * np.float32(0.9)
        for label, row in enumerate(rows):
            folder = self.path / "golden" / "abc"[label]
            folder.mkdir(parents=True)
            np.savez(folder / f"case{label}.npz", x=row[None], label=label)

    def write(self, name: str, text: str) -> Path:
        (self.path / name).write_text(text, encoding="utf-8")
        return self.path / name

    def add(self, name: str, text: str) -> Path:
        return self.write(name, (self.path / name).read_text(encoding="utf-8") + "\n" + text)

    def set(self, key: str, value: str) -> None:
        """A key of `[tool.parity]`, given as TOML."""
        text = (self.path / "pyproject.toml").read_text(encoding="utf-8")
        self.write("pyproject.toml", text.replace("[tool.parity]\n", f"[tool.parity]\n{key} = {value}\n", 1))

    def run(self, *args: str, env: Mapping[str, str] | None = None, parity: bool = True, keep: bool = False) -> Run:
        """`pytest -m parity` in a process of its own, with the shared cache. `keep`: the record of the run before
        stands as it begins."""
        given = ["-p", "no:cacheprovider", f"--parity-cache={self.cache}"]
        if parity:
            given += ["-m", "parity"]
        if "examples = 0" in (self.path / "pyproject.toml").read_text(encoding="utf-8"):
            given += ["-p", "no:hypothesispytest"]  # which imports all of hypothesis at the end of every run
        report = self.path / "reports" / "parity.json"
        with contextlib.suppress(NotADirectoryError):
            if not keep:
                report.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            for name in [n for n in os.environ if n.startswith("PYTEST_XDIST")]:
                patch.delenv(name)
            result = self.pytester.runpytest_subprocess(*given, *args)
        return Run(result, read(report) if report.exists() else None)


class Run:
    def __init__(self, result: pytest.RunResult, record: RunRecord | None):
        self.code, self.text, self.result = int(result.ret), result.stdout.str() + result.stderr.str(), result
        self._record = record

    @property
    def record(self) -> RunRecord:
        assert self._record is not None, self.text
        return self._record

    @property
    def verdict(self) -> str:
        return self._record.verdict if self._record else "no record"

    def states(self) -> dict[str, str]:
        return {cell.id: cell.state for cell in self.record.cells}


def timeless(record: Path) -> Any:
    """The JSON of a record without what may differ between two runs of the same thing."""
    data = json.loads(record.read_text(encoding="utf-8"))

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            gone = ("seconds", "export_seconds", "median_ms", "cached", "started", "command", "builds")
            return {k: strip(v) for k, v in value.items() if k not in gone}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(data)


def count(text: str, pattern: str) -> int:
    return len(re.findall(pattern, text))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the tests that do not care what is in it: the model is exported once a worker."""
    return tmp_path_factory.mktemp("parity-cache")


@pytest.fixture
def project(pytester: pytest.Pytester, shared_cache: Path) -> Project:
    return Project(pytester, shared_cache)


@pytest.fixture
def fresh(pytester: pytest.Pytester, tmp_path: Path) -> Project:
    """A project with a cache of its own."""
    return Project(pytester, tmp_path / "own-cache")
