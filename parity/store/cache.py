"""A content-addressed store of what converters made: one builder a key, atomic publish, verified on every hit.

Layout of the folder: `objects/KEY/` holds an entry's files and its `manifest.json`, which is written last;
`locks/` holds one lock file a key; `tmp/` holds entries in the making; `last/` remembers what each name was last built
from, so that a miss can be explained; `runs/` holds what one run tells its workers. An entry is in `objects/` whole
or not at all: it is renamed into place. Locks belong to the process that holds them and vanish with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from parity.core import strict_json
from parity.core.errors import ParityError
from parity.store import atomic
from parity.store.remote import Remote

MANIFEST = "manifest.json"
_STALE = 24 * 3600.0  # seconds after which a run's notes and abandoned work are swept


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_files(hashes: Mapping[str, str]) -> str:
    """One hash for several files, given as the SHA-256 of each by its name; of a single file it is its own."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = [f"{name}\0{digest}" for name, digest in sorted(hashes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def canonical(spec: Any) -> str:
    """The one JSON text of a specification; anything that JSON cannot hold is a programming error."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(spec: Mapping[str, Any]) -> str:
    """The content address of what a specification would build: 64 hexadecimal digits."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()


def default_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pytest-parity"


@dataclass(frozen=True)
class Entry:
    """A published result: its folder, its files (path, bytes, sha256), what the builder noted, and how it came."""

    key: str
    folder: Path
    files: tuple[tuple[str, int, str], ...]
    notes: Mapping[str, Any]
    seconds: float
    built: bool  # built just now, by this call
    damaged: bool = False  # an entry was here and did not verify, so it was built again


class Store:
    """The store in one folder. Any number of processes may use it at once."""

    def __init__(self, root: Path, remote: Remote | None = None):
        self.root, self.remote = root, remote

    @classmethod
    def at(cls, url: str | None, base: Path) -> Store:
        """The store at a path or file:// URL; relative paths start at `base`. None is the user's cache folder.

        Any other URL names a store that machines share: the user's cache folder, filled from there and copied there.
        """
        if url is None:
            return cls(default_root())
        if "://" in url and not url.startswith("file://"):
            return cls(default_root(), Remote(url))
        return cls((base / Path(url.removeprefix("file://")).expanduser()).resolve())

    @property
    def building(self) -> Path:
        """The folder below which entries are built."""
        return self.root / "tmp"

    def get(self, key: str) -> Entry | None:
        """The entry when it is there and every file has its size and sha256; None otherwise."""
        return self._verified(key, self.root / "objects" / key)

    def _verified(self, key: str, folder: Path) -> Entry | None:
        try:
            manifest = strict_json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest.pop("sha256") != key_of(manifest):
                return None
            files = tuple((str(p), int(n), str(h)) for p, n, h in manifest["files"])
            for path, size, digest in files:
                if (folder / path).stat().st_size != size or sha256_file(folder / path) != digest:
                    return None
            notes, seconds = dict(manifest["notes"]), float(manifest["seconds"])
            if manifest["key"] != key or {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} != {
                MANIFEST,
                *(p for p, _, _ in files),
            }:
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)  # mark as used, for sweep
        return Entry(key, folder, files, notes, seconds, built=False)

    def build(
        self,
        spec: Mapping[str, Any],
        name: str,
        builder: Callable[[Path], Mapping[str, Any]],
        *,
        rebuild_since: float | None = None,
        accepts: Callable[[Entry], bool] = lambda entry: True,
    ) -> Entry:
        """The entry for `spec`, made by `builder(folder) -> notes` unless it is there already.

        Whoever comes second waits for the first. `rebuild_since` (epoch seconds) makes entries older than it count as
        absent, so that a forced rebuild happens once a run and not once a worker. So do entries that `accepts` denies.
        Raises what the builder raises, and ParityError when the folder cannot be written; nothing half-made stays in
        `objects/` either way.
        """
        key = key_of(spec)

        def is_good(entry: Entry) -> bool:
            return not self._too_old(entry, rebuild_since) and accepts(entry)

        try:
            found = self.get(key)
            if found and is_good(found):
                self._remember(name, key, spec)
                return found
            with self.lock(key):
                found = self.get(key)
                if found and is_good(found):
                    self._remember(name, key, spec)
                    return found
                if found is None and rebuild_since is None and (found := self._fetch(key)) and accepts(found):
                    self._remember(name, key, spec)
                    return found
                made = self._make(key, spec, name, builder, outdated=found is not None)
                if self.remote:
                    self.remote.push(key, made.folder)
                return made
        except OSError as error:
            raise self._unusable(error) from None

    def _fetch(self, key: str) -> Entry | None:
        """The entry from the shared store, published here when it verifies. The caller holds the lock."""
        if self.remote is None:
            return None
        objects, work = self.root / "objects", self.root / "tmp" / f"{key}.fetch{uuid.uuid4().hex[:8]}"
        work.parent.mkdir(parents=True, exist_ok=True)
        objects.mkdir(exist_ok=True)
        try:
            if not self.remote.fetch(key, work) or self._verified(key, work) is None:
                return None
            if not (objects / key).exists():  # a damaged entry is replaced by building, which says so
                work.replace(objects / key)
            return self.get(key)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _unusable(self, error: OSError) -> ParityError:
        why = error.strerror or error
        return ParityError(f"cache {self.root}: {why}; free space or choose another with --parity-cache")

    def _too_old(self, entry: Entry, since: float | None) -> bool:
        return since is not None and (entry.folder / MANIFEST).stat().st_mtime < since

    def _make(
        self,
        key: str,
        spec: Mapping[str, Any],
        name: str,
        builder: Callable[[Path], Mapping[str, Any]],
        outdated: bool,
    ) -> Entry:
        objects, tmp = self.root / "objects", self.root / "tmp"
        objects.mkdir(parents=True, exist_ok=True)
        tmp.mkdir(exist_ok=True)
        for abandoned in tmp.glob(f"{key}.*"):  # we hold the lock, so whoever made these is gone
            shutil.rmtree(abandoned, ignore_errors=True)
        final, work = objects / key, tmp / f"{key}.{uuid.uuid4().hex[:8]}"
        replaces = final.exists()
        work.mkdir()
        try:
            start = time.monotonic()
            notes = dict(builder(work))
            seconds = time.monotonic() - start
            files = [
                (path.relative_to(work).as_posix(), path.stat().st_size, sha256_file(path))
                for path in sorted(work.rglob("*"))
                if path.is_file()
            ]
            manifest = {
                "key": key,
                "name": name,
                "files": files,
                "notes": notes,
                "seconds": seconds,
                "spec": spec,
            }
            manifest["sha256"] = key_of(manifest)
            atomic.write_text(work / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n", sync=True)
            if replaces:
                final.replace(tmp / f"{key}.old{uuid.uuid4().hex[:8]}")
            work.replace(final)
        finally:
            for left in tmp.glob(f"{key}.*"):
                shutil.rmtree(left, ignore_errors=True)
        self._remember(name, key, spec)
        return Entry(key, final, tuple(files), notes, seconds, built=True, damaged=replaces and not outdated)

    def lock(self, key: str) -> filelock.BaseFileLock:
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.root / "locks" / f"{key}.lock")

    # What one run tells its own workers: small JSON notes, each made once.

    def once(self, run: str, name: str, make: Callable[[], Any]) -> Any:
        """`make()` run by one process of the run `run` only; the others get its result, a JSON value."""
        path = self._note(run, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock(f"run-{run[:40]}-{path.stem}"):
                with contextlib.suppress(OSError, ValueError):
                    return strict_json.loads(path.read_text(encoding="utf-8"))
                value = make()
                # In its own order: some notes mean it.
                atomic.write_text(path, json.dumps(value, allow_nan=False), sync=True)
                return value
        except OSError as error:
            raise self._unusable(error) from None

    def note(self, run: str, name: str, value: Any) -> None:
        """Tell all processes of the run `run` a JSON value; `noted` gives it."""
        path = self._note(run, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path, json.dumps(value, allow_nan=False), sync=True)
        except OSError as error:
            raise self._unusable(error) from None

    def noted(self, run: str, name: str) -> Any:
        """The value that a process of the run `run` noted; None where none did."""
        try:
            return strict_json.loads(self._note(run, name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _note(self, run: str, name: str) -> Path:
        return self.root / "runs" / run / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def first(self, run: str, name: str) -> bool:
        """True for exactly one caller of the run `run`."""
        path = self.root / "runs" / run / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.first"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("x").close()
        except FileExistsError:
            return False
        except OSError as error:
            raise self._unusable(error) from None
        return True

    def end(self, run: str) -> None:
        """Forget what the run `run` told its workers."""
        shutil.rmtree(self.root / "runs" / run, ignore_errors=True)
        for lock in (self.root / "locks").glob(f"run-{run[:40]}-*.lock"):
            with contextlib.suppress(OSError):
                lock.unlink(missing_ok=True)

    # Explaining and bounding.

    def _remember(self, name: str, key: str, spec: Mapping[str, Any]) -> None:
        path = self.root / "last" / f"{name}.json"
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            previous = self.last(name)
            if previous is None or previous["key"] != key:
                text = canonical({"key": key, "spec": spec, "before": previous and previous["spec"]})
                atomic.write_text(path, text, sync=True)

    def last(self, name: str) -> dict[str, Any] | None:
        """What `name` was last built from: {"key", "spec", "before"}; None when never."""
        try:
            value = strict_json.loads((self.root / "last" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) and "spec" in value else None

    def entries(self) -> Iterator[tuple[str, int, float]]:
        """Key, bytes and time of last use of every published entry."""
        for folder in (self.root / "objects").glob("*"):
            with contextlib.suppress(OSError):
                size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
                yield folder.name, size, folder.stat().st_mtime

    def sweep(self, keep_bytes: int) -> tuple[int, int]:
        """Delete the entries that were not used for longest until at most `keep_bytes` are left, and what dead
        builders and old runs left behind. Entries that somebody is building or replacing are left alone.

        Returns the number of entries deleted and the bytes that they held. Raises ParityError when it cannot delete.
        """
        try:
            return self._sweep(keep_bytes)
        except OSError as error:
            raise self._unusable(error) from None

    def _sweep(self, keep_bytes: int) -> tuple[int, int]:
        entries = sorted(self.entries(), key=lambda e: e[2])
        total, deleted, freed = sum(size for _, size, _ in entries), 0, 0
        for key, size, _ in entries:
            if total - freed <= keep_bytes:
                break
            with contextlib.suppress(filelock.Timeout), self.lock(key).acquire(timeout=0):
                doomed = self.root / "tmp" / f"{key}.swept{uuid.uuid4().hex[:8]}"
                doomed.parent.mkdir(exist_ok=True)
                (self.root / "objects" / key).replace(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                deleted, freed = deleted + 1, freed + size
        now = time.time()
        for old in (*(self.root / "runs").glob("*"), *(self.root / "tmp").glob("*")):
            with contextlib.suppress(OSError):
                if now - old.stat().st_mtime > _STALE:
                    shutil.rmtree(old, ignore_errors=True)
        return deleted, freed


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """What changed between two specifications, a line each: where, the old value, the new value."""
    if isinstance(before, dict) and isinstance(now, dict):
        lines = []
        for key in sorted(set(before) | set(now)):
            lines += differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        return lines
    if before == now:
        return []
    return [f"{path}: {_short(before)} -> {_short(now)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text[:12] + "…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text[:60]
