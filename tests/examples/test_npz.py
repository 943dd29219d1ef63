"""The example extension, installed as a package beside ours and used by a project that knows only its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomllib

from parity.core.record import RunRecord, read

EXAMPLE = Path(__file__).parents[2] / "examples" / "parity-npz"
SCORER = """
import torch

def scorer():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example as pip would leave it: the module, and the metadata with its entry point."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    (site / "parity_npz").symlink_to(EXAMPLE / "parity_npz")
    info = site / f"parity_npz-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{k} = {v}\n" for k, v in project["entry-points"]["parity"].items())
    (info / "entry_points.txt").write_text(f"[parity]\n{points}")
    return site


@pytest.fixture
def project(tmp_path: Path) -> Path:
    toml = (EXAMPLE / "README.md").read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "pyproject.toml").write_text("[tool.parity]\n" + toml)
    (tmp_path / "scorer.py").write_text(SCORER)
    (tmp_path / "test_parity.py").write_text("from parity.suite import *\n")
    (tmp_path / "golden").mkdir()
    rng = np.random.default_rng(1)
    for i in range(4):
        np.savez(tmp_path / "golden" / f"{i}.npz", features=rng.uniform(-1, 1, (1, 6)).astype(np.float32))
    return tmp_path


def run(project: Path, *paths: Path) -> tuple[int, str, RunRecord | None]:
    inherited = [p for p in (os.environ.get("PYTHONPATH"),) if p]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "parity", "-p", "no:cacheprovider", "--parity-cache=cache"],
        cwd=project, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    record = project / "reports" / "parity.json"
    return done.returncode, done.stdout + done.stderr, read(record) if record.exists() else None


def test_a_target_and_a_metric_from_outside(site: Path, project: Path) -> None:
    code, text, record = run(project, site)
    assert code == 0 and record is not None, text
    assert {c.id: c.state for c in record.cells} == {"scorer-npz-fp32": "pass", "scorer-npz-fp16": "pass"}
    half = record.cell("scorer-npz-fp16")
    bits = [c for c in half.checks if c.metric == "bits"]
    assert bits and all(c.limit == 8 and c.value is not None and 8 <= c.value < 20 for c in bits)
    assert {c.metric for c in half.checks} >= {"noise_ratio_case", "cosine"}


def test_without_the_extension_its_name_is_unknown(project: Path) -> None:
    code, text, record = run(project)
    assert code == 4 and record is None and "npz" in text and "Traceback" not in text


def test_a_broken_extension_is_one_line(site: Path, project: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    info = broken / "broken-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[parity]\nbroken = no_such_module_here\n")
    code, text, _ = run(project, site, broken)
    assert code == 4 and "Traceback" not in text
    assert "extension broken of broken: No module named 'no_such_module_here'; mend it or uninstall broken" in text
