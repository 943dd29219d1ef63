"""`parity verify FILE --executors LIST`: what is asked of the project, and the line of each executor."""

from __future__ import annotations

import argparse

import pytest

from parity.commands import verify
from parity.core.errors import ConfigError
from parity.core.plan import Cell
from parity.core.record import ExecutionRecord


def settings(target: str, executors: str | None) -> list[str]:
    return verify._executors("net", Cell("net", target, "fp16"), argparse.Namespace(executors=executors))


def test_the_file_is_executed_by_what_is_asked() -> None:
    assert settings("tflite", None) == []
    wanted = 'models.net.executors = { "tflite-fp16" = ["arm64:cortex-a76", "gpu:fp32"] }'
    assert settings("tflite", "arm64, gpu:fp32") == [wanted]


@pytest.mark.parametrize(
    ("executors", "words"),
    [("gpu", "onnx files do not run on it; on host, arm64"), ("arm46", "did you mean 'arm64'"),
     ("arm64:m1", "unknown core 'm1'")],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_line(executors: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings("onnx", executors)


def test_each_executor_has_a_line() -> None:
    measured = ExecutionRecord(
        "gpu", state="measured", reason="y: noise_ratio 1.1", driver="llvmpipe, Mesa 25.0", precision="fp16",
        computed="2026-11-30T22:37:22+00:00 on x86_64",
    )  # fmt: skip
    assert verify._executed(measured) == (
        "measured: y: noise_ratio 1.1; computed in fp16; by llvmpipe, Mesa 25.0; "
        "outputs of 2026-11-30T22:37:22+00:00 on x86_64"
    )
    assert verify._executed(ExecutionRecord("arm64:cortex-a76", state="pass")) == "pass"
    away = ExecutionRecord("gpu", state="unavailable", reason="no Vulkan driver is here")
    assert verify._executed(away) == "unavailable: no Vulkan driver is here"
