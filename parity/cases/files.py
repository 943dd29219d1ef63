"""Which files a golden or calibration folder holds: what planning needs to know.

No array and no picture is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parity.core.contract import classifying
from parity.core.errors import ConfigError
from parity.core.settings import ModelConfig
from parity.files import npz

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm")


def golden_files(folder: Path) -> list[Path]:
    """The golden files in a folder and below it, or the one file given; sorted, hidden and other files left out.

    Each is one case.
    """
    if folder.is_file():
        return [] if folder.suffix.lower() in VIDEOS else [folder]
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in (*PICTURES, ".npz")
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def has_pictures(folder: Path) -> bool:
    """Whether any golden file is an encoded picture, which preprocessing makes an input of."""
    return any(path.suffix.lower() in PICTURES for path in golden_files(folder))


def clips(model: ModelConfig) -> list[Path]:
    """The model's video clips: the files of its `video` entry, and those that stand among its golden files."""
    found: list[Path] = []
    for folder in (model.golden, model.video):
        if folder is not None:
            found += [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return [path for path in dict.fromkeys(found) if path.suffix.lower() in VIDEOS and path.is_file()]


LABEL = "label"
"""The array beside the inputs of an .npz, or of a case that a function makes: its true class."""


def labelled(model: ModelConfig) -> int:
    """How many golden files have a true class: by the name of their folder, or stored in the .npz."""
    if model.golden is None:
        return 0
    labels = {label for output in classifying(model.contract.outputs) for label in output.labels}
    return sum(_has_label(path, labels) for path in golden_files(model.golden))


def _has_label(path: Path, labels: set[str]) -> bool:
    if path.parent.name in labels:
        return True
    return path.suffix.lower() == ".npz" and LABEL in npz.names(path)


def check_classes(folder: Path, found: Sequence[Path], labels: Sequence[str]) -> None:
    """Golden pictures in folders are labelled by them, so every folder must be a label: else accuracy loses cases.
    Raises ConfigError."""
    named = sorted({path.parent.name for path in found if path.parent != folder and path.suffix.lower() != ".npz"})
    unknown = [name for name in named if name not in labels]
    if unknown:
        raise ConfigError(
            f"golden folder {unknown[0]!r} in {folder.name!r} is none of the {len(labels)} labels "
            f"({', '.join(labels[:5])}{', ...' * (len(labels) > 5)}): rename it, or mend the labels of the output"
        )


def unlabelled_folders(model: ModelConfig) -> list[str]:
    """Names of the folders, two or more, that a model's golden pictures are sorted into while no output has labels."""
    if model.golden is None or any(o.labels for o in model.contract.outputs):
        return []
    pictures = [path for path in golden_files(model.golden) if path.suffix.lower() in PICTURES]
    folders = sorted({path.parent.name for path in pictures if path.parent != model.golden})
    return folders if len(folders) > 1 else []
