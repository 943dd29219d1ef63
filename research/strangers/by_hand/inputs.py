"""Golden and calibration inputs, read by Pillow and NumPy as the project's table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tomllib
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
Case = dict[str, Array]


def settings(project: Path, model: str) -> dict[str, Any]:
    """The model's table in the project's `pyproject.toml`."""
    parsed = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    return parsed["tool"]["parity"]["models"][model]  # type: ignore[no-any-return]


def cases(folder: Path, table: dict[str, Any]) -> list[Case]:
    """Every case of a folder in the order of names: input name -> array with a batch of 1."""
    found = []
    for file in sorted(p for p in folder.rglob("*") if p.suffix in (".npz", ".jpg", ".png")):
        if file.suffix == ".npz":
            with np.load(file) as stored:
                found.append({name: stored[name] for name in stored.files})
        else:
            found.append({table["inputs"][0]["name"]: _picture(file, table["preprocess"])})
    return found


def _picture(file: Path, how: dict[str, Any]) -> Array:
    """[1, 3, height, width] float32."""
    height, width = how["size"]
    image = Image.open(file).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) / np.float32(how.get("scale", 255))
    pixels = (pixels - np.float32(how.get("mean", 0))) / np.float32(how.get("std", 1))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
