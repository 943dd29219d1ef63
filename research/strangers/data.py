"""Data like the model's: pictures, text, sound, series; drawn once, the same in every run.

What an input is follows from its name in `models.toml`. Pictures are the fixtures' own; text is `fixtures/text`;
sound is a voice of harmonics with pauses, since the fixtures have none.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CASES = 8  # golden and calibration cases each
Array = np.ndarray[Any, np.dtype[Any]]


def provide(settings: dict[str, Any], project: Path) -> None:
    """Fill the golden and calibration folders that the table names, below `project`."""
    for part in ("golden", "calibration"):
        folder = project / settings[part]
        folder.mkdir(parents=True, exist_ok=True)
        if "preprocess" in settings:
            _copy_pictures(folder, part)
            continue
        for index in range(CASES):
            rng = np.random.default_rng(zlib.crc32(f"{part} {index}".encode()))
            arrays = {spec["name"]: _drawn(spec, settings.get("dims", {}), rng) for spec in settings["inputs"]}
            np.savez(folder / f"{index:02}.npz", **arrays)


def _copy_pictures(folder: Path, part: str) -> None:
    """Eight pictures of the fixtures: every second one of 16 is golden, the others calibrate, with some of `skin`."""
    pictures = sorted((ROOT / "fixtures/golden/efficientnet_b0").glob("*.jpg"))
    chosen = pictures[:: len(pictures) // CASES]
    if part == "calibration":
        chosen = [p for p in pictures if p not in chosen][: CASES - 2]
        chosen += sorted((ROOT / "fixtures/calibration/skin").glob("*.jpg"))[:2]
    for picture in chosen:
        shutil.copy(picture, folder / picture.name)


def _drawn(spec: dict[str, Any], dims: dict[str, list[int]], rng: np.random.Generator) -> Array:
    sizes = {"batch": 1} | {axis: tried[0] for axis, tried in dims.items()}
    shape = tuple(sizes[n] if isinstance(n, str) else n for n in spec["shape"])
    low, high = spec.get("range", (-1, 1))
    value = MAKERS[spec["name"]](shape, low, high, rng)
    return np.ascontiguousarray(value.astype(spec.get("dtype", "float32")))


def text(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """Ids of letters, from a random place of the text; two letters make an id, so that most ids occur."""
    letters = np.frombuffer((ROOT / "fixtures/text/held_out.txt").read_bytes(), np.uint8).astype(int)
    count = int(np.prod(shape))
    start = int(rng.integers(0, len(letters) - count - 1))
    pairs = letters[start : start + count] * 7 + letters[start + 1 : start + count + 1]
    return (low + pairs % (high - low + 1)).reshape(shape)


def mask(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """The first tokens are kept, at least half."""
    rows, length = shape
    kept = rng.integers(length // 2, length + 1, (rows, 1))
    return np.arange(length)[None] < kept


def wave(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """A voice at 8 kHz: harmonics of a gliding pitch under an envelope with pauses, and a little noise."""
    count = shape[-1]
    time = np.arange(count) / 8000
    pitch = rng.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(2, 6) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / 8000
    voice = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase + rng.uniform(0, 6)) for k in range(1, 9))
    envelope = np.clip(np.sin(2 * np.pi * rng.uniform(4, 9) * time + rng.uniform(0, 6)), 0, 1)
    sound = 0.3 * voice * envelope + 0.01 * rng.standard_normal(count)
    return np.broadcast_to(np.clip(sound, low, high), shape)


def mel(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """A log spectrogram: bands that come and go, smooth in time and frequency."""
    a, b = np.meshgrid(*(np.linspace(0, 1, n) for n in shape[1:]), indexing="ij")
    bumps = sum(
        rng.uniform(0.3, 1) * np.exp(-((a - rng.random()) ** 2 + (b - rng.random()) ** 2) / rng.uniform(0.01, 0.1))
        for _ in range(6)
    )
    scaled = low + (high - low) * np.clip(bumps / 2 + 0.05 * rng.standard_normal(a.shape), 0, 1)
    return np.broadcast_to(scaled, shape)


def picture(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """A picture of the fixtures, resized, its pixels spread over the declared range."""
    from PIL import Image

    files = sorted((ROOT / "fixtures/golden/efficientnet_b0").glob("*.jpg"))
    image = Image.open(files[int(rng.integers(len(files)))]).convert("RGB").resize(shape[:1:-1])
    return (low + (high - low) * np.asarray(image, np.float64).transpose(2, 0, 1) / 255)[None]


def noise(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """What a diffusion model starts from, and what a text encoder gives."""
    return rng.standard_normal(shape)


def uniform(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    return rng.uniform(low, high, shape)


def step(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """Whole steps, as floats."""
    return rng.integers(int(low), int(high) + 1, shape)


def series(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """A random walk on a season, [batch, time, channels]."""
    walk = np.cumsum(rng.standard_normal(shape) * 0.2, axis=1)
    season = np.sin(2 * np.pi * np.arange(shape[1]) / 12 + rng.uniform(0, 6))
    return walk + season[None, :, None]


def motion(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    """Key points that move smoothly."""
    time = np.linspace(0, 1, shape[1])[:, None]
    place, swing = rng.uniform(-1, 1, shape[2]), rng.uniform(0, 0.8, shape[2])
    return (place + swing * np.sin(2 * np.pi * rng.uniform(0.5, 2, shape[2]) * time + rng.uniform(0, 6)))[None]


MAKERS: dict[str, Callable[..., Array]] = {
    "input_ids": text,
    "decoder_input_ids": text,
    "ids": text,
    "attention_mask": mask,
    "wave": wave,
    "mel": mel,
    "spectrum": mel,
    "image": picture,
    "pixel_values": picture,
    "latent": noise,
    "context": noise,
    "timestep": step,
    "input_points": uniform,
    "series": series,
    "keypoints": motion,
}
