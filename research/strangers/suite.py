"""The committed list: each architecture's table, word for word, and which are held back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

HERE = Path(__file__).parent
LONGEST = 8  # lines of settings of an architecture


@dataclass(frozen=True)
class Stranger:
    """One architecture: `table` is its text in `models.toml`, `settings` the same parsed."""

    name: str
    table: str
    settings: dict[str, Any]
    held_back: bool


def strangers() -> list[Stranger]:
    """Every architecture of `models.toml`, in its order."""
    text = (HERE / "models.toml").read_text(encoding="utf-8")
    parsed = tomllib.loads(text)
    held_back, models = set(parsed["held_back"]), parsed["tool"]["parity"]["models"]
    if unknown := held_back - set(models):
        raise ValueError(f"held back, and no model: {', '.join(sorted(unknown))}")
    tables = dict(re.findall(r"^(?=\[tool\.parity\.models\.(\w+)\])(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL))
    return [Stranger(n, tables[n].strip() + "\n", s, n in held_back) for n, s in models.items()]


@dataclass(frozen=True)
class PublicFile:
    """A file that ships in a package: where it lies, what it takes, and what stands for the same model."""

    name: str
    path: str
    inputs: dict[str, Any]
    range: tuple[float, float]
    precision: str
    siblings: tuple[str, ...]


def public_files() -> list[PublicFile]:
    """Every file of `files.toml`, in its order."""
    parsed = tomllib.loads((HERE / "files.toml").read_text(encoding="utf-8"))
    return [
        PublicFile(
            name,
            entry["path"],
            entry.get("inputs", {}),
            tuple(entry.get("range", (-1.0, 1.0))),
            entry.get("precision", "fp32"),
            tuple(entry.get("siblings", ())),
        )
        for name, entry in parsed["files"].items()
    ]
