"""`[tool.parity]` of a pyproject.toml as the frozen dataclasses of `core.settings`: strict, and every value knows the
line that it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from parity.config.executors import REQUIRABLE, read_executors
from parity.config.model import read_model
from parity.config.rules import read_accepted, read_limits, read_waiver
from parity.config.table import ContractReader, Reader, Table, no_contract, parse_size
from parity.core.errors import ConfigError
from parity.core.plan import PRECISIONS, did_you_mean
from parity.core.settings import DEFAULT_TARGETS, Config, TargetFacts, ToolchainConfig
from parity.files import toml_lines

__all__ = ["find", "load", "parse", "parse_size"]


def read_config(reader: Reader, data: Mapping[str, Any]) -> Config:
    top = Table(data, (), reader)
    reader.check_integers(data)
    targets = top.words("targets", reader.targets) or DEFAULT_TARGETS
    precisions = top.words("precisions", PRECISIONS) or ("fp32", "fp16")
    executors = read_executors(top)
    models = {
        name: read_model(Table(value, ("models", name), reader), name, targets, precisions, executors)
        for name, value in top.take("models", dict, {}).items()
    }
    if not models:
        raise top.error(None, "no model: add a [tool.parity.models.NAME] table (parity init writes one)")
    for name, model in models.items():
        other = model.decode.prefill if model.decode else None
        if other is not None and other not in models:
            place = ("models", name, "decode", "prefill")
            raise reader.error(place, f"no model {other!r}{did_you_mean(other, models)}")
    rules = read_limits(reader, top.take("limits", dict, {}), models)
    waive = tuple(
        read_waiver(Table(value, ("waive", str(i)), reader), models)
        for i, value in enumerate(top.take("waive", list, []))
    )
    accept = tuple(
        read_accepted(Table(value, ("accept", str(i)), reader), models)
        for i, value in enumerate(top.take("accept", list, []))
    )
    require = top.words("require", tuple(dict.fromkeys((*targets, *reader.targets, *models, *REQUIRABLE)))) or ()
    result = Config(
        reader.root, reader.file, models, rules, waive, accept, require,
        seed=read_seed(top),
        timeout=top.positive("timeout", 600.0),
        memory=top.size("memory", 0),
        toolchains=read_toolchains(reader, top.take("toolchains", dict, {}), top.take("routes", dict, {})),
        cache=top.take("cache", str),
        cache_size=top.size("cache_size", 10 << 30),
        gate_latency=top.take("gate_latency", bool, False),
        plugins=read_plugins(top),
    )  # fmt: skip
    top.done()
    return result


def read_plugins(table: Table) -> tuple[str, ...]:
    names = table.words("plugins") or ()
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise table.error("plugins", f"{name!r} is no name of a module, such as 'my_pkg.faults'")
    return names


def read_seed(table: Table) -> int:
    value = cast("int", table.take("seed", int, 20260101))
    if value < 0:
        raise table.error("seed", f"expected a whole number from 0, found {value}")
    return value


def read_toolchains(reader: Reader, data: Mapping[str, Any], routes: Mapping[str, Any]) -> dict[str, ToolchainConfig]:
    """The toolchains that are not as built in, by name. `routes` is the table by the name that it once had."""
    for name in routes:
        raise reader.error(("routes", name), f"is now [tool.parity.toolchains.{name}], with the same python")
    names = tuple(dict.fromkeys(name for facts in reader.facts.values() for name in facts.toolchains))
    for name in data:
        if name not in names:
            raise reader.error(("toolchains", name), f"unknown toolchain {name!r}{did_you_mean(name, names)}")
    return {name: _toolchain(Table(value, ("toolchains", name), reader)) for name, value in data.items()}


def _toolchain(table: Table) -> ToolchainConfig:
    """One of `packages`, `lock` or `python`; `python` may stand beside either of the others. The paths need not exist:
    what is missing makes cells unavailable, on the machine where it is missing."""
    packages = table.words("packages") or ()
    lock, python = table.take("lock", str), table.take("python", str)
    table.done()
    if packages and lock:
        raise table.error("lock", "cannot stand beside packages: a lock names them all")
    if not packages and not lock and not python:
        raise table.error(None, 'needs packages = ["NAME==1.0"], lock = "path" or python = "path/to/python"')
    for package in packages:
        if package.startswith("-") or not re.match(r"[A-Za-z0-9]", package):
            raise table.error("packages", f"{package!r} is no requirement, such as 'onnx2tf==2.6.9'")
    if python is None:
        return ToolchainConfig(packages, table.reader.root / lock if lock else None)
    if re.fullmatch(r"3\.\d+", python):
        if not packages and not lock:
            raise table.error("python", f"{python!r} is a version: it goes with packages or lock; else give a path")
    else:
        # Not resolved: an environment's interpreter is a link that must stay one.
        python = str(table.reader.root / Path(python).expanduser())
    return ToolchainConfig(packages, table.reader.root / lock if lock else None, python)


def parse(
    text: str, file: Path, targets: Mapping[str, TargetFacts], settings: Sequence[str] = (), *, factories: bool = False,
    checkpoints: bool = True, read_contract: ContractReader = no_contract,
) -> Config:  # fmt: skip
    """The configuration in the text of a pyproject.toml, `file` giving its place, under the `settings` of a command
    line: TOML texts, relative to the table. `targets` are the facts of every target that a cell may name, by its name,
    as `formats.facts` gives them. Raises ConfigError.

    `factories` and `checkpoints` say whether those must be there: a stored record is judged without the models, and
    an export of one model does not need the weights of another. `read_contract` reads what a file states of its own
    inputs and outputs, for models that leave them out.
    """
    try:
        data = toml_lines.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file.name}: not valid TOML: {error}") from None
    tool = data.get("tool", {})
    if not isinstance(tool, dict) or "parity" not in tool:
        raise ConfigError(f"{file}: no [tool.parity] table; run: parity init")
    reader = Reader(file, text, ("tool", "parity"), targets)
    reader.factories, reader.checkpoints, reader.read_contract = factories, checkpoints, read_contract
    table = tool["parity"]
    for setting in settings:
        table = reader.set(table, setting)
    return read_config(reader, table)


def find(start: Path) -> Path | None:
    """The nearest pyproject.toml with a [tool.parity] table at `start` or above it."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file() and _has_table(file.read_text("utf-8", "replace")):
            return file
    return None


def _has_table(text: str) -> bool:
    if "parity" not in text:
        return False
    try:
        tool = toml_lines.loads(text).get("tool")
    except ValueError:  # broken: whoever reads it should say so, if it is about parity
        return re.search(r"^\s*\[+\s*tool\s*\.\s*parity\s*[.\]]", text, re.M) is not None
    return isinstance(tool, dict) and "parity" in tool


def load(
    file: Path, targets: Mapping[str, TargetFacts], settings: Sequence[str] = (), *, factories: bool = False,
    checkpoints: bool = True, read_contract: ContractReader = no_contract,
) -> Config:  # fmt: skip
    """The configuration in `file`, under `settings`. Raises ConfigError with one line: what, where, what to do."""
    try:
        text = file.read_text(encoding="utf-8")
        return parse(
            text, file.resolve(), targets, settings, factories=factories, checkpoints=checkpoints,
            read_contract=read_contract,
        )  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
