"""Golden cases: encoded pictures through the whole declared preprocessing, and tensors from .npz files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from parity.cases.files import LABEL, check_classes, golden_files
from parity.core.case import Array, Case, case_id
from parity.core.contract import Contract, Preprocess, classifying
from parity.core.errors import ParityError
from parity.files import npz


def load(folder: Path, contract: Contract, classes: bool = False) -> list[Case]:
    """The cases of a golden folder, in file order.

    The label of a file is the name of its folder where that is a declared label, or what an .npz stores as `label`.
    Its id is its path below `folder` without the suffix, or with it where two would be the same. Raises ParityError
    for a file that does not fit.
    """
    found = golden_files(folder)
    stems = [path.relative_to(folder if folder.is_dir() else folder.parent).with_suffix("") for path in found]
    labels = next((o.labels for o in contract.outputs if o.labels), ())
    if labels and classes:
        check_classes(folder, found, labels)
    cases: list[Case] = []
    for path, stem in zip(found, stems, strict=True):
        unique = stem if stems.count(stem) == 1 else Path(f"{stem}{path.suffix}")
        id = case_id(unique.as_posix())
        label = labels.index(path.parent.name) if path.parent.name in labels else None
        if path.suffix.lower() == ".npz":
            cases.append(_tensors(path, id, contract, label))
        else:
            spec = contract.picture_input()
            if len(contract.inputs) != 1:
                names = ", ".join(spec.name for spec in contract.inputs)
                raise ParityError(f"golden picture {path.name}: the model takes {names}; give one .npz a case instead")
            pixels = picture(path, contract.preprocess or Preprocess(), spec.shape)
            cases.append(Case(id, {spec.name: pixels[None].astype(spec.dtype)}, label))
    return cases


def picture(path: Path, how: Preprocess, shape: tuple[int | str, ...]) -> Array:
    """The encoded picture `path` as [channels, height, width] float32, preprocessed as `how` says.

    The order is: EXIF orientation, transparency, colour, resize (Pillow, which filters when it makes smaller), divide
    by scale, subtract mean, divide by std. Arithmetic is float32, as on the devices that the files are for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                pixels = oriented(image, how)
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Warning,
    ) as error:
        raise ParityError(f"golden picture {path.name}: cannot be decoded ({error})") from None
    size = how.size or shape[-2:]
    if not all(isinstance(n, int) for n in size):
        raise ParityError(f"golden picture {path.name}: the input's height and width are dynamic: set preprocess.size")
    return normalised(pixels, how, (int(size[0]), int(size[1])))


def normalised(picture: Image.Image, how: Preprocess, size: tuple[int, int]) -> Array:
    """The upright RGB or L picture as [channels, height, width] float32: resized, scaled, mean and std applied."""
    height, width = size
    pixels = picture.resize((width, height), getattr(Image.Resampling, how.resize.upper()))
    array = np.asarray(pixels, np.float32)
    array = array[..., None] if array.ndim == 2 else array
    array = array[..., ::-1] if how.color == "BGR" else array
    array = (array / np.float32(how.scale) - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def oriented(image: Image.Image, how: Preprocess) -> Image.Image:
    """The picture upright, without transparency, in RGB or L."""
    upright = ImageOps.exif_transpose(image) if how.orient else image
    if how.alpha != "drop" and (upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info):
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, how.alpha), rgba)
    return upright.convert("L" if how.color == "L" else "RGB")


def _tensors(path: Path, id: str, contract: Contract, folder: int | None) -> Case:
    """The case of an .npz file; `folder` is the class that its folder is named after, if any."""
    try:
        arrays = npz.load(path)
    except (OSError, ValueError) as error:
        raise ParityError(f"golden file {path.name}: not a readable .npz without pickles ({error})") from None
    case = tensors(f"golden file {path.name}", id, arrays, contract)
    if folder is None or case.label == folder:
        return case
    if case.label is None:
        return replace(case, label=folder)
    raise ParityError(
        f"golden file {path.name}: its label is {case.label}, its folder {path.parent.name!r} is class {folder}: "
        "move it, or mend its label"
    )


def tensors(where: str, id: str, given: Mapping[str, Any], contract: Contract) -> Case:
    """A case of arrays: one for every input, by name; `label` may stand beside them. Raises ParityError."""
    arrays = {str(name): np.asarray(value) for name, value in given.items()}
    label = _label(where, arrays.pop(LABEL, None), contract)
    names = {spec.name for spec in contract.inputs}
    if set(arrays) != names:
        raise ParityError(f"{where}: holds {sorted(arrays)}, the model's inputs are {sorted(names)}")
    for spec in contract.inputs:
        value = arrays[spec.name]
        fits = value.ndim == len(spec.shape) and all(
            isinstance(d, str) or d == n for d, n in zip(spec.shape, value.shape, strict=True)
        )
        if not fits:
            raise ParityError(f"{where}: {spec.name} is {list(value.shape)}, declared {list(spec.shape)}")
        if value.dtype != np.dtype(spec.dtype):
            raise ParityError(f"{where}: {spec.name} is {value.dtype}, declared {spec.dtype}")
    return Case(id, {spec.name: arrays[spec.name] for spec in contract.inputs}, label)


def _label(where: str, stored: Array | None, contract: Contract) -> int | None:
    """The class number that stands beside a case's inputs. Raises ParityError for what is none."""
    if stored is None:
        return None
    if stored.size != 1 or stored.dtype.kind not in "iu":
        raise ParityError(f"{where}: label is {stored.dtype} {list(stored.shape)}, not one class number")
    label = int(stored.item())
    classes = min((len(output.labels) for output in classifying(contract.outputs) if output.labels), default=None)
    if label < 0 or (classes is not None and label >= classes):
        last = "" if classes is None else f" to {classes - 1}"
        raise ParityError(f"{where}: label {label} is no class: they are numbered 0{last}; leave label out if unknown")
    return label
