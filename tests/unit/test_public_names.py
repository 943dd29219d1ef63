"""What users may import: names of `parity` itself, loaded lazily; and every "module:function" string resolves."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity import formats as targets
from tests.docs.blocks import blocks

PACKAGE = Path(parity.__file__).parent
# A module of the package and a name in it, as children are asked for them.
PLACE = re.compile(r"\Aparity(?:\.[a-z_0-9]+)+:[A-Za-z_]\w*\Z")


def places() -> list[str]:
    """Every string constant of the package that names a module of it and an attribute."""
    strings = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and PLACE.match(node.value):
                strings.add(node.value)
    return sorted(strings)


def named(place: str) -> object:
    """What "module:name", or a module alone, names.

    A module of an extra that is not installed here ends the test with that reason.
    """
    module, _, name = place.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "parity":
            raise
        pytest.skip(f"{error.name} is not installed")
    return getattr(loaded, name, None) if name else loaded


@pytest.mark.parametrize("place", places())
def test_what_a_string_names_is_there(place: str) -> None:
    assert named(place) is not None


@pytest.mark.parametrize("target", targets.every(), ids=lambda target: target.name)
def test_what_a_target_names_is_there(target: parity.Target) -> None:
    for part in ("session", "graph", "steps", "draft", "script", "lowering", "from_file"):
        if place := getattr(target, part, ""):
            assert named(place) is not None, f"{part} = {place!r}"


def test_there_are_strings_to_check() -> None:
    assert len(places()) > 30 and "parity.proof:prove" in places()


@pytest.mark.parametrize("name", parity.__all__)
def test_a_public_name_loads(name: str) -> None:
    assert getattr(parity, name) is not None and name in dir(parity)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = parity.nothing


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; import parity; print([m for m in ('numpy', 'torch', 'pytest', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.id)
def test_docs_import_public_names_only(block: object) -> None:
    allowed = {"parity", "parity.suite", "parity.mil"}
    for node in ast.walk(ast.parse(block.text)):  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "parity":
            assert node.module in allowed, f"{node.module} is no public module"
            if node.module == "parity":
                assert {alias.name for alias in node.names} <= set(parity.__all__)
        if isinstance(node, ast.Import):
            named = {alias.name for alias in node.names if alias.name.split(".")[0] == "parity"}
            assert named <= allowed
