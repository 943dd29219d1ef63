"""What sessions of GPUs share: finding Vulkan's loader, and whether a default precision really is fp16."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from parity.core.executors import REFUSES
from parity.formats.target import Array

FP16, FP32 = "fp16", "fp32"


def load_vulkan(loader: str) -> None:
    """Open Vulkan's loader, where the system's search path need not have it: runtimes open it by its name later."""
    ctypes.CDLL(loader, mode=ctypes.RTLD_GLOBAL)


def refusal(why: str) -> ParityError:
    """The error for a file that the accelerator does not take: an app would meet the same."""
    return ParityError(f"{REFUSES}: {why}")


def rounds_otherwise(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two runs of a file on the same inputs differ in any bit."""
    return any(not np.array_equal(np.asarray(value), np.asarray(other[name])) for name, value in one.items())


def said(precision: str, accelerated: bool | None = None) -> dict[str, Any]:
    """What a session's description holds of how a GPU runs the file."""
    return {"computes": precision} | ({} if accelerated is None else {"wholly_on_gpu": accelerated})
