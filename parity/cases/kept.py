"""Recipes that once failed: saved in the project, replayed first by every later run, promoted to golden on demand.

One small JSON file a recipe in `.parity/recipes/MODEL/`, named by its content, so that many processes may save at once.
Commit the folder to share what was found, or leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parity.cases.recipes import Recipe
from parity.core.case import Array
from parity.core.errors import ParityError
from parity.core.settings import ModelConfig
from parity.files import npz
from parity.store import atomic

MOST = 20  # replayed in one run, the latest first


def folder(root: Path, model: str) -> Path:
    return root / ".parity" / "recipes" / model


def save(root: Path, model: str, recipe: Recipe) -> Path:
    """Keep a recipe that failed. Raises ParityError where nothing can be written."""
    path = folder(root, model) / f"{recipe.digest}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, recipe.json() + "\n")
    except OSError as error:
        raise ParityError(f"{path.parent}: cannot keep a failing recipe: {error.strerror or error}") from None
    return path


def save_arrays(root: Path, model: str, name: str, arrays: Mapping[str, Array]) -> Path:
    """Keep a failing input that no recipe makes, as a golden case is kept. Raises ParityError where nothing can be
    written."""
    path = folder(root, model) / f"{name}.npz"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise ParityError(f"{path.parent}: cannot keep a failing input: {error.strerror or error}") from None
    return path


def load(root: Path, model: ModelConfig, before: float | None = None) -> tuple[list[Recipe], list[str]]:
    """The kept recipes that fit the model, latest first, and a sentence for each file that does not.

    `before` (epoch seconds) leaves out what this very run has saved: every cell of a run replays the same ones.
    """
    found, odd = [], []
    times = {p: p.stat().st_mtime for p in folder(root, model.name).glob("*.json")}
    for path in sorted(times, key=lambda p: (-times[p], p.name)):
        if before is not None and times[path] >= before:
            continue
        try:
            found.append(Recipe.parse(path.read_text(encoding="utf-8"), model.contract))
        except (ParityError, OSError, UnicodeDecodeError) as error:
            odd.append(f"kept recipe {path.name} is not replayed: {error}; delete it if the model has changed")
    return found[:MOST], odd


def promote(root: Path, model: ModelConfig, chosen: list[str]) -> list[Path]:
    """Write the kept recipes whose digest begins with one of `chosen` (all, when none is named) as golden .npz cases.

    Raises ParityError when there is nothing to promote, a name fits none, or the model has no golden folder.
    """
    recipes, odd = load(root, model)
    if model.golden is None or not model.golden.is_dir():
        raise ParityError(f'model {model.name}: no golden folder to promote to; set golden = "folder" in its table')
    for word in chosen:
        if not any(r.digest.startswith(word.lstrip("~")) for r in recipes):
            known = ", ".join(r.digest for r in recipes) or "none"
            raise ParityError(f"model {model.name}: no kept recipe {word!r}; kept: {known}")
    wanted = [r for r in recipes if not chosen or any(r.digest.startswith(w.lstrip("~")) for w in chosen)]
    if not wanted:
        raise ParityError(f"model {model.name}: no recipe is kept, so there is nothing to promote" + "".join(odd[:1]))
    written = []
    for recipe in wanted:
        path, arrays = model.golden / f"property_{recipe.digest}.npz", recipe.arrays(model.contract)
        if path.exists() and not _holds(path, arrays):  # the same arrays: promoted by a run that was cut off here
            raise ParityError(f"{path}: is there already; delete it, or the kept recipe {recipe.digest}.json")
        try:
            with atomic.replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
            (folder(root, model.name) / f"{recipe.digest}.json").unlink(missing_ok=True)
        except OSError as error:
            raise ParityError(f"{path}: cannot be written: {error.strerror or error}") from None
        written.append(path)
    return written


def _holds(path: Path, arrays: Mapping[str, Array]) -> bool:
    """Whether an .npz file holds just these arrays."""
    try:
        found = npz.load(path)
    except (OSError, ValueError):
        return False
    return set(found) == set(arrays) and all(
        np.array_equal(found[name], value, equal_nan=value.dtype.kind == "f") for name, value in arrays.items()
    )
