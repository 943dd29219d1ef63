"""One folder a format: nothing outside `parity/formats/` lists formats, and all that a target names is there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from parity import formats
from parity.formats.target import Target, load_part

HOME = Path(formats.__file__).parents[1]
NAMES = set(formats.names())
ALLOWED = {
    "core/settings.py": [("onnx", "tflite")],  # the matrix of a project that names no targets: a documented default
}
PARTS = ("session", "signature", "graph", "steps", "draft", "script", "from_file")


def tables(source: str) -> Iterator[tuple[str, ...]]:
    """The names of formats in each dict, tuple, list or set that holds two or more, and in each comparison with one."""
    for node in ast.walk(ast.parse(source)):
        entries: list[ast.expr | None] = []
        least = 2
        if isinstance(node, ast.Dict):
            entries = [*node.keys, *node.values]
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            entries = list(node.elts)
        elif isinstance(node, ast.Compare):
            entries, least = [node.left, *node.comparators], 1
        elif isinstance(node, ast.MatchValue):
            entries, least = [node.value], 1
        found = [e.value for e in entries if isinstance(e, ast.Constant) and e.value in NAMES]
        if len(found) >= least:
            yield tuple(found)


@pytest.mark.parametrize(("source", "expected"), [
    ('SUFFIXES = {".onnx": "onnx", ".tflite": "tflite"}', [("onnx", "tflite")]),
    ('READERS = {"ncnn": 1, "coreml": 2}', [("ncnn", "coreml")]),
    ('if target in ("coreml", "coreml_nn"): pass', [("coreml", "coreml_nn")]),
    ('if cell.target == "tflite": pass', [("tflite",)]),
    ('KERNELS = {"tflite": ("XNNPACK", "builtin")}', []),  # one alone may be a word of another meaning
    ('version("onnx")', []),
])  # fmt: skip
def test_a_table_of_formats_is_seen(source: str, expected: list[tuple[str, ...]]) -> None:
    assert list(tables(source)) == expected


def test_no_module_outside_formats_lists_them() -> None:
    found = {}
    for file in sorted(HOME.rglob("*.py")):
        place = file.relative_to(HOME).as_posix()
        if not place.startswith("formats/") and (held := list(tables(file.read_text(encoding="utf-8")))):
            found[place] = held
    assert found == ALLOWED


@pytest.mark.parametrize("target", formats.every(), ids=lambda target: target.name)
def test_every_part_that_a_target_names_is_there(target: Target) -> None:
    for text in filter(None, (getattr(target, kind) for kind in PARTS)):
        try:
            part = load_part(text)
        except ModuleNotFoundError as missing:
            if str(missing.name).startswith("parity"):
                raise
            continue  # a runtime that is not installed here
        assert callable(part), text
    if target.lowering:
        module = importlib.import_module(target.lowering)
        assert callable(module.lower) and callable(module.risk)


def test_a_project_s_own_target_takes_the_place_of_a_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Target):
        name = "onnx"
        suffixes = (".own",)

    monkeypatch.setattr(formats, "_registered", {})
    before = formats.names()
    formats.register_target(Own)
    assert isinstance(formats.get("onnx"), Own) and formats.names() == before
    own = formats.recognised(PurePath("m.own"))
    assert own is not None and own.name == "onnx" and formats.recognised(PurePath("m.onnx")) is None


def test_columns_of_a_report_need_no_target_that_is_known_here() -> None:
    assert formats.ordered(["zebra", "ncnn", "ant", "onnx", "ncnn"]) == ("onnx", "ncnn", "ant", "zebra")


def test_what_planning_asks_of_targets_imports_no_converter_and_no_runtime() -> None:
    code = "import sys; from parity import formats; formats.facts(); formats.packages(); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    heavy = {module for target in formats.every() for module in target.requires}
    assert heavy and not heavy & set(loaded)
    ours = [name for name in loaded if name.startswith("parity.formats.")]
    assert ours and not [name for name in ours if name.endswith((".convert", ".runtime"))]
