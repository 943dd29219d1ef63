"""An ONNX file in a failing input's script: run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

from parity.formats.snippet import Failing, mapping


def lines(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    return [
        "import onnxruntime",
        f"got = onnxruntime.InferenceSession({a.path()!r}).run([{output!r}], {mapping(fed)})[0]",
    ]
