"""An NCNN network with ncnn's own choice of fp16, as an app runs it that sets no option; and what it really rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.formats import gpu
from parity.formats.ncnn.runtime import NcnnSession
from parity.formats.target import Array

_PACKED, _STORAGE, _ARITHMETIC = "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"


class RoundedSession(NcnnSession):
    """The host's session with fp16 storage and arithmetic chosen apart, on the CPU or on Vulkan."""

    def __init__(
        self, folder: str, notes: Mapping[str, Any], *, stores_fp16: bool, computes_fp16: bool, vulkan: bool
    ) -> None:
        self.chosen = {_PACKED: stores_fp16, _STORAGE: stores_fp16, _ARITHMETIC: computes_fp16}
        self.vulkan = vulkan
        super().__init__(folder, notes)

    def choose(self, options: Any) -> None:
        """Set the network's options before it is loaded."""
        super().choose(options)
        options.use_vulkan_compute = self.vulkan
        for name, value in self.chosen.items():
            setattr(options, name, value)


class ProbedSession:
    """A network in ncnn's default precision, or in float32 alone.

    ncnn uses fp16 where the processor or the device has it, also for fp32 files. What it did is not believed: the first
    inputs are run again in float32, and with fp16 storage alone. Where no bit differs from float32, that was computed;
    where none differs from storage alone, no sum was taken in fp16.
    """

    def __init__(self, folder: str, notes: Mapping[str, Any], *, fp32: bool, vulkan: bool) -> None:
        self.folder, self.notes, self.fp32, self.vulkan = folder, notes, fp32, vulkan
        self.session = self._opened(stores_fp16=not fp32, computes_fp16=not fp32)
        self.computes, self.flavour = (gpu.FP32, "") if fp32 else ("", "")  # the latter until the first run

    def _opened(self, *, stores_fp16: bool, computes_fp16: bool) -> RoundedSession:
        return RoundedSession(
            self.folder, self.notes, stores_fp16=stores_fp16, computes_fp16=computes_fp16, vulkan=self.vulkan
        )

    def accelerated(self) -> dict[str, Any]:
        """What the session's description holds of its precision."""
        return {**gpu.said(self.computes), "flavour": self.flavour}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self.session.run(inputs)
        if not self.computes:
            self._probe(inputs, outputs)
        return outputs

    def _probe(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        in_fp32 = self._opened(stores_fp16=False, computes_fp16=False).run(inputs)
        if not gpu.rounds_otherwise(outputs, in_fp32):
            self.computes = gpu.FP32
            return
        self.computes = gpu.FP16
        stored_only = self._opened(stores_fp16=True, computes_fp16=False).run(inputs)
        self.flavour = "accumulate" if gpu.rounds_otherwise(outputs, stored_only) else "compute"


class NcnnArmSession(ProbedSession):
    """ncnn on an Arm core, in the precision that an app has there unasked."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        super().__init__(folder, notes, fp32=False, vulkan=False)
