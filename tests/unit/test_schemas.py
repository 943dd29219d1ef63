"""The published JSON schemas say what is really read."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import parity
from parity import formats
from parity.cli import main
from parity.commands import schema
from parity.config import parse
from parity.config.table import Table
from parity.core.record import CellRecord, Check, Environment, RunRecord, dumps, plain
from parity.files import toml_lines
from tests.docs.blocks import ROOT, blocks

jsonschema = pytest.importorskip("jsonschema")

EVERYTHING = """\
[tool.parity]
targets = ["onnx", "coreml"]
precisions = ["fp32"]
executors = ["arm64"]
require = ["onnx"]
seed = 1
timeout = 60
memory = "4GiB"
cache = "store"
cache_size = "500 MB"
gate_latency = true
plugins = ["my.faults"]
limits = { default = { cosine = 0.99 }, fp32 = { logits = { max_abs = 0.1 }, psnr = false } }
toolchains = { onnx2tf = { packages = ["onnx2tf==1.29.20"], python = "3.11" } }

[tool.parity.models.text]
factory = "my.models:text"
options = { width = 4 }
inputs = [
  { name = "ids", shape = ["batch", 8], dtype = "int64", range = [0, 9] },
  { name = "state", shape = [1, 4] },
]
outputs = [
  { name = "logits", kind = "logits", labels = ["a", "b"], post = "softmax", match = "order" },
  { name = "next" },
]
dims = { batch = [1, 2] }
cells = ["onnx-fp32", "tflite-int8"]
executors = { onnx = ["arm64:cortex-a53"] }
nightly = ["onnx-fp32"]
kernels = { "tflite-int8" = "builtin" }
artifacts = { "onnx-fp32" = { path = "text.onnx", fixed = true, inputs = { ids = { name = "x", layout = "NC" } } } }
golden = "golden"
cases = "my.cases:make"
references = "kept"
calibration = "golden"
video = { path = "golden", stride = 2, maximum = 10, rotate = 90, crop = "top" }
properties = { examples = 5, strategy = "my.cases:drawn" }
states = { state = "next" }
stateful = true
decode = { token = "ids", scores = "logits", steps = 4, prompt = 2 }
opset = 17
enumerated = ["batch"]
deployment_target = "iOS17"
proof = false

[tool.parity.models.text.preprocess]
mean = [0, 0, 0]
std = [1, 1, 1]
scale = 1
color = "BGR"
resize = "box"
size = [8, 8]
alpha = "white"
orient = false

[[tool.parity.waive]]
cell = "text-onnx-fp32"
metric = "cosine"
reason = "known"
expires = 2099-01-31
limit = 0.9

[[tool.parity.accept]]
cell = "text-onnx-fp32"
operator = "Loop"
reason = "meant"
expires = 2099-01-31
"""


@pytest.fixture(scope="module")
def settings() -> Any:
    made = json.loads(schema.text("config"))
    jsonschema.Draft7Validator.check_schema(made)
    return made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "golden").mkdir()
    (tmp_path / "text.onnx").touch()
    return tmp_path / "pyproject.toml"


def table_of(text: str) -> Any:
    """[tool.parity] of a text, dates as JSON has them."""
    data = toml_lines.loads(text)["tool"]["parity"]
    return json.loads(json.dumps(data, default=str))


def test_settings_are_read_by_exactly_the_keys_that_the_schema_has(
    settings: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[frozenset[str], tuple[str, ...]] = {}
    done = Table.done

    def noted(table: Table) -> None:
        asked[frozenset(table.seen - {"routes"})] = table.path  # which toolchains were once called, and is refused
        done(table)

    monkeypatch.setattr(Table, "done", noted)
    parse(EVERYTHING, project, formats.facts())
    tables = [settings, *settings["definitions"].values(), settings["definitions"]["artifact"]["oneOf"][1]]
    published = {frozenset(table["properties"]) for table in tables if "properties" in table}
    assert {path for keys, path in asked.items() if keys not in published} == set()
    assert published - asked.keys() == set()


def test_settings_with_every_key_fit(settings: Any) -> None:
    jsonschema.validate(table_of(EVERYTHING), settings)


@pytest.mark.parametrize("block", [b for b in blocks("toml") if "[tool.parity" in b.text], ids=lambda block: block.id)
def test_what_the_pages_show_fits(settings: Any, block: Any) -> None:
    table = {"models": {"any": {}}, **table_of(block.text)}
    jsonschema.validate(table, settings)


@pytest.mark.parametrize("file", [ROOT / "pyproject.toml", *ROOT.glob("examples/*/pyproject.toml")], ids=str)
def test_projects_of_this_repository_fit(settings: Any, file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if "[tool.parity" in text:
        jsonschema.validate(table_of(text), settings)


@pytest.mark.parametrize(
    "setting",
    [
        'precisions = ["fp8"]',
        "seed = -1",
        'memory = "much"',
        "unknown = 1",
        'models.text.factory = "no colon"',
        "models.text.opset = 6",
        'models.text.preprocess.color = "CMYK"',
        "models.text.video.rotate = 45",
        'limits.fp32.cosine = "high"',
        "models.text.inputs = []",
    ],
)
def test_what_is_refused_does_not_fit(settings: Any, project: Path, setting: str) -> None:
    from parity.config.table import Reader
    from parity.core.errors import ConfigError

    reader = Reader(project, EVERYTHING, ("tool", "parity"), formats.facts())
    table = reader.set(toml_lines.loads(EVERYTHING)["tool"]["parity"], setting)
    with pytest.raises(ConfigError):
        parse(EVERYTHING, project, formats.facts(), [setting])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(json.dumps(table, default=str)), settings)


def test_the_schema_of_records_is_that_of_their_dataclasses() -> None:
    made = runpy.run_path(str(ROOT / ".ci" / "schemas.py"))["record"]()
    assert schema.text("record") == made, "run: make schemas"


def test_a_record_fits_and_a_strange_field_does_not() -> None:
    check = Check("golden", "0", "y", "cosine", 0.99, None, "min", True)
    cell = CellRecord("a-onnx-fp32", "a", "onnx", "fp32", "pass", checks=(check,))
    record = RunRecord("pass", (cell,), Environment("3.11", {}, "any"))
    published = json.loads(schema.text("record"))
    jsonschema.Draft7Validator.check_schema(published)
    jsonschema.validate(json.loads(dumps(record)), published)
    for wrong in ({"verdict": "perhaps"}, {"strange": 1}, {"schema": "parity.run/0"}, {"cells": [{"id": "a"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**plain(record), **wrong}, published)


@pytest.mark.parametrize("of", ["config", "record"])
def test_the_command_prints_it(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", of]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(schema.text(of))


def test_the_package_has_them() -> None:
    for file in schema.FILES.values():
        assert (Path(parity.__file__).parent / file).is_file()
