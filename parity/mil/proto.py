"""Core ML's protobuf schema, without the second or more that importing coremltools costs.

coremltools ships the generated ``*_pb2`` modules. Loading them under a package name of our own skips
``coremltools/__init__``: 0.06 s instead of 2.7 to 7.9 s, and none of coremltools' own type inference can be
reused by mistake. That matters: an evaluator that shares the converter's bugs cannot show them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from parity.core.errors import ParityError

_ALIAS = "_parity_coreml_proto"


def schema(name: str) -> Any:
    """The generated module ``name``, for example ``"Model_pb2"``.

    If coremltools is already imported its own modules are used: protobuf refuses to register one schema
    twice.
    """
    package = "coremltools.proto" if "coremltools.proto.Model_pb2" in sys.modules else _alias()
    return importlib.import_module(f"{package}.{name}")


def _alias() -> str:
    if _ALIAS not in sys.modules:
        spec = importlib.util.find_spec("coremltools")
        if spec is None or not spec.submodule_search_locations:
            raise ParityError("reading Core ML files needs coremltools' schema: pip install 'pytest-parity[coreml]'")
        package = ModuleType(_ALIAS)
        package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "proto")]
        sys.modules[_ALIAS] = package
    return _ALIAS
