"""Executors: what runs a cell's file. `host` is this machine's own CPU; the others are what phones have. Pure.

An execution is a cell and an executor. Its id is the cell's, and for every executor but `host` an `@` and the
executor's name: `skin-tflite-fp32`, `skin-tflite-fp32@gpu`.
"""

from __future__ import annotations

from collections.abc import Iterable

from parity.core.errors import ConfigError
from parity.core.plan import did_you_mean

HOST, ARM64, GPU = "host", "arm64", "gpu"
FAMILIES = (HOST, ARM64, GPU)

CORES = (
    "cortex-a53",  # 64-bit Arm of 2012: neither dot products of int8 nor fp16 arithmetic
    "cortex-a72",
    "cortex-a76",  # both, as most phones since 2019
    "neoverse-n1",
    "cortex-a710",
    "neoverse-v1",
    "neoverse-n2",
)
"""Arm cores by qemu's names. An old qemu lacks some of them, and the executor is unavailable there."""
DEFAULT_CORE = "cortex-a76"
REFUSES = "the accelerator refuses this file"
"""How the reason of a failure begins that is the executor's answer, and no fault of the run: an app would meet it."""
GPU_MODES = ("fp32",)


def canonical(text: str) -> str:
    """The full name of an executor: `arm64` is `arm64:cortex-a76`. Raises ConfigError for none."""
    family, colon, choice = text.partition(":")
    if family not in FAMILIES:
        raise ConfigError(f"unknown executor {text!r}{did_you_mean(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
    if family == ARM64:
        return f"{ARM64}:{_choice('core', choice if colon else DEFAULT_CORE, CORES)}"
    if not colon:
        return family
    if family == HOST:
        raise ConfigError(f"executor {text!r}: host has no choice of cores")
    return f"{GPU}:{_choice('precision', choice, GPU_MODES)}"


def _choice(noun: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"unknown {noun} {value!r}{did_you_mean(value, choices)}; known: {', '.join(choices)}")
    return value


def family_of(executor: str) -> str:
    """`arm64` of `arm64:cortex-a53`."""
    return executor.partition(":")[0]


def core_of(executor: str) -> str:
    """`cortex-a53` of `arm64:cortex-a53`."""
    return executor.partition(":")[2]


def execution_id(cell: str, executor: str) -> str:
    """The id of an execution of the cell with this id; on the host it is the cell's own."""
    return cell if executor == HOST else f"{cell}@{executor}"


def cell_of(execution: str) -> str:
    """The id of the cell of the execution with this id."""
    return execution.partition("@")[0]


def split_id(text: str) -> tuple[str, str]:
    """The cell's id and the executor of an execution's id, as it was written. Raises ConfigError for no executor."""
    cell, at, executor = text.partition("@")
    return cell, canonical(executor) if at else HOST


def canonical_list(texts: Iterable[str]) -> tuple[str, ...]:
    """Full names, each once, `host` first whether it is named or not. Raises ConfigError."""
    return tuple(dict.fromkeys((HOST, *map(canonical, texts))))
