"""The child's side of every export step: a scratch folder around the converter's call, and nothing printed upwards."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from parity.process.child import stage


def run(function: str, start: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`module:name(**arguments)` with a private scratch folder as working directory, which is gone afterwards.

    Converters drop files where they stand; two of them must never meet.
    """
    stage(start)
    module, _, name = function.partition(":")
    step = getattr(importlib.import_module(module), name)
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        os.chdir(scratch)
        try:
            return dict(step(**arguments))
        finally:
            os.chdir(before)
