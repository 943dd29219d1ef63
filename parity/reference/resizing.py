"""The in-model way to resize, in a child process: what a model does that takes whole frames and shrinks them itself."""

from __future__ import annotations

import numpy as np
import torch

from parity.cases.video import ResizeRequest
from parity.core.case import Array


def resize(request: ResizeRequest) -> list[Array]:
    """Frames by torch's bilinear interpolation, rounded back to uint8."""
    size = request.height, request.width
    made = []
    for frame in request.frames:
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(
            pixels,
            size=size,
            mode="bilinear",
            align_corners=False,
            antialias=request.filtered,
        )
        made.append(small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy())
    return made
