"""The example extension, installed as a package beside ours and used by a project that knows only its name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
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


def environ(*paths: Path) -> dict[str, str]:
    inherited = [p for p in (os.environ.get("PYTHONPATH"),) if p]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return env | {"PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited])}


def run(project: Path, *paths: Path, options: Sequence[str] = ()) -> tuple[int, str, RunRecord | None]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "parity", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--parity-cache=cache", *options],
        cwd=project,
        env=environ(*paths),
        capture_output=True,
        text=True,
        check=False,
    )
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


def test_its_files_are_proved_and_power_puts_faults_into_them(site: Path, project: Path) -> None:
    code, text, record = run(project, site, options=["--parity-power"])
    assert code == 0 and record is not None, text
    for cell in record.cells:
        assert cell.proof is not None and {link.state for link in cell.proof.links} == {"proved"}, cell.proof
        assert cell.power is not None
        noticed = {fate.fault for fate in cell.power.fates if fate.fate == "noticed"}
        assert {"file_bias_dropped", "file_activation_lost"} <= noticed, cell.power.fates
    page = (project / "reports" / "parity.html").read_text()
    assert "npz" in page and "faithful" in page


def test_a_wrong_file_of_it_is_verified_and_the_layer_named(site: Path, project: Path) -> None:
    _, text, record = run(project, site)
    assert record is not None and record.cells[0].artifact is not None, text
    right = project / "cache" / record.cells[0].artifact.location / "layers.npz"
    for name, factor in (("right.npz", 1.0), ("wrong.npz", 1.5)):
        with np.load(right) as file:
            held = {key: file[key] for key in file.files}
        held["2.weight"] = held["2.weight"] * np.float32(factor)
        np.savez(project / name, **held)
    for name, expected in (("right.npz", 0), ("wrong.npz", 1)):
        command = "import sys; from parity.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", command, "verify", name],
            cwd=project,
            env=environ(site),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expected, done.stdout + done.stderr
        assert f"{name} as scorer-npz-fp32" in done.stdout
    (cell,) = read(project / "reports" / "verify.json").cells
    assert cell.state == "fail" and cell.first_divergence is not None, cell
    assert cell.first_divergence.layer == "2" and cell.first_divergence.operator == "Linear"
    assert cell.proof is not None and cell.proof.state == "failed"


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
