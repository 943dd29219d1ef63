"""An emulated Arm core, for real: it computes rightly, is confined as any child is, and starts what it starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from parity.core.executors import CORES
from parity.process import sandbox
from parity.process.executors import arm64
from parity.process.executors.arm_probe import Probed
from parity.process.isolate import Child, ChildFailure

WHY = "the host's own processor" if arm64.is_native() else arm64.unavailable("cortex-a76", "numpy")
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"needs an emulated Arm core: {WHY}")

MODULE = """
import platform, socket, subprocess, sys

def write(path: str) -> str:
    with open(path, "w") as file:
        file.write("x")
    return platform.machine()

def connect() -> str:
    socket.socket().close()
    return "opened"

def of_a_child() -> str:
    asked = [sys.executable, "-c", "import platform; print(platform.machine())"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
"""


@pytest.fixture
def installed() -> arm64.Installed:
    found = arm64.find()
    assert found is not None
    return found


@pytest.fixture
def confined(installed: arm64.Installed, tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "asked.py").write_text(MODULE, encoding="utf-8")
    child = Child("arm", installed.interpreter("cortex-a76"), tmp_path, confined_to=[tmp_path / "scratch"])
    yield child
    child.close()


def test_a_core_is_tried_before_it_is_used(installed: arm64.Installed) -> None:
    child = Child("probe", installed.interpreter("cortex-a76"))
    try:
        probe = child.call("parity.process.executors.arm_probe:probe", None, Probed)
    finally:
        child.close()
    assert probe.machine == "aarch64" and probe.wrong == ()
    assert {"fmla float16", "sdot int8", "udot uint8", "matmul int8"} <= set(probe.tried)


def test_what_a_core_starts_is_emulated_too(confined: Child) -> None:
    assert confined.call("asked:of_a_child", None, str) == "aarch64"


@pytest.mark.skipif(bool(sandbox.missing()), reason=f"this machine confines no child: {sandbox.missing()}")
def test_an_emulated_child_with_a_foreign_file_is_confined(confined: Child, tmp_path: Path) -> None:
    assert confined.call("asked:write", str(tmp_path / "scratch" / "inside"), str) == "aarch64"
    with pytest.raises(ChildFailure, match="PermissionError"):
        confined.call("asked:write", str(tmp_path / "outside"), str)
    with pytest.raises(ChildFailure, match="PermissionError"):
        confined.call("asked:connect", None, str)


def test_a_wrong_core_is_unavailable_with_what_it_computes(
    installed: arm64.Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm64, "_probed", lambda core, folder: ("sdot int8: [1] instead of [2]",))
    assert arm64.unavailable("cortex-a76", "numpy").endswith("cortex-a76 wrong: sdot int8: [1] instead of [2]")


def test_an_emulator_that_does_not_start_is_no_core(
    installed: arm64.Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "bin" / "python-cortex-a53"
    launcher.parent.mkdir()
    launcher.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    launcher.chmod(0o755)
    (tmp_path / arm64.MARKER).write_text((installed.folder / arm64.MARKER).read_text("utf-8"), encoding="utf-8")
    monkeypatch.setattr(arm64, "find", lambda: arm64._read(tmp_path))
    assert "exited with code 3" in arm64.unavailable("cortex-a53", "numpy")


def test_what_is_not_here_names_the_command(installed: arm64.Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no Arm wheel" in arm64.unavailable("cortex-a76", "coreai-core")
    missing = next((core for core in CORES if core not in installed.cores), None)
    if missing is not None:
        assert f"has no {missing}" in arm64.unavailable(missing, "numpy")
    monkeypatch.setattr(arm64, "wanted", lambda: (("numpy", "0.1"),))  # the host's versions have moved on
    assert "parity tools install arm64" in arm64.unavailable("cortex-a76", "numpy")


def test_it_is_made_again_nowhere(installed: arm64.Installed) -> None:
    said: list[str] = []
    assert arm64.install(said.append) == installed and said == []
