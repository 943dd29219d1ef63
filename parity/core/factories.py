"""Whether a factory can be there, told from source alone: a misspelt name should not wait for torch to be imported.

Nothing is imported or executed, so the answer may be "cannot tell", and then the child that makes the model will say.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from parity.core.plan import did_you_mean


def roots(project: Path) -> list[Path]:
    """Where a project's own modules are: its folder, and `src` in it."""
    return [project, *(p for p in (project / "src",) if p.is_dir())]


def fault(factory: str, project: Path) -> str:
    """Why `package.module:function` certainly does not exist for a project at `project`; empty where it may."""
    module, _, name = factory.partition(":")
    parts = module.split(".")
    places = [r for r in roots(project) if (r / parts[0]).is_dir() or (r / parts[0]).with_suffix(".py").is_file()]
    root = places[0] if places else project
    base = root / parts[0]
    if not places:
        if _installed(parts[0]):
            return ""
        hint = f": pip install {parts[0]}" if parts[0] in ("timm", "torchvision", "transformers") else ""
        return f"no module {parts[0]!r} in {root} or installed{hint}"
    place = root.joinpath(*parts)
    file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    if not file.is_file():
        if not place.is_dir() and (base / "__init__.py").is_file():
            return f"no module {module!r}: {place.relative_to(root)}.py is not there"
        return ""
    names = _names(file)
    if names is not None and name not in names:
        return f"{file.relative_to(root)} defines no {name!r}{did_you_mean(name, names)}"
    return ""


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _names(file: Path) -> set[str] | None:
    """The names that a module binds at its top level; None where that cannot be told from its source."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return None
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            if node.name == "__getattr__" and node in tree.body:
                return None
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("globals", "exec"):
            return None
    return names
