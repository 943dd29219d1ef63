"""One hash for all code of this package that a computation runs, so that what was kept of it is
never stale.

The source is read, not imported: from the module of a function along its imports, those inside
functions and under TYPE_CHECKING too, and along names of modules that stand in strings.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

PACKAGE = "parity"
_HOME = Path(__file__).parents[1]
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*(:[A-Za-z_]\w*)?")
_FILE = re.compile(r"\w[\w-]*(/\w[\w-]*)*\.\w+")  # beside the module
_INSTALLED = {"site-packages", "dist-packages"}


def code_key(function: str | Callable[..., Any], home: Path | None = None) -> str:
    """The hash of all source that `function` may run, and of the version of this package.

    `function` is "module:function" or the function itself. One from outside this package counts
    with its own package, or with the folder that it lies in. `home` is the package's folder, where
    it is not this one; then the key is computed anew. Returns 64 hexadecimal digits.
    """
    if not isinstance(function, str):
        function = f"{function.__module__}:{function.__qualname__}"
    return _here(function) if home is None else _key(function, home)


def files(function: str, home: Path = _HOME) -> dict[str, Path]:
    """The files behind the key of "module:function": source by module, data by package and name."""
    return _Search(function.partition(":")[0], home).run()


@cache
def _here(name: str) -> str:
    return _key(name, _HOME)


def _key(name: str, home: Path) -> str:
    digest = hashlib.sha256(f"{name}\0{_version()}\n".encode())
    for label, path in sorted(files(name, home).items()):
        digest.update(f"{label}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _version() -> str:
    try:
        return importlib.metadata.version("pytest-parity")
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@dataclass(frozen=True)
class _Names:
    """What the source of one module names. An import is (level, module, name or "")."""

    executed: frozenset[tuple[int, str, str]]  # by merely importing the module
    imported: frozenset[tuple[int, str, str]]  # anywhere in it
    strings: frozenset[str]  # constants of the form "a.b" or "a.b:c"
    prefixes: frozenset[str]  # packages in f-strings, as f"parity.reference.{kind}:run"
    own: bool  # whether it names what lies below itself, by `__path__` or f"{__name__}.{part}"
    data: frozenset[str]  # constants that may be names of files


@lru_cache(maxsize=4096)
def _read(source: bytes) -> _Names:
    tree = ast.parse(source)
    strings, prefixes, data, own = set(), set(), set(), False
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            first = node.values[0] if node.values else None
            if isinstance(first, ast.Constant) and str(first.value).startswith(f"{PACKAGE}."):
                prefixes.add(str(first.value).partition(":")[0].rpartition(".")[0])
        if isinstance(node, ast.Name) and node.id in ("__path__", "__name__"):
            own = True
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            if _NAME.fullmatch(node.value) and ("." in node.value or ":" in node.value):
                strings.add(node.value)
            if _FILE.fullmatch(node.value):
                data.add(node.value)
    return _Names(
        executed=frozenset(_imports(_executed(tree))),
        imported=frozenset(_imports(ast.walk(tree))),
        strings=frozenset(strings),
        prefixes=frozenset(prefixes),
        own=own,
        data=frozenset(data),
    )


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that importing a module executes: none in functions, none under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _executed(node)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or "", alias.name) for alias in node.names)


class _Search:
    """The modules reachable from one.

    A package that runs only because a module inside it is imported counts with what that executes.
    One that is imported by name counts with all that it names, tables of strings included.
    """

    def __init__(self, start: str, home: Path):
        self.start, self.home = start, home
        self.outside = () if _top(start) == PACKAGE else _places(_top(start))
        self.executed: set[str] = set()
        self.whole: set[str] = set()
        self.files: dict[str, Path] = {}

    def run(self) -> dict[str, Path]:
        self._whole(self.start)
        return self.files

    def _whole(self, name: str) -> None:
        """Follow all that a module names."""
        waiting = [name]
        while waiting:
            module = waiting.pop()
            file = self._file(module)
            if file is None or module in self.whole:
                continue
            self._execute(module)
            self.whole.add(module)
            waiting += self._named(module, file)

    def _execute(self, name: str) -> None:
        """Follow what importing a module executes, parents first."""
        waiting = [name]
        while waiting:
            module = waiting.pop()
            file = self._file(module)
            if file is None or module in self.executed:
                continue
            self.executed.add(module)
            self.files[module] = file
            waiting += _parents(module)
            package = _package(module, file)
            for entry in _read(file.read_bytes()).executed:
                waiting += self._targets(entry, package)

    def _named(self, module: str, file: Path) -> Iterator[str]:
        names, package = _read(file.read_bytes()), _package(module, file)
        for entry in names.imported:
            yield from self._targets(entry, package)
        for string in names.strings:
            target, colon, _ = string.partition(":")
            if "." in target:
                yield target
            for parent in [package, *_parents(package)] if colon and package else ():
                yield f"{parent}.{target}"
        for prefix in {*names.prefixes, *([module] if names.own else [])}:
            yield from self._below(prefix)
        for name in names.data:
            if (data := file.parent / name).suffix != ".py" and data.is_file():
                self.files[f"{package}/{name}"] = data

    def _targets(self, entry: tuple[int, str, str], package: str) -> Iterator[str]:
        """The module that an import means: of `from a import b` that is `a.b`, else `a`."""
        level, module, name = entry
        if level:
            parents = package.split(".")
            module = ".".join([*parents[: len(parents) - level + 1], *filter(None, [module])])
        inner = f"{module}.{name}" if name else module
        yield inner if self._file(inner) else module

    def _below(self, package: str) -> Iterator[str]:
        """All modules of a package."""
        folder = self._file(package)
        if folder is None or folder.name != "__init__.py":
            return
        for path in folder.parent.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")])

    def _file(self, module: str) -> Path | None:
        """The source of a module of this package or of the function's place; None of any other."""
        parts = module.split(".")
        if parts[0] == PACKAGE:
            return _source(self.home.joinpath(*parts[1:]))
        for place in self.outside:
            installed = not _INSTALLED.isdisjoint(place.parts)
            if installed and parts[0] != _top(self.start):
                continue
            if file := _source(place.joinpath(*parts)):
                return file
        return None


def _source(path: Path) -> Path | None:
    """The file of the package or module at `path`, a path without a suffix."""
    choices = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in choices if file.is_file()), None)


def _places(top: str) -> tuple[Path, ...]:
    """The folders that hold a package or module of that name."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    paths = spec.submodule_search_locations or filter(None, [spec.origin])
    return tuple(Path(path).parent for path in paths)


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _top(module: str) -> str:
    return module.partition(".")[0]
