"""The store: one builder a key, whole entries or none, and damage that is noticed, said and repaired."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.core.errors import ParityError
from parity.store import atomic
from parity.store.cache import MANIFEST, Entry, Store, canonical, differences, key_of, sha256_file, sha256_files

SPEC = {"step": "onnx", "options": {"opset": 17}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


class Builder:
    """Writes two files, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        (folder / "model.bin").write_bytes(b"weights" * 100)
        (folder / "sub").mkdir()
        (folder / "sub" / "data.txt").write_text("text")
        return {"entry": "model.bin", "n": self.calls}


def files(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_the_first_call_builds_and_the_second_finds(store: Store) -> None:
    builder = Builder()
    first, second = store.build(SPEC, "n", builder), store.build(SPEC, "n", builder)
    assert builder.calls == 1 and first.built and not second.built and not first.damaged
    assert first.key == second.key == key_of(SPEC) and first.folder == second.folder
    assert second.files == first.files and second.notes == {"entry": "model.bin", "n": 1}
    assert [p for p, _, _ in first.files] == ["model.bin", "sub/data.txt"]
    assert all(sha256_file(first.folder / p) == digest for p, _, digest in first.files)
    assert second.seconds == first.seconds >= 0


def test_an_entry_is_a_folder_with_its_manifest_and_nothing_else_is_left(store: Store) -> None:
    entry = store.build(SPEC, "n", Builder())
    assert files(entry.folder) == {MANIFEST, "model.bin", "sub/data.txt"}
    manifest = json.loads((entry.folder / MANIFEST).read_text())
    assert manifest["key"] == entry.key and manifest["name"] == "n" and manifest["spec"] == SPEC
    assert not list((store.root / "tmp").iterdir())


def test_other_specifications_are_other_entries(store: Store) -> None:
    builder = Builder()
    one, two = store.build(SPEC, "n", builder), store.build({**SPEC, "step": "x"}, "n", builder)
    assert one.key != two.key and builder.calls == 2


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=6))
def test_the_key_does_not_depend_on_the_order(spec: dict[str, Any]) -> None:
    assert key_of(spec) == key_of(dict(reversed(spec.items())))
    assert len(key_of(spec)) == 64 and json.loads(canonical(spec)) == spec


@pytest.mark.parametrize("value", [math.nan, math.inf, b"x", object(), {1}])
def test_what_json_cannot_hold_has_no_key(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        key_of({"x": value})


def test_a_builder_that_fails_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("half")
        raise RuntimeError("converter broke")

    with pytest.raises(RuntimeError, match="converter broke"):
        store.build(SPEC, "n", fail)
    assert store.get(key_of(SPEC)) is None
    assert not list((store.root / "objects").iterdir()) and not list((store.root / "tmp").iterdir())
    assert store.build(SPEC, "n", Builder()).built


# Damage.


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return apply


def flip(folder: Path) -> None:
    data = bytearray((folder / "model.bin").read_bytes())
    data[300] ^= 1
    (folder / "model.bin").write_bytes(bytes(data))


def set_to(*path: Any) -> Callable[[Path], None]:
    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        for part in path[:-2]:
            at = at[part]
        at[path[-2]] = path[-1]

    return edit(change)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a file is truncated": lambda f: os.truncate(f / "model.bin", 300),
    "a file is empty": lambda f: os.truncate(f / "model.bin", 0),
    "a file has one bit flipped": flip,
    "a file is longer": lambda f: (f / "model.bin").open("ab").write(b"x"),
    "a file is gone": lambda f: (f / "model.bin").unlink(),
    "a folder is gone": lambda f: shutil.rmtree(f / "sub"),
    "a file too many": lambda f: (f / "extra").write_text("x"),
    "a file too many below": lambda f: (f / "sub" / "extra").write_text("x"),
    "a file is a folder": lambda f: ((f / "model.bin").unlink(), (f / "model.bin").mkdir()),
    "the manifest is gone": lambda f: (f / MANIFEST).unlink(),
    "the manifest is empty": lambda f: os.truncate(f / MANIFEST, 0),
    "the manifest is truncated": lambda f: os.truncate(f / MANIFEST, 100),
    "the manifest is no json": lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"),
    "the manifest is a list": lambda f: (f / MANIFEST).write_text("[]"),
    "the manifest is null": lambda f: (f / MANIFEST).write_text("null"),
    "the manifest is of another entry": set_to("key", "0" * 64),
    "the manifest has no key": edit(lambda m: m.pop("key")),
    "the manifest has no files": edit(lambda m: m.pop("files")),
    "the manifest lists nothing": set_to("files", []),
    "the manifest has no notes": edit(lambda m: m.pop("notes")),
    "the manifest has no seconds": edit(lambda m: m.pop("seconds")),
    "the seconds are no number": set_to("seconds", "long"),
    "the seconds are null": set_to("seconds", None),
    "the notes were changed": set_to("notes", "entry", "sub/data.txt"),
    "the notes are gone": set_to("notes", {}),
    "a size was changed": set_to("files", 0, 1, 3),
    "a hash was changed": set_to("files", 0, 2, "0" * 64),
    "everything is gone but the folder": lambda f: [
        shutil.rmtree(p) if p.is_dir() else p.unlink() for p in f.iterdir()
    ],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_noticed_said_and_built_again(store: Store, damage: Callable[[Path], object]) -> None:
    builder = Builder()
    entry = store.build(SPEC, "n", builder)
    damage(entry.folder)
    assert store.get(entry.key) is None
    again = store.build(SPEC, "n", builder)
    assert builder.calls == 2 and again.built and again.damaged
    assert files(again.folder) == {MANIFEST, "model.bin", "sub/data.txt"}
    assert not list((store.root / "tmp").iterdir())
    third = store.build(SPEC, "n", builder)
    assert builder.calls == 2 and not third.built and not third.damaged


def test_an_entry_that_a_dead_builder_left_in_the_making_is_never_used(store: Store) -> None:
    half = store.root / "tmp" / f"{key_of(SPEC)}.dead"
    half.mkdir(parents=True)
    (half / "model.bin").write_bytes(b"half")
    entry = store.build(SPEC, "n", Builder())
    assert entry.built and not entry.damaged and not half.exists()


def test_a_forced_rebuild_is_not_called_damage_and_happens_once(store: Store) -> None:
    builder = Builder()
    old = store.build(SPEC, "n", builder)
    os.utime(old.folder / MANIFEST, (1, 1))
    started = time.time() - 5
    again = store.build(SPEC, "n", builder, rebuild_since=started)
    assert again.built and not again.damaged and builder.calls == 2
    assert not store.build(SPEC, "n", builder, rebuild_since=started).built


# A folder that cannot be written.


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def one_line(caught: pytest.ExceptionInfo[ParityError], words: str) -> None:
    message = str(caught.value)
    assert words in message and "--parity-cache" in message and len(message.splitlines()) == 1


def test_no_space_while_building_is_one_line_and_leaves_nothing(store: Store) -> None:
    def full(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("half")
        return no_space()  # type: ignore[no-any-return]

    with pytest.raises(ParityError) as caught:
        store.build(SPEC, "n", full)
    one_line(caught, "No space left on device")
    assert not list((store.root / "objects").iterdir()) and not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize("what", ["atomic.write_text", "sha256_file"])
def test_no_space_while_publishing_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"parity.store.cache.{what}", no_space)
        with pytest.raises(ParityError) as caught:
            store.build(SPEC, "n", Builder())
    one_line(caught, "No space left on device")
    assert store.get(key_of(SPEC)) is None and not list((store.root / "objects").iterdir())
    assert not list((store.root / "tmp").iterdir())
    assert store.build(SPEC, "n", Builder()).built


def test_no_space_for_what_a_run_tells_its_workers_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "write_text", no_space)
    with pytest.raises(ParityError) as caught:
        store.once("run", "name", lambda: 1)
    one_line(caught, "No space left on device")


def test_a_result_is_given_even_where_the_memory_of_names_cannot_be_written(store: Store) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    (store.root / "last").write_text("a file where the folder would be")
    assert store.build(SPEC, "n", Builder()).built
    assert store.last("n") is None


@pytest.mark.skipif(not Path("/proc/mounts").exists() or os.geteuid() != 0, reason="mounting needs root on Linux")
@pytest.mark.parametrize("size", [4096, 40 << 10, 300 << 10])
def test_a_disk_that_is_really_full_is_one_line_and_the_next_run_builds(tmp_path: Path, size: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        store = Store(disk / "cache")
        with pytest.raises(ParityError) as caught:
            store.build(SPEC, "n", lambda f: {"n": (f / "big").write_bytes(bytes(500 << 10))})
        one_line(caught, "No space left on device")
        assert store.get(key_of(SPEC)) is None
        subprocess.run(["mount", "-o", "remount,size=4M", str(disk)], check=True)
        entry = store.build(SPEC, "n", lambda f: {"n": (f / "big").write_bytes(bytes(500 << 10))})
        assert entry.built and not list((store.root / "tmp").iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(ParityError) as caught:
        Store(tmp_path / "cache").build(SPEC, "n", Builder())
    one_line(caught, "cache")
    with pytest.raises(ParityError) as caught:
        Store(tmp_path / "cache").once("run", "name", lambda: 1)
    one_line(caught, "cache")
    with pytest.raises(ParityError) as caught:
        Store(tmp_path / "cache").first("run", "name")
    one_line(caught, "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_one_line_and_its_entries_can_be_read(store: Store) -> None:
    entry = store.build(SPEC, "n", Builder())
    for folder in (store.root, *[p for p in store.root.rglob("*") if p.is_dir()]):
        folder.chmod(0o555)
    try:
        assert store.get(entry.key) is not None
        assert not store.build(SPEC, "n", Builder()).built
        with pytest.raises(ParityError) as caught:
            store.build({"other": 1}, "n", Builder())
        one_line(caught, "Permission denied")
    finally:
        for folder in (store.root, *[p for p in store.root.rglob("*") if p.is_dir()]):
            folder.chmod(0o755)


def test_an_entry_in_a_read_only_folder_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.build(SPEC, "n", Builder())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("utime", "mkdir", "replace", "rename"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(atomic, "write_text", refuse)
    assert not store.build(SPEC, "another name", Builder()).built


# Many processes.

WORKER = """
import json, os, sys, time
from pathlib import Path
from parity.store.cache import Store
root, counter, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def builder(folder):
    with counter.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    (folder / "half").write_text("first half")
    time.sleep(seconds)
    (folder / "model.bin").write_text("whole")
    return {"by": os.getpid()}
entry = Store(root).build({"spec": 1}, "n", builder)
print(json.dumps({"built": entry.built, "by": entry.notes["by"], "text": (entry.folder / "model.bin").read_text()}))
"""


def start(root: Path, counter: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), str(counter), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)  # type: ignore[no-any-return]


def builders(counter: Path, many: int = 1) -> list[int]:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if counter.exists() and len(counter.read_text().split()) >= many:
            return [int(n) for n in counter.read_text().split()]
        time.sleep(0.02)
    raise AssertionError("no builder began")


def test_one_builder_among_eight_processes(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    found = [result(p) for p in [start(tmp_path / "cache", counter, 0.3) for _ in range(8)]]
    (one,) = builders(counter)
    assert sorted(r["built"] for r in found) == [False] * 7 + [True]
    assert all(r["text"] == "whole" and r["by"] == one for r in found)


def test_a_builder_killed_in_the_middle_is_replaced_by_one_that_waits(tmp_path: Path) -> None:
    counter, root = tmp_path / "counter", tmp_path / "cache"
    first = start(root, counter, 60)
    builders(counter)
    second = start(root, counter, 0.1)
    time.sleep(0.5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    found = result(second)
    assert found["built"] and found["text"] == "whole" and len(builders(counter)) == 2
    assert len(list((root / "objects").iterdir())) == 1 and not list((root / "tmp").iterdir())


def test_after_a_builder_was_killed_the_next_run_builds(tmp_path: Path) -> None:
    counter, root = tmp_path / "counter", tmp_path / "cache"
    first = start(root, counter, 60)
    builders(counter)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert Store(root).get(key_of({"spec": 1})) is None
    assert files(root / "tmp")
    found = result(start(root, counter, 0))
    assert found["built"] and found["text"] == "whole" and not files(root / "tmp")


# Names, runs, explanations.


def test_once_makes_a_value_once_a_run(store: Store) -> None:
    made: list[int] = []
    for _ in range(3):
        assert store.once("run1", "a", lambda: made.append(1) or {"v": len(made)}) == {"v": 1}
    assert store.once("run1", "b", lambda: 5) == 5 and store.once("run2", "a", lambda: 6) == 6
    store.end("run1")
    assert store.once("run1", "a", lambda: 7) == 7 and store.once("run2", "a", lambda: 8) == 6


def test_once_forgets_a_value_that_raised_or_was_damaged(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        store.once("run", "a", lambda: 1 / 0)
    assert store.once("run", "a", lambda: 1) == 1
    (file,) = (store.root / "runs" / "run").glob("*.json")
    file.write_text("{")
    assert store.once("run", "a", lambda: 2) == 2


def test_first_is_true_for_one_caller(store: Store) -> None:
    assert [store.first("run", "a") for _ in range(3)] == [True, False, False]
    assert store.first("run", "b") and store.first("other", "a")


def test_ending_a_run_leaves_no_notes_and_no_locks(store: Store) -> None:
    store.once("run", "a", lambda: 1)
    store.first("run", "a")
    store.end("run")
    assert not list((store.root / "runs").iterdir()) and not list((store.root / "locks").iterdir())
    store.end("never began")


def test_the_last_specification_of_a_name_and_the_one_before(store: Store) -> None:
    assert store.last("n") is None
    store.build(SPEC, "n", Builder())
    assert store.last("n") == {"key": key_of(SPEC), "spec": SPEC, "before": None}
    newer = {**SPEC, "options": {"opset": 18}}
    store.build(newer, "n", Builder())
    store.build(newer, "n", Builder())
    assert store.last("n") == {"key": key_of(newer), "spec": newer, "before": SPEC}
    (store.root / "last" / "n.json").write_text("[]")
    assert store.last("n") is None


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": {"b": {"c": "x"}}}, {"a": {"b": {"c": "y"}}}, ["a.b.c: x -> y"]),
        ({"a": 1}, {}, ["a: 1 -> null"]),
        ({}, {"a": [1, 2]}, ["a: null -> [1,2]"]),
        ({"h": "a" * 64}, {"h": "b" * 64}, [f"h: {'a' * 12}… -> {'b' * 12}…"]),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a: 1 -> 2", "b: 1 -> 2"]),
        ({"a": {"x": 1}}, {"a": 3}, ['a: {"x":1} -> 3']),
        ({"t": "x" * 90}, {"t": "y"}, [f"t: {'x' * 60} -> y"]),
    ],
)
def test_differences(before: Any, now: Any, lines: list[str]) -> None:
    assert differences(before, now) == lines


# Bounding the size.


def three(store: Store) -> list[Entry]:
    entries = [store.build({"i": i}, f"n{i}", lambda f: {"n": (f / "x").write_bytes(bytes(1000))}) for i in range(3)]
    for age, entry in enumerate(entries):
        os.utime(entry.folder, (1000 + age, 1000 + age))
    return entries


def kept(store: Store) -> list[str]:
    return sorted(key for key, _, _ in store.entries())


def test_sweep_deletes_what_was_not_used_for_longest(store: Store) -> None:
    entries = three(store)
    total = sum(size for _, size, _ in store.entries())
    assert store.sweep(total) == (0, 0)
    deleted, freed = store.sweep(total - 1)
    assert deleted == 1 and freed == pytest.approx(total / 3, abs=50)
    assert kept(store) == sorted(e.key for e in entries[1:])
    assert store.sweep(0)[0] == 2 and kept(store) == []
    assert not list((store.root / "tmp").iterdir())


def test_using_an_entry_keeps_it(store: Store) -> None:
    entries = three(store)
    store.get(entries[0].key)
    store.sweep(sum(size for _, size, _ in store.entries()) - 1)
    assert kept(store) == sorted([entries[0].key, entries[2].key])


def test_sweep_leaves_alone_what_somebody_holds(store: Store) -> None:
    entries = three(store)
    with store.lock(entries[0].key):
        assert store.sweep(0)[0] == 2
    assert kept(store) == [entries[0].key]


def test_sweep_takes_old_notes_and_abandoned_work_and_leaves_the_new(store: Store) -> None:
    three(store)
    for name in ("old", "new"):
        store.first(name, "x")
        (store.root / "tmp" / f"{name}.work").mkdir()
    for path in (store.root / "runs" / "old", store.root / "tmp" / "old.work"):
        os.utime(path, (1000, 1000))
    store.sweep(1 << 40)
    assert [p.name for p in (store.root / "runs").iterdir()] == ["new"]
    assert [p.name for p in (store.root / "tmp").iterdir()] == ["new.work"]


def test_sweep_of_an_empty_folder_is_nothing(store: Store) -> None:
    assert store.sweep(0) == (0, 0)


# Places and hashes.


def test_where_a_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store.at("c", tmp_path).root == tmp_path / "c"
    assert Store.at(f"file://{tmp_path}/d", Path("/")).root == tmp_path / "d"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.at("~/e", Path("/")).root == tmp_path / "e"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Store.at(None, Path("/")).root == tmp_path / "xdg" / "pytest-parity"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Store.at(None, Path("/")).root == tmp_path / ".cache" / "pytest-parity"


def test_the_hash_of_several_files_sees_names_and_contents() -> None:
    keys = {sha256_files(hashes) for hashes in ({"x": "1", "y": "2"}, {"x": "2", "y": "1"}, {"x": "1", "z": "2"})}
    assert len(keys) == 3 and sha256_files({"y": "2", "x": "1"}) in keys
    assert sha256_files({"x": "1"}) == "1"
