"""What a failing input prints is run, for every target that can run here: it has to show the failure by itself.

The model computes something else while it is exported than when it runs: a fault in every file that any converter
makes of it, and none in the oracle.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from parity import config as configuration
from parity import formats as targets
from parity.cases.recipes import Fill, Recipe
from parity.core.plan import Cell
from parity.formats import snippet
from parity.judging.limits import resolve
from parity.session.session import Session
from parity.session.toolchains import unavailable
from parity.store.cache import Store
from parity.suite.bench import Bench

MODELS = """
import torch


class Picture(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.side = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Linear(7, 5)

    def forward(self, image, extra):
        features = self.conv(image) + self.side(extra)[:, :, None, None]
        exported = torch.jit.is_tracing() or torch.compiler.is_compiling()
        return features * 1.5 if exported else features, features.mean((2, 3))


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.head = torch.nn.Embedding(12, 6), torch.nn.Linear(6, 4)

    def forward(self, ids, mask):
        kept = mask.float()[:, :, None]
        pooled = (self.table(ids) * kept).sum(1) / kept.sum(1)
        exported = torch.jit.is_tracing() or torch.compiler.is_compiling()
        return self.head(pooled) * (1.5 if exported else 1.0)


def picture():
    return Picture()


def words():
    return Words()
"""

CONFIG = """
[tool.parity]
cache = "cache"

[tool.parity.models.picture]
factory = "nets_of_snippets:picture"
inputs = [{ name = "image", shape = ["batch", 3, 6, 9], range = [-1, 1] }, { name = "extra", shape = ["batch", 7] }]
outputs = [{ name = "features" }, { name = "pooled" }]
calibration = "calibration"
targets = TARGETS
precisions = ["fp32", "fp16", "dynamic", "int8"]

[tool.parity.models.words]
factory = "nets_of_snippets:words"
inputs = [{ name = "ids", shape = ["batch", "steps"], dtype = "int64", range = [0, 11] },
          { name = "mask", shape = ["batch", "steps"], dtype = "int64", range = [0, 1] }]
outputs = [{ name = "scores" }]
dims = { batch = [1, 2, 3], steps = [5, 8] }
targets = TARGETS
precisions = ["fp32"]
"""

FIRST = ("picture-onnx-fp32", "words-onnx-fp32", "picture-torchscript-fp32")
CELLS = [f"picture-{t}-{p}" for t in targets.names() for p in targets.get(t).precisions]
CELLS += [f"words-{t}-fp32" for t in targets.names() if t != "ncnn"]  # which cannot load what pnnx makes of it


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("project")
    (root / "nets_of_snippets.py").write_text(MODELS)
    (root / "calibration").mkdir()
    rng = np.random.default_rng(5)
    for i in range(6):
        rows = {"image": rng.uniform(-1, 1, (1, 3, 6, 9)), "extra": rng.uniform(-1, 1, (1, 7))}
        np.savez(root / "calibration" / f"{i}.npz", **{k: v.astype(np.float32) for k, v in rows.items()})
    names = str(list(targets.names())).replace("'", '"')
    (root / "pyproject.toml").write_text(CONFIG.replace("TARGETS", names))
    config = configuration.load(root / "pyproject.toml", targets.facts())
    opened = Session(config, "test", store=Store(root / "cache"))
    yield opened
    opened.close()


def printed(script: list[str], root: Path, python: str) -> tuple[float, float]:
    """(what the artefact gave, what the oracle has), as the script says when it is run as it stands."""
    assert len(script) <= snippet.MOST
    done = subprocess.run([python, "-c", "\n".join(script)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"(\S+) the float64 oracle: (\S+)\s*$", done.stdout)
    assert found, done.stdout
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("id", [c if c in FIRST else pytest.param(c, marks=pytest.mark.nightly) for c in CELLS])
def test_the_script_of_a_failing_input_shows_the_failure(session: Session, id: str) -> None:
    cell = Cell.parse(id, targets.names())
    model = session.config.models[cell.model]
    if reason := unavailable(session.config, cell):
        pytest.skip(reason)
    bench = Bench(session.runtime(cell), lambda output: resolve((), cell, output))
    dims = {name: sizes[-1] for name, sizes in model.contract.sizes().items()}
    kinds: dict[str, list[Fill]] = {
        "picture": [Fill("natural", 3), Fill("uniform", 5, 1.0, "strided"), Fill("uniform", 7, 1.0, "channels_last")],
        "words": [Fill("uniform", 3), Fill("ramp", 5, 1.0, "strided")],
    }
    plain = Fill("uniform" if cell.model == "picture" else "prefix", 1)
    for fill in kinds[cell.model]:
        others = {s.name: plain for s in model.contract.inputs}
        recipe = Recipe({**others, model.contract.inputs[0].name: fill}, dims)
        (result,) = bench.judge([recipe], stored=False)
        assert bench.fails(result), "the fault is not in this file"
        assert not result.broke, result.broke
        got, want = printed(bench.script(result), session.config.root, bench.runtime.python)
        name = max(result.judged, key=lambda n: result.judged[n].ratio)
        assert result.got is not None and result.want is not None
        seen, right = result.got.outputs[name], result.want.outputs[name]
        place, _ = snippet.element(seen, right)
        index = tuple(ast.literal_eval(place))
        assert got == pytest.approx(float(seen[index]), rel=1e-3, abs=1e-5)  # what the suite itself saw
        assert want == pytest.approx(float(right[index]))
        assert abs(got - want) > 0.2 * abs(want)
