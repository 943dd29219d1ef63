"""What a run is made from: the commit, the source and the files that the plan names, as hashes.

Shards of one plan run on machines that know nothing of each other. Their records are one release only where they were
made from the same; each carries this, and `judging/shards.py` compares it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from parity import formats as targets
from parity.core.errors import ParityError
from parity.core.record import SCHEMA
from parity.core.settings import Config, ModelConfig
from parity.files import toml_lines
from parity.session.artefact_files import content_key, file_records
from parity.store import epochs
from parity.store.cache import Store, key_of, sha256_file

_REPORT = (".html", ".md", ".json", ".elsewhere")
_WAIT = 60.0  # seconds for one answer of git


def origin(config: Config) -> dict[str, str]:
    """Hashes by what they are of: "commit", "golden data of skin". What is not there has no entry."""
    digests = _Digests()
    made = _source(config.root, digests)
    for model in config.models.values():
        made |= _files_of(model, digests)
    return made


def joined(begin: Mapping[str, str], end: Mapping[str, str]) -> dict[str, str]:
    """What a run was made from that began with `begin` and ended with `end`: a change meanwhile equals neither."""
    return {
        key: end.get(key, "") if begin.get(key) == end.get(key) else f"{begin.get(key)}, then {end.get(key)}"
        for key in {**begin, **end}
    }


def fingerprints(config: Config, store: Store, run: str) -> dict[str, dict[str, str]]:
    """The fingerprint of each model that a process of the run `run` has made, less what only this store knows."""
    noted = {name: store.noted(run, f"fp {name}") for name in config.models}
    return {
        name: {part: digest for part, digest in note["value"].items() if part != "epoch"}
        for name, note in noted.items()
        if note and "value" in note
    }


def configuration(file: Path) -> dict[str, str]:
    """Hashes of what [tool.parity] in `file` says, by key, and of each model by itself. Raises ParityError."""
    try:
        table = toml_lines.loads(file.read_text(encoding="utf-8"))["tool"]["parity"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ParityError(f"{file}: cannot be read ({error})") from None
    models = table.pop("models", {})
    said = {**table, **{f"models.{name}": model for name, model in models.items()}}
    return {key: key_of({"value": json.dumps(value, sort_keys=True, default=str)}) for key, value in said.items()}


def read(config: Config, store: Store, run: str) -> dict[str, str]:
    """SHA-256, by their paths from the project's folder, of the files that the models made in the run `run` were seen
    to read, checkpoints among them; "" for one that was looked for and is not there."""
    digests, made = _Digests(), dict[str, str]()
    for name, fingerprint in fingerprints(config, store, run).items():
        made |= epochs.current(store, key_of(fingerprint)).reads.get("files", {})
        checkpoint = config.models[name].checkpoint
        if checkpoint is not None and checkpoint.is_relative_to(config.root):
            made[checkpoint.relative_to(config.root).as_posix()] = digests.file(checkpoint)
    return made


class _Digests:
    """SHA-256 of files, each read once: models share golden data."""

    def __init__(self) -> None:
        self._of: dict[Path, str] = {}

    def file(self, path: Path) -> str:
        if path not in self._of:
            try:
                self._of[path] = sha256_file(path)
            except OSError:
                self._of[path] = "cannot be read"
        return self._of[path]

    def files(self, root: Path, paths: Iterable[Path]) -> str:
        """One hash of files with their paths from `root`."""
        return key_of({path.relative_to(root).as_posix(): self.file(path) for path in paths})


def _source(root: Path, digests: _Digests) -> dict[str, str]:
    """The project's Python files and, where it is in git, the commit and what was changed since."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"source": digests.files(root, _python_files(root))}
    changed = [root / name for name in _names(root, "diff", "--name-only", "--relative", "-z", "HEAD", "--", ".")]
    listed = _names(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.py")
    source = {root / name for name in listed if _is_own(Path(name))}
    return {
        "commit": commit.strip(),
        "uncommitted changes": digests.files(root, sorted(path for path in changed if not _is_written(root, path))),
        "source": digests.files(root, sorted(source)),
    }


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers; None where there is no git, or no repository with a commit."""
    command = ["git", "-C", str(root), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, timeout=_WAIT, check=True).stdout
        return answer.decode("utf-8", "surrogateescape")
    return None


def _names(root: Path, *arguments: str) -> list[str]:
    return [name for name in (_git(root, *arguments) or "").split("\0") if name]


def _python_files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*.py")) if path.is_file() and _is_own(path.relative_to(root)))


def _is_own(path: Path) -> bool:
    """Whether a file is the project's: no environment that lies in its folder, and nothing hidden."""
    return not any(part.startswith(".") or part in ("site-packages", "node_modules") for part in path.parts)


def _is_written(root: Path, path: Path) -> bool:
    """Whether a run writes this file itself: reports, also of other shards, and what it keeps in `.parity`."""
    if path.relative_to(root).parts[0] == ".parity":
        return True
    if path.suffix not in _REPORT:
        return False
    if path.stem.endswith(".whole"):
        return True
    with contextlib.suppress(OSError):
        return f'"schema": "{SCHEMA}"' in path.with_suffix(".json").read_text(encoding="utf-8", errors="replace")
    return False


def _files_of(model: ModelConfig, digests: _Digests) -> dict[str, str]:
    """Hashes of the files that the configuration names for a model."""
    folders = {
        "golden data": model.golden,
        "calibration data": model.calibration,
        "video": model.video,
        "stored references": model.references,
        "checkpoint": model.checkpoint,
    }
    made = {f"{kind} of {model.name}": _content(path, digests) for kind, path in folders.items() if path}
    if model.reference is not None:
        made[f"reference file of {model.name}"] = _artefact(model.reference, digests)
    for place, prebuilt in model.artifacts.items():
        made[f"artefact {model.name}-{place}"] = _artefact(prebuilt.path, digests)
    return made


def _content(path: Path, digests: _Digests) -> str:
    if not path.is_dir():
        return digests.file(path)
    inside = (found for found in sorted(path.rglob("*")) if found.is_file())
    own = (found for found in inside if not any(part.startswith(".") for part in found.relative_to(path).parts))
    return digests.files(path, own)


def _artefact(path: Path, digests: _Digests) -> str:
    """One hash of a file and of all that its format keeps beside it."""
    try:
        return content_key(file_records(path, targets.recognised(path)))
    except ParityError:  # no such file, or none of its format: the cell that needs it says so
        return _content(path, digests)
