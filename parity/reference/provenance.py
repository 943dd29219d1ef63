"""Where code comes from: its source files, what these import, its distributions and their versions.

Loose code (a project, an editable install, a folder on PYTHONPATH) is followed along its imports.
Installed code counts with all source of its package, and with its distribution's version for what
that imports. PyTorch and NumPy are too large to read whole: they count with the files that define
what is used, and with their versions.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

_PLATFORM = {"torch", "numpy"}
_INSTALLED = {"site-packages", "dist-packages"}


def is_loose(module: str | None) -> bool:
    """Whether a module is source that no installed distribution vouches for."""
    if module is None or _without_source(module):
        return False
    file = _file(module)
    return file is not None and not _is_installed(module, file)


def sources(modules: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The hash of the source behind `modules`, and {distribution: version} of where it comes from.

    Left out are Python's standard library and this package, whose code has a key of its own.
    """
    waiting, seen, digests = set(modules), set[str](), dict[str, str]()
    packages = set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen or _without_source(module):
            continue
        seen.add(module)
        packages.add(_top(module))
        file = _file(module)
        if file is None:
            continue
        digests[module] = hashlib.sha256(file.read_bytes()).hexdigest()
        if not _is_installed(module, file):
            imported = _imports(file, _package(module, file)) if file.suffix == ".py" else set()
            # Of an installed module that is merely imported, the version is enough.
            packages |= {_top(name) for name in imported if not _without_source(name)}
            waiting |= {name for name in imported if is_loose(name)}
        elif _top(module) not in _PLATFORM:
            digests[_top(module)] = _package_digest(_top(module), file)
    text = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest(), _versions(packages)


def _without_source(module: str) -> bool:
    return _top(module) in sys.stdlib_module_names or _top(module) in ("parity", "__main__")


def _is_installed(module: str, file: Path) -> bool:
    return _top(module) in _PLATFORM or not _INSTALLED.isdisjoint(file.parts)


def _file(module: str) -> Path | None:
    """The file that a module is made from; None where there is none, or no such module."""
    try:
        loaded = sys.modules.get(module)
        spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.origin or not spec.has_location:
        return None
    file = Path(spec.origin).resolve()
    return file if file.is_file() else None


def _package_digest(top: str, file: Path) -> str:
    """The hash of all Python source of the installed package `top`, which holds `file`."""
    if file.name == f"{top}.py" and file.parent.name in _INSTALLED:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    inside = [parent for parent in file.parents if parent.parent.name in _INSTALLED]
    return _folder_digest(inside[0] if inside else file.parent)


@cache
def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _versions(packages: set[str]) -> dict[str, str]:
    """{distribution: version} of all distributions that provide one of the top-level `packages`."""
    providers = _distributions() if packages else {}
    names = {name for package in packages for name in providers.get(package, ())}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _imports(file: Path, package: str) -> set[str]:
    """The modules that a source file may import, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {prefix for name in names if name for prefix in _prefixes(name)}


def _prefixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _top(module: str) -> str:
    return module.partition(".")[0]
