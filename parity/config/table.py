"""TOML tables that are consumed key by key, and know in which line of which file each value stands."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parity.core.errors import ConfigError, ParityError
from parity.core.plan import did_you_mean
from parity.core.settings import TargetFacts
from parity.files import toml_lines
from parity.files.toml_lines import key_lines

_KINDS = {str: "text", int: "a number", float: "a number", dict: "a table", list: "a list", bool: "true or false",
          datetime.date: "a date"}  # fmt: skip


ContractReader = Callable[[Path, str, Path], dict[str, Any]]
"""(file, target or "reference", project folder) -> {"inputs": [...], "outputs": [...]}, as `session.signature` does."""


def no_contract(file: Path, kind: str, root: Path) -> dict[str, Any]:
    """The contract reader of whoever has none."""
    raise ParityError(f"{file.name}: its contract is not read here: declare inputs and outputs")


class Table:
    """A TOML table that is consumed key by key; what is left over is an error with a did-you-mean."""

    def __init__(self, data: Any, path: tuple[str, ...], reader: Reader):
        if not isinstance(data, dict):
            raise reader.error(path, f"expected a table, found {data!r:.40}")
        self.data, self.path, self.reader, self.seen = data, path, reader, set[str]()

    def error(self, key: str | None, message: str) -> ConfigError:
        return self.reader.error((*self.path, key) if key else self.path, message)

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        self.seen.add(key)
        if key not in self.data:
            return default
        value = self.data[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(_KINDS.get(k, k.__name__) for k in kinds)
            raise self.error(key, f"expected {names}, found {value!r:.40}")
        return value

    def table(self, key: str, value: Any) -> Table:
        """The table below this one that `key` holds."""
        return Table(value, (*self.path, key), self.reader)

    def words(self, key: str, known: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
        """A list of texts, each one of `known` when that is given."""
        value = self.take(key, list)
        if value is None:
            return None
        for word in value:
            if not isinstance(word, str):
                raise self.error(key, f"expected a list of texts, found {word!r:.40}")
            if known is not None and word not in known:
                raise self.error(key, f"unknown {word!r}{did_you_mean(word, known)}; known: {', '.join(known)}")
        if len(set(value)) != len(value):
            raise self.error(key, "names something twice")
        return tuple(value)

    def numbers(self, key: str, count: int | None = None) -> tuple[float, ...] | None:
        value = self.take(key, list)
        if value is None:
            return None
        bad = any(isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in value)
        if bad or (count is not None and len(value) != count):
            raise self.error(
                key, f"expected a list of {count or ''} numbers".replace("  ", " ") + f", found {value!r:.40}"
            )
        return tuple(float(v) for v in value)

    def positive(self, key: str, default: float) -> float:
        value = float(self.take(key, (int, float), default))
        if not (math.isfinite(value) and value > 0):
            raise self.error(key, f"expected a number above 0, found {value}")
        return value

    def size(self, key: str, default: int) -> int:
        text = self.take(key, str)
        if text is None:
            return default
        try:
            return parse_size(text)
        except ParityError as error:
            raise self.error(key, str(error)) from None

    def existing(self, key: str, kind: str = "file or folder") -> Path | None:
        text = self.take(key, str)
        if text is None:
            return None
        path: Path = self.reader.root / text
        try:
            there = bool(text) and (path.is_file() if kind == "file" else path.exists())
        except (OSError, ValueError):  # too long, or no path at all
            there = False
        if not there:
            raise self.error(key, f"{text!r:.80}: no such {kind}")
        return path.resolve()

    def done(self) -> None:
        for key in self.data:
            if key not in self.seen:
                raise self.error(key, f"unknown key {key!r}{did_you_mean(key, self.seen)}")


class Reader:
    def __init__(self, file: Path, text: str, section: tuple[str, ...], facts: Mapping[str, TargetFacts]):
        self.file, self.lines, self.section, self.facts = file, key_lines(text), section, facts
        self.targets = tuple(facts)
        self.root = file.parent
        self.factories = False  # whether a factory must be there
        self.checkpoints = True  # whether a checkpoint must be there
        self.read_contract: ContractReader = no_contract
        self.set_by: dict[tuple[str, ...], str] = {}  # key path -> the text on the command line that set it

    def set(self, data: dict[str, Any], setting: str) -> dict[str, Any]:
        """`data` with the keys of a TOML text such as 'models.skin.opset = 18' in their place."""
        try:
            changes = toml_lines.loads(setting)
        except ValueError as error:
            raise ConfigError(f"--parity-set {setting!r:.80}: not TOML such as 'limits.fp32 = {{ cosine = 0.999 }}': "
                              f"{error}") from None  # fmt: skip
        if not changes:
            raise ConfigError(f"--parity-set {setting!r}: sets nothing")

        def merged(old: Any, new: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
            result = dict(old) if isinstance(old, dict) else {}
            for key, value in new.items():
                here = (*path, key)
                deeper = isinstance(value, dict) and isinstance(result.get(key), dict)
                if not deeper:
                    self.set_by[here] = setting
                result[key] = merged(result[key], value, here) if deeper else value
            return result

        return merged(data, changes, ())

    def where(self, path: tuple[str, ...]) -> str:
        """`pyproject.toml:31 [tool.parity.limits] fp32` for a key path below the section, or the option that set it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.set_by:
                return f"--parity-set {self.set_by[path[:depth]]!r:.80}"
        full = (*self.section, *path)
        line = next((self.lines[full[:n]] for n in range(len(full), 0, -1) if full[:n] in self.lines), 1)
        table = ".".join((*self.section, *path[:-1]))
        return f"{self.file.name}:{line} [{table}] {path[-1]}" if path else f"{self.file.name}:{line} [{table}]"

    def error(self, path: tuple[str, ...], message: str) -> ConfigError:
        return ConfigError(f"{self.where(path)}: {message}")

    def check_integers(self, value: Any, path: tuple[str, ...] = ()) -> None:
        """TOML integers have 64 bits; Python's parser takes any, and float() of a longer one raises."""
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise self.error(path, "the number does not fit 64 bits")
        if isinstance(value, dict):
            for key, entry in value.items():
                self.check_integers(entry, (*path, key))
        elif isinstance(value, list):
            for entry in value:
                self.check_integers(entry, path)


def parse_size(text: str) -> int:
    """Bytes of a text such as '8GiB', '500 MB' or '1024'. Raises ParityError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*", text)
    if not found:
        raise ParityError(f"{text!r} is not a size: write it as '8GiB' or '500MB'")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2].lower() or " "))
