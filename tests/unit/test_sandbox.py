"""Children that open foreign files can write to their scratch folder alone, and open no sockets."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parity.core.plan import Cell
from parity.core.record import ArtifactRecord
from parity.process import sandbox, seccomp
from parity.process.isolate import Child, Children
from parity.session.artefacts import Artifact
from parity.session.runtimes import OpenFile
from tests.unit.workload import Attempt

HERE = Path(__file__).parent
LANDLOCK = pytest.mark.skipif(not sandbox.landlock_version(), reason="this kernel offers no Landlock")
SECCOMP = pytest.mark.skipif(not seccomp.offered(), reason="this kernel offers no seccomp")


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    child = Child("confined", root=HERE, confined_to=[tmp_path_factory.mktemp("scratch")])
    yield child
    child.close()


def attempt(child: Child, what: str, path: Path = Path()) -> str:
    return child.call("workload:attempt", Attempt(what, str(path)), str)


OUTSIDE = (
    "write", "write in a thread", "append", "truncate", "make a folder", "link", "remove", "move away",
    "move there", "write by a program",
)  # fmt: skip


@LANDLOCK
@pytest.mark.parametrize("what", OUTSIDE)
def test_nothing_outside_is_changed(confined: Child, tmp_path: Path, what: str) -> None:
    path = tmp_path / "file"
    if what not in ("write", "make a folder", "link", "write by a program"):
        path.write_text("as it was")
    before = [(p.name, p.read_text()) for p in tmp_path.iterdir()]
    assert attempt(confined, what, path) in ("PermissionError", "CalledProcessError", "OSError")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == before


@SECCOMP
@pytest.mark.parametrize("what", ["internet", "internet 6", "local"])
def test_no_socket_is_opened(confined: Child, what: str) -> None:
    assert attempt(confined, what) == "PermissionError"


@pytest.mark.parametrize("what", ["temporary file", "temporary folder", "move within", "null", "pair"])
def test_what_runtimes_do_goes_on(confined: Child, what: str) -> None:
    assert attempt(confined, what) == "done"


def test_files_are_read_as_before(confined: Child, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("w")
    assert attempt(confined, "read", tmp_path / "weights") == "done"


@pytest.mark.parametrize("what", ["write", "make a folder", "internet"])
def test_other_children_keep_their_rights(tmp_path: Path, what: str) -> None:
    with Children(HERE) as children:
        request = Attempt(what, str(tmp_path / "x"))
        assert children.call("plain", "workload:attempt", request, str) == "done"


# Which children.


@LANDLOCK
@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"file": "FOREIGN"}, "confined"),
        ({"arguments": {"model": {"reference": "FOREIGN"}}}, "confined"),
        ({"list": [1, ("FOREIGN",)]}, "confined"),
        ({"root": "FOREIGN", "folder": "other"}, "plain"),
        ({"rows": [{"x": np.zeros(3)}], "text": "FOREIGN/file"}, "plain"),
    ],
)
def test_a_call_that_names_a_foreign_file_goes_to_a_confined_child(
    tmp_path: Path, arguments: dict[str, Any], where: str
) -> None:
    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: named(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [named(v) for v in value]
        return value.replace("FOREIGN", str(tmp_path)) if isinstance(value, str) else value

    with Children(HERE, foreign=[tmp_path]) as children:
        pid = children.call("any", "workload:pid", None, int)
        value = children.call("any", "workload:echo_and_pid", named(arguments), int)
        assert (value != pid) == (where == "confined")


@LANDLOCK
def test_a_folder_may_be_allowed_before_it_is_there(tmp_path: Path) -> None:
    with Children(HERE) as children:
        children.allow(tmp_path / "made" / "later")
        for path, became in ((tmp_path / "made/later/file", "done"), (tmp_path / "x", "PermissionError")):
            request = Attempt("write", str(path))
            assert children.call("any", "workload:attempt", request, str, confined=True) == became


def test_the_scratch_folder_goes_with_the_children() -> None:
    with Children(HERE) as children:
        children.call("any", "workload:attempt", Attempt("temporary file"), str, confined=True)
        scratch = children.scratch
        assert scratch.is_dir()
    assert not scratch.exists()


@SECCOMP
def test_a_file_is_run_in_a_confined_child(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(2)), tmp_path / "model.pt")
    notes = {"entry": "model.pt", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}
    with Children(HERE) as children:
        resources: Any = SimpleNamespace(
            children=children,
            config=SimpleNamespace(routes={}),
            progress=lambda cell, stage: None,
            waiting_once=lambda subject, call: call(),
        )
        artifact = Artifact(tmp_path, notes, ArtifactRecord(), "prebuilt")
        opened = OpenFile(resources, Cell("m", "torchscript", "fp32"), artifact).open()
        assert opened.run([{"x": np.array([-1, 2], np.float32)}])[0]["y"].tolist() == [0, 2]
        status = Path(f"/proc/{opened._pid}/status").read_text()
    assert "Seccomp:\t2" in status


# Where the kernel does not offer it.


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "landlock_version", lambda: 0)
    monkeypatch.setattr(seccomp, "offered", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    assert sandbox.missing() == "this kernel offers no Landlock: children can write wherever you can"
    monkeypatch.setattr(seccomp, "offered", lambda: False)
    assert sandbox.missing().endswith("you can, and no seccomp: children can open sockets")
    monkeypatch.setattr(sandbox, "landlock_version", lambda: 7)
    assert sandbox.missing() == "this kernel offers no seccomp: children can open sockets"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert sandbox.missing() == "Darwin offers neither Landlock nor seccomp"


@pytest.mark.parametrize("version", [0, *range(1, 8)])
def test_every_version_of_landlock_is_asked_for_what_it_has(version: int) -> None:
    """In a process of its own for each: the kernel refuses rights and sizes that the version does not have."""
    if version > sandbox.landlock_version():
        pytest.skip("this kernel offers no such version of Landlock")
    with Children(HERE) as children:
        held = children.call("any", "workload:write_only", version, bool)
    assert held == bool(version)
