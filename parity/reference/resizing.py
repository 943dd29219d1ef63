"""The in-model way to resize, in a child process: what a model does that takes whole frames and shrinks them itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def resize(
    frames: Sequence[np.ndarray[Any, Any]], height: int, width: int, antialias: bool
) -> list[np.ndarray[Any, Any]]:
    """uint8 frames [height, width, channels] by torch's bilinear interpolation, rounded back to uint8."""
    made = []
    for frame in frames:
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(
            pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=antialias
        )
        made.append(small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy())
    return made
