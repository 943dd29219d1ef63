"""Video frames as cases. Decoding runs in a child process (OpenCV is native code); the frame's way to the input is the
model's declared preprocessing, the same as for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from parity.cases.golden import normalised
from parity.core.case import Array, Case
from parity.core.contract import Contract, Preprocess
from parity.core.errors import ParityError

MOST_OF = 0.9  # of the frames that a container declares; some declare a few too many
Crop = Literal["center", "top", "bottom"]


@dataclass(frozen=True)
class DecodeRequest:
    """Every `stride`-th frame of the clip at `path`, at most `maximum`."""

    path: str
    stride: int = 1
    maximum: int | None = None


@dataclass(frozen=True)
class Decoded:
    """Frames, uint8 of (height, width, 3) in RGB, and their indices in the clip; `total` is what the clip declares."""

    frames: Sequence[Array]
    indices: Sequence[int]
    fps: float = 0.0
    total: int = 0


@dataclass(frozen=True)
class ResizeRequest:
    """Frames, uint8 of (height, width, channels), to be made that high and wide. `filtered`: by a rule that averages
    over what becomes one pixel."""

    frames: Sequence[Array]
    height: int
    width: int
    filtered: bool = False


def decode(request: DecodeRequest) -> Decoded:
    """In a child: the frames of a clip. The rotation that the container declares is applied, as players do.

    Raises ParityError for a clip that cannot be opened or gives no frame.
    """
    cv2 = _opencv()
    name, stride, maximum = Path(request.path).name, request.stride, request.maximum
    clip = cv2.VideoCapture(request.path)
    if not clip.isOpened():
        raise ParityError(f"video {name}: cannot be opened as a video")
    clip.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    frames: list[Array] = []
    indices: list[int] = []
    index = 0
    while maximum is None or len(frames) < maximum:
        if not clip.grab():
            break
        if index % stride == 0:
            ok, frame = clip.retrieve()
            if not ok or frame is None or frame.ndim != 3:
                raise ParityError(f"video {name}: frame {index} cannot be decoded")
            frames.append(np.ascontiguousarray(frame[..., ::-1]))
            indices.append(index)
        index += 1
    fps = float(clip.get(cv2.CAP_PROP_FPS))
    total = int(clip.get(cv2.CAP_PROP_FRAME_COUNT))
    clip.release()
    if not frames:
        raise ParityError(f"video {name}: no frame can be decoded")
    if (maximum is None or len(frames) < maximum) and index < total * MOST_OF:
        raise ParityError(f"video {name}: {index} of {total} frames can be decoded: the file is cut off or damaged")
    return Decoded(frames, indices, fps, total)


def resize_opencv(request: ResizeRequest) -> list[Array]:
    """In a child: the frames resized by OpenCV's bilinear rule, which does not filter when it makes smaller, or by its
    rule of areas, which does."""
    cv2 = _opencv()
    rule = cv2.INTER_AREA if request.filtered else cv2.INTER_LINEAR
    size = request.width, request.height
    return [cv2.resize(frame, size, interpolation=rule) for frame in request.frames]


def _opencv() -> Any:
    """The module cv2, whichever of its distributions brings it. Raises ParityError where none is installed."""
    try:
        import cv2
    except ModuleNotFoundError:
        raise ParityError(
            "clips are read by OpenCV (cv2), which is not installed: pip install opencv-python-headless"
        ) from None
    return cv2


def upright(frame: Array, rotate: int = 0, crop: Crop | None = None) -> Array:
    """The frame turned clockwise by `rotate` degrees (-90, 0, 90, 180, 270), then its square part: centred across, and
    from the top, the bottom or the middle."""
    turned = np.rot90(frame, -(rotate // 90) % 4) if rotate else frame
    if crop is None:
        return np.ascontiguousarray(turned)
    height, width = turned.shape[:2]
    side = min(height, width)
    top = {"top": 0, "bottom": height - side, "center": (height - side) // 2}[crop]
    left = (width - side) // 2
    return np.ascontiguousarray(turned[top : top + side, left : left + side])


def cases(name: str, decoded: Decoded, contract: Contract, rotate: int = 0, crop: Crop | None = None) -> list[Case]:
    """A case for each decoded frame: `clip.mp4#12` is the frame with index 12."""
    spec = contract.picture_input()
    how = contract.preprocess or Preprocess()
    size = how.size or spec.shape[-2:]
    if not all(isinstance(n, int) for n in size):
        raise ParityError(f"video {name}: the input's height and width are dynamic: set preprocess.size")
    made = []
    for index, frame in zip(decoded.indices, decoded.frames, strict=True):
        picture = Image.fromarray(upright(frame, rotate, crop))
        picture = picture.convert("L") if how.color == "L" else picture
        array = normalised(picture, how, (int(size[0]), int(size[1])))
        made.append(Case(f"{name}#{index}", {spec.name: array[None].astype(spec.dtype)}))
    return made


def as_case(id: str, frame: Array, contract: Contract) -> Case:
    """One upright frame as a case, by the declared preprocessing."""
    made = cases("frame", Decoded([frame], [0]), contract)[0]
    return replace(made, id=id)


def already_resized(case: Case, frame: Array, contract: Contract) -> Case:
    """The case with the picture replaced by `frame`, which has the input's size already."""
    spec, how = contract.picture_input(), contract.preprocess or Preprocess()
    array = normalised(Image.fromarray(frame), replace(how, resize="nearest"), (frame.shape[0], frame.shape[1]))
    return replace(case, inputs={spec.name: array[None].astype(spec.dtype)})
