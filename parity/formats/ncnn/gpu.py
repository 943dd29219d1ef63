"""An NCNN network on ncnn's Vulkan kernels. In the child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.core.errors import ParityError
from parity.formats import gpu
from parity.formats.ncnn.runtime import NcnnSession
from parity.formats.target import Array


class NcnnGpuSession:
    """ncnn with Vulkan, in fp16 where the device has it (ncnn's default) or, as the notes say, in float32.

    The first inputs are run in float32 too: where no bit differs, nothing was rounded to fp16.
    """

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        gpu.load_vulkan(notes["vulkan"])
        import ncnn

        if ncnn.get_gpu_count() == 0:
            raise ParityError("ncnn finds no Vulkan device")
        self.folder, self.notes = folder, notes
        self.fp32 = bool(notes.get("gpu_fp32"))
        self.session = _Vulkan(folder, notes, half=not self.fp32)
        self.computes = gpu.FP32 if self.fp32 else ""  # until the first run

    def accelerated(self) -> dict[str, Any]:
        return gpu.said(self.computes)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self.session.run(inputs)
        if not self.computes:
            in_fp32 = _Vulkan(self.folder, self.notes, half=False).run(inputs)
            self.computes = gpu.FP16 if gpu.rounds_otherwise(outputs, in_fp32) else gpu.FP32
        return outputs


class _Vulkan(NcnnSession):
    """The host's session with Vulkan on: the same names, rows and extractors."""

    def __init__(self, folder: str, notes: Mapping[str, Any], half: bool) -> None:
        self.half = half
        super().__init__(folder, notes)

    def choose(self, options: Any) -> None:
        options.num_threads = int(self.notes.get("threads", 1))
        options.use_vulkan_compute = True
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(options, name, self.half)
        options.use_bf16_storage = False
