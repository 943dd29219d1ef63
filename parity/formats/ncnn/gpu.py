"""An NCNN network on ncnn's Vulkan kernels. In the child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.core.errors import ParityError
from parity.formats import gpu
from parity.formats.ncnn.rounded import ProbedSession


class NcnnGpuSession(ProbedSession):
    """ncnn with Vulkan, in fp16 where the device has it (ncnn's default) or, as the notes say, in float32."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        gpu.load_vulkan(notes["vulkan"])
        import ncnn

        if ncnn.get_gpu_count() == 0:
            raise ParityError("ncnn finds no Vulkan device")
        super().__init__(folder, notes, fp32=bool(notes.get("gpu_fp32")), vulkan=True)
