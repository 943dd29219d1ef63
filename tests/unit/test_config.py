"""[tool.parity] is strict: every mistake is one line that says what, which file and which line."""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity import formats
from parity.config import find, load, parse, parse_size
from parity.core.contract import Preprocess
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import PRECISIONS, Cell
from parity.core.settings import Config

BASE = """\
[project]
name = "example"

[tool.parity]
targets = ["onnx", "tflite"]
precisions = ["fp32", "int8"]

[tool.parity.models.skin]
factory = "pkg.models:skin"
inputs = [{ name = "image", shape = ["batch", 3, 24, 20] }]
outputs = [{ name = "logits", kind = "logits" }]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def read(text: str, root: Path = Path("/nowhere")) -> Config:
    return parse(text, root / "pyproject.toml", formats.facts())


def refused(text: str, root: Path = Path("/nowhere")) -> str:
    """The message for a text that must be refused: one line that names the file and a line of it."""
    with pytest.raises(ConfigError) as caught:
        read(text, root)
    message = str(caught.value)
    assert "\n" not in message, message
    assert message.startswith("pyproject.toml:"), message
    assert int(message.split(":")[1].split()[0]) >= 1
    return message


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


# What is accepted, and the defaults.


def test_the_smallest_configuration_takes_every_default() -> None:
    config = read(BASE)
    assert [c.id for c in config.cells] == [
        "skin-onnx-fp32",
        "skin-onnx-int8",
        "skin-tflite-fp32",
        "skin-tflite-int8",
    ]
    assert config.root == Path("/nowhere") and config.file == Path("/nowhere/pyproject.toml")
    assert (config.require, config.rules, config.waive) == ((), (), ())
    assert (config.seed, config.timeout, config.memory, config.cache_size) == (20260101, 600.0, 0, 10 << 30)
    assert config.cache is None
    model = config.models["skin"]
    assert model.contract.inputs[0].dtype == "float32" and model.contract.inputs[0].range is None
    assert model.contract.preprocess is None and model.opset is None and not model.artifacts


def test_targets_and_precisions_have_defaults() -> None:
    text = BASE.replace('targets = ["onnx", "tflite"]\n', "").replace('precisions = ["fp32", "int8"]\n', "")
    assert {(c.target, c.precision) for c in read(text).cells} == {
        ("onnx", "fp32"), ("onnx", "fp16"), ("tflite", "fp32"), ("tflite", "fp16"),
    }  # fmt: skip


def test_every_setting_arrives(root: Path) -> None:
    (root / "gold").mkdir()
    (root / "cal").mkdir()
    (root / "labels.txt").write_text("cat\n dog \n\nnewt\n", encoding="utf-8")
    (root / "w.safetensors").write_bytes(b"")
    (root / "pre.onnx").write_bytes(b"")
    text = """
[tool.parity]
targets = ["onnx"]
precisions = ["fp32"]
require = ["onnx", "skin"]
seed = 7
timeout = 12.5
memory = "2GiB"
cache = "~/c"
cache_size = "500 MB"
[tool.parity.models.skin]
factory = "pkg:make"
options = { num_classes = 3, deep = true }
checkpoint = "w.safetensors"
opset = 13
golden = "gold"
calibration = "cal"
inputs = [
  { name = "image", shape = ["batch", 3, 24, 20], dtype = "float32", range = [-1, 2.5] },
  { name = "ids", shape = ["batch", "time"], dtype = "int64" },
]
outputs = [{ name = "logits", kind = "logits", labels = "labels.txt" }, { name = "map", labels = ["a", "b"] }]
dims = { time = [4, 9] }
enumerated = ["time"]
kernels = { "tflite-int8" = "builtin" }
nightly = ["tflite-int8"]
states = { image = "map" }
deployment_target = "macOS13"
preprocess = { mean = [1, 2, 3], std = [4, 5, 6], scale = 1, color = "BGR", resize = "lanczos", size = [30, 40], \
alpha = "white", orient = false }
cells = ["onnx-fp32", "tflite-int8"]
artifacts."onnx-fp32" = { path = "pre.onnx", inputs = { image = { name = "x:0", layout = "NHWC" } }, \
outputs = { logits = { name = "y:0" } } }
artifacts."tflite-int8" = "pre.onnx"
[tool.parity.limits]
fp32 = { cosine = 0.5, max_abs = false }
"tflite-int8" = { top1_drop = 0.05 }
"skin-tflite-int8".logits = { max_abs = 0.25 }
[[tool.parity.waive]]
cell = "skin-tflite-int8"
metric = "max_abs"
limit = 0.05
reason = "accepted in #41"
expires = 2027-01-31
"""
    config = read(text, root)
    assert (config.seed, config.timeout, config.memory, config.cache_size) == (7, 12.5, 2 << 30, 500_000_000)
    assert config.cache == "~/c" and config.require == ("onnx", "skin")
    model = config.models["skin"]
    assert model.options == {"num_classes": 3, "deep": True} and model.opset == 13
    assert (model.enumerated, model.deployment_target, model.whole_module) == (("time",), "macOS13", False)
    assert model.kernels == {"tflite-int8": "builtin"} and model.states == {"image": "map"}
    assert config.nightly == (Cell("skin", "tflite", "int8"),)
    assert model.checkpoint == root / "w.safetensors" and model.golden == root / "gold"
    assert model.calibration == root / "cal"
    assert model.cells == (Cell("skin", "onnx", "fp32"), Cell("skin", "tflite", "int8"))
    image, ids = model.contract.inputs
    assert image.range == (-1.0, 2.5) and ids.dtype == "int64" and ids.shape == ("batch", "time")
    assert model.contract.outputs[0].labels == ("cat", "dog", "newt")
    assert model.contract.outputs[1].kind == "dense" and model.contract.outputs[1].labels == ("a", "b")
    assert model.contract.dims == {"time": (4, 9)}
    assert model.contract.preprocess == Preprocess(
        (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 1.0, "BGR", "lanczos", (30, 40), "white", False
    )
    given = model.artifacts["onnx-fp32"]
    assert given.path == root / "pre.onnx"
    assert (given.inputs["image"].name, given.inputs["image"].layout) == ("x:0", "NHWC")
    assert (given.outputs["logits"].name, given.outputs["logits"].layout) == ("y:0", None)
    assert model.artifacts["tflite-int8"].path == root / "pre.onnx"
    assert [(r.scope, r.metric, r.value, r.output) for r in config.rules] == [
        ("fp32", "cosine", 0.5, None),
        ("fp32", "max_abs", None, None),
        ("tflite-int8", "top1_drop", 0.05, None),
        ("skin-tflite-int8", "max_abs", 0.25, "logits"),
    ]
    assert config.rules[3].source.startswith(f"pyproject.toml:{line_of(text, '.logits')} ")
    (waiver,) = config.waive
    assert (waiver.cell, waiver.metric, waiver.limit) == ("skin-tflite-int8", "max_abs", 0.05)
    assert waiver.expires == datetime.date(2027, 1, 31)
    assert waiver.source.startswith(f"pyproject.toml:{line_of(text, 'waive')} ")


def test_a_picture_folder_reading_grey_takes_one_mean() -> None:
    config = read(BASE + 'preprocess = { color = "L", mean = [0.5], std = [0.25] }\n')
    assert config.models["skin"].contract.preprocess == Preprocess((0.5,), (0.25,), color="L")


@pytest.mark.parametrize("cells", [["onnx-fp32"], ["tflite-int8", "onnx-dynamic"], ["coreml_nn-fp16"]])
def test_listed_cells_replace_the_matrix_in_their_order(cells: list[str]) -> None:
    config = read(BASE + f"cells = {json.dumps(cells)}\n")
    assert [c.id for c in config.cells] == [f"skin-{c}" for c in cells]


def test_a_model_may_set_its_own_axes() -> None:
    config = read(BASE + 'targets = ["coreml"]\nprecisions = ["fp16"]\n')
    assert [c.id for c in config.cells] == ["skin-coreml-fp16"]


# Unknown keys, everywhere.

UNKNOWN = [
    ("target = []", "targets", "top"),
    ("sed = 3", "seed", "top"),
    ("cache_sise = '1GB'", "cache_size", "top"),
    ("factry = 'a:b'", "factory", "model"),
    ("preproces = {}", "preprocess", "model"),
    ("goldn = 'x'", "golden", "model"),
    ("artefacts = {}", "artifacts", "model"),
]


@pytest.mark.parametrize(("line", "meant", "where"), UNKNOWN)
def test_an_unknown_key_is_refused_with_what_was_meant(line: str, meant: str, where: str) -> None:
    text = BASE + line + "\n" if where == "model" else BASE.replace("targets =", f"{line}\ntargets =", 1)
    message = refused(text)
    assert f"unknown key {line.split()[0]!r}" in message and f"did you mean {meant!r}?" in message
    assert message.startswith(f"pyproject.toml:{line_of(text, line)} [tool.parity")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ('inputs = [{ nam = "x", name = "image", shape = [1] }]', "name"),
        ('inputs = [{ name = "image", shape = [1], dtyp = "x" }]', "dtype"),
        ('outputs = [{ name = "y", knd = "dense" }]', "kind"),
        ("preprocess = { meen = [0, 0, 0] }", "mean"),
        ("preprocess = { resise = 'box' }", "resize"),
    ],
)
def test_an_unknown_key_inside_a_table_is_refused(line: str, meant: str) -> None:
    key = line.split()[0]
    kept = [ln for ln in BASE.splitlines() if not ln.startswith(f"{key} ")]
    text = "\n".join([*kept, line]) + "\n"
    message = refused(text)
    assert f"did you mean {meant!r}?" in message
    assert message.startswith(f"pyproject.toml:{line_of(text, line)} ")


def test_an_unknown_key_of_a_waiver_names_the_waiver_s_line() -> None:
    text = BASE + (
        '[[tool.parity.waive]]\ncell = "skin-onnx-fp32"\nmetric = "max_abs"\nreason = "r"\nexpires = 2027-01-31\n'
        "until = 3\n"
    )
    assert refused(text).startswith(f"pyproject.toml:{line_of(text, 'until')} ")


def test_a_key_without_a_near_relation_gets_no_suggestion() -> None:
    assert "did you mean" not in refused(BASE + "zzzzz = 1\n")


# Types. Each (line, table it goes to, words of the message).

TYPES = [
    ("targets = 'onnx'", "top", "a list"),
    ("targets = [1]", "top", "texts"),
    ("targets = ['onx']", "top", "did you mean 'onnx'"),
    ("targets = ['onnx', 'onnx']", "top", "twice"),
    ("precisions = ['fp33']", "top", "did you mean 'fp32'"),
    ("precisions = 3", "top", "a list"),
    ("require = ['nope']", "top", "unknown 'nope'"),
    ("require = 'onnx'", "top", "a list"),
    ("seed = 'x'", "top", "a number"),
    ("seed = true", "top", "a number"),
    ("seed = 1.5", "top", "a number"),
    ("seed = -1", "top", "0"),
    ("timeout = 0", "top", "above 0"),
    ("timeout = -3", "top", "above 0"),
    ("timeout = inf", "top", "above 0"),
    ("timeout = nan", "top", "above 0"),
    ("timeout = 'soon'", "top", "a number"),
    ("memory = 4", "top", "text"),
    ("memory = '4 apples'", "top", "not a size"),
    ("cache = 1", "top", "text"),
    ("cache_size = 'big'", "top", "not a size"),
    ("models = 3", "bare", "a table"),
    ("models = {}", "bare", "no model"),
    ("models.x = 3", "bare", "a table"),
    ("limits = 1", "top", "a table"),
    ("limits = { fp32 = 3 }", "top", "a table"),
    ("limits = { fp32 = { cosine = 'x' } }", "top", "finite number"),
    ("limits = { fp32 = { cosine = true } }", "top", "finite number"),
    ("limits = { fp32 = { cosine = nan } }", "top", "finite number"),
    ("limits = { fp32 = { cosine = inf } }", "top", "finite number"),
    ("limits = { fp32 = { cosine = [1] } }", "top", "finite number"),
    ("limits = { fp23 = { cosine = 1 } }", "top", "did you mean 'fp32'"),
    ("limits = { 'onnx-int9' = { cosine = 1 } }", "top", "did you mean 'onnx-int8'"),
    ("limits = { 'skin-onnx-fp16' = { cosine = 1 } }", "top", "no precision, target, model or cell"),
    ("limits = { skin = { logit = { cosine = 1 } } }", "top", "did you mean 'logits'"),
    ("limits = { skin = { logits = { cosine = 'x' } } }", "top", "finite number"),
    ("limits = { fp32 = { cosin = 0.9 } }", "top", "did you mean 'cosine'"),
    ("limits = { skin = { logits = { max_bas = 1 } } }", "top", "did you mean 'max_abs'"),
    ("waive = 3", "top", "a list"),
    ("waive = [3]", "top", "a table"),
    ("waive = [{}]", "top", "needs cell, metric, reason and expires"),
    ("accept = 3", "top", "a list"),
    ("accept = [{}]", "top", "needs cell, operator, reason and expires"),
    (
        "accept = [{ cell = 'no-onnx-fp32', operator = 'o', reason = 'r', expires = 2027-01-31 }]",
        "top",
        "is not a cell",
    ),
    ("accept = [{ cell = 'skin-onnx-fp32', operators = 'o', reason = 'r', expires = 2027-01-31 }]", "top", "operator"),
    ("factory = 3", "model", "text"),
    ("factory = 'pkg.models'", "model", "package.module:function"),
    ("factory = 'pkg:mod:x'", "model", "package.module:function"),
    ("factory = 'os; import x:y'", "model", "package.module:function"),
    ("options = 3", "model", "a table"),
    ("checkpoint = 3", "model", "text"),
    ("checkpoint = 'no/such.pt'", "model", "no such file"),
    ("golden = 'no/such'", "model", "no such"),
    ("golden = ''", "model", "no such"),
    ('golden = "nul\\u0000"', "model", "no such"),
    (f"golden = '{'x' * 5000}'", "model", "no such"),
    ("calibration = ['x']", "model", "text"),
    ("opset = 'x'", "model", "a number"),
    ("opset = 3", "model", "7 to 25"),
    ("opset = 99", "model", "7 to 25"),
    ("deployment_target = 16", "model", "text"),
    ("deployment_target = 'ios16'", "model", "did you mean 'iOS16'"),
    ("enumerated = ['batch']", "model", "unknown 'batch'"),
    ("enumerated = 'batch'", "model", "a list"),
    ("kernels = { 'onnx-fp32' = 'builtin' }", "model", "no cell of this model whose runtime"),
    ("kernels = { 'tflite-fp32' = 'fast' }", "model", "known: XNNPACK, builtin, reference"),
    ("nightly = ['onnx-fp99']", "model", "did you mean 'onnx-fp32'"),
    ("states = { imag = 'logits' }", "model", "did you mean 'image'"),
    ("stateful = true", "model", "which inputs are states?"),
    ("states = { image = 'q' }", "model", "an output of its own"),
    ("inputs = 3", "model", "a list"),
    ("inputs = []", "model", "needs inputs"),
    ("inputs = [3]", "model", "a table"),
    ("inputs = [{ shape = [1] }]", "model", "needs a name"),
    ("inputs = [{ name = '' , shape = [1] }]", "model", "needs a name"),
    ("inputs = [{ name = 3, shape = [1] }]", "model", "text"),
    ("inputs = [{ name = 'x' }]", "model", "shape must list"),
    ("inputs = [{ name = 'x', shape = [0] }]", "model", "shape must list"),
    ("inputs = [{ name = 'x', shape = [-1] }]", "model", "shape must list"),
    ("inputs = [{ name = 'x', shape = [true] }]", "model", "shape must list"),
    ("inputs = [{ name = 'x', shape = [1.5] }]", "model", "shape must list"),
    ("inputs = [{ name = 'x', shape = 'abc' }]", "model", "a list"),
    ("inputs = [{ name = 'x', shape = [''] }]", "model", "shape must list"),
    ("inputs = [{ name = 'x', shape = [1], dtype = 'float31' }]", "model", "did you mean 'float32'"),
    ("inputs = [{ name = 'x', shape = [1], dtype = 3 }]", "model", "text"),
    ("inputs = [{ name = 'x', shape = [1], range = [2, 1] }]", "model", "is empty"),
    ("inputs = [{ name = 'x', shape = [1], range = [1, 1] }]", "model", "is empty"),
    ("inputs = [{ name = 'x', shape = [1], range = [1] }]", "model", "2 numbers"),
    ("inputs = [{ name = 'x', shape = [1], range = [0, inf] }]", "model", "2 numbers"),
    ("inputs = [{ name = 'x', shape = [1], range = 3 }]", "model", "a list"),
    ("inputs = [{ name = 'x', shape = [1] }, { name = 'x', shape = [1] }]", "model", "same name"),
    ("outputs = []", "model", "needs outputs"),
    ("outputs = [{ name = 'y', kind = 'logit' }]", "model", "did you mean 'logits'"),
    ("outputs = [{ name = 'y', kind = 3 }]", "model", "text"),
    ("outputs = [{ name = 'y', labels = 'none.txt' }]", "model", "no such file"),
    ("outputs = [{ name = 'y', labels = '.' }]", "model", "no such file"),
    ("outputs = [{ name = 'y', labels = 3 }]", "model", "a list"),
    ("outputs = [{ name = 'y', labels = [3] }]", "model", "texts"),
    ("outputs = [{ name = 'y', labels = ['a', 'a'] }]", "model", "twice"),
    ("outputs = [{ name = 'y' }, { name = 'y' }]", "model", "same name"),
    ("preprocess = 3", "model", "a table"),
    ("preprocess = { color = 'GBR' }", "model", "unknown colour order"),
    ("preprocess = { color = 3 }", "model", "text"),
    ("preprocess = { mean = [1] }", "model", "3 numbers"),
    ("preprocess = { mean = 1 }", "model", "a list"),
    ("preprocess = { color = 'L', mean = [1, 2, 3] }", "model", "1 numbers"),
    ("preprocess = { std = [1, 0, 1] }", "model", "above 0"),
    ("preprocess = { std = [1, -1, 1] }", "model", "above 0"),
    ("preprocess = { scale = 0 }", "model", "above 0"),
    ("preprocess = { resize = 'bilinar' }", "model", "did you mean 'bilinear'"),
    ("preprocess = { alpha = 'wite' }", "model", "did you mean 'white'"),
    ("preprocess = { orient = 1 }", "model", "true or false"),
    ("preprocess = { size = [1] }", "model", "2 numbers"),
    ("preprocess = { size = [0, 5] }", "model", "at least 1"),
    ("preprocess = { size = [-4, 5] }", "model", "at least 1"),
    ("preprocess = { size = [4.5, 5] }", "model", "at least 1"),
    ("dims = 3", "model", "a table"),
    ("dims = { bach = [1] }", "model", "did you mean 'batch'"),
    ("dims = { batch = [] }", "model", "list of sizes"),
    ("dims = { batch = [0] }", "model", "list of sizes"),
    ("dims = { batch = [true] }", "model", "list of sizes"),
    ("dims = { batch = 3 }", "model", "list of sizes"),
    ("cells = []", "model", "nothing to check"),
    ("cells = ['onnx']", "model", "target-precision"),
    ("cells = ['onnx-fp32-x']", "model", "target-precision"),
    ("cells = ['onx-fp32']", "model", "did you mean 'onnx'"),
    ("cells = ['onnx-fp31']", "model", "did you mean 'fp32'"),
    ("cells = ['onnx-fp32', 'onnx-fp32']", "model", "twice"),
    ("cells = [1]", "model", "texts"),
    ("cells = 'onnx-fp32'", "model", "a list"),
    ("artifacts = 3", "model", "a table"),
    ("artifacts = { 'onnx-fp16' = '.' }", "model", "not among this model's cells"),
    ("artifacts = { 'onnx-fp32' = 'none.onnx' }", "model", "no such"),
    ("artifacts = { 'onnx-fp32' = 3 }", "model", "a table"),
    ("artifacts = { 'onnx-fp32' = {} }", "model", "needs path"),
    ("artifacts = { 'onnx-fp32' = { path = '.', inputs = { image = {} } } }", "model", "needs a name"),
    ("artifacts = { 'onnx-fp32' = { path = '.', inputs = { img = { name = 'x' } } } }", "model", "no input 'img'"),
    ("artifacts = { 'onnx-fp32' = { path = '.', outputs = { y = { name = 'x' } } } }", "model", "no output 'y'"),
    ("artifacts = { 'onnx-fp32' = { path = '.', oups = {} } }", "model", "did you mean 'outputs'"),
]


def placed(line: str, table: str) -> str:
    key = line.split(" =")[0].split(".")[0]
    if table == "bare":
        return f"[tool.parity]\n{line}\n"
    lines = BASE.splitlines()
    kept = [ln for ln in lines if not ln.startswith(f"{key} =")]
    if table == "model":
        return "\n".join([*kept, line]) + "\n"
    at = kept.index("[tool.parity]") + 1
    return "\n".join([*kept[:at], line, *kept[at:]]) + "\n"


@pytest.mark.parametrize(("line", "table", "words"), TYPES, ids=[f"{t[0][:60]}" for t in TYPES])
def test_a_wrong_value_is_one_line_with_its_place(line: str, table: str, words: str, root: Path) -> None:
    text = placed(line, table)
    message = refused(text, root)
    assert words in message
    if "needs inputs" not in message and "needs outputs" not in message and "no model" not in message:
        assert message.startswith(f"pyproject.toml:{line_of(text, line)} [tool.parity"), message


WAIVER = {
    "cell": '"skin-onnx-fp32"',
    "metric": '"max_abs"',
    "reason": '"r"',
    "expires": "2027-01-31",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell": None}, "needs cell"),
        ({"metric": None}, "needs cell"),
        ({"reason": None}, "needs cell"),
        ({"reason": '"  "'}, "needs cell"),
        ({"expires": None}, "needs cell"),
        ({"expires": '"2027-01-31"'}, "a date"),
        ({"expires": "2027-01-31T10:00:00"}, "a date"),
        ({"expires": "10:00:00"}, "a date"),
        ({"cell": '"skin-onnx-fp16"'}, "not a cell"),
        ({"cell": '"skn-onnx-fp32"'}, "did you mean 'skin-onnx-fp32'"),
        ({"limit": '"x"'}, "a number"),
        ({"limit": "true"}, "a number"),
        ({"limit": "nan"}, "finite"),
        ({"limit": "inf"}, "finite"),
    ],
)
def test_a_waiver_is_checked(change: dict[str, str | None], words: str) -> None:
    entries = {k: v for k, v in {**WAIVER, **change}.items() if v is not None}
    text = BASE + "[[tool.parity.waive]]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items())
    assert words in refused(text)


@pytest.mark.parametrize(
    "name", ["onnx", "my_onnx", "fp32", "skinfp16", "int8er", "tflite_x", "ncnnet", "dynamic", "coremlish", "exported_"]
)
def test_a_model_name_with_a_target_or_precision_in_it_is_refused(name: str) -> None:
    message = refused(BASE.replace("models.skin", f"models.{name}"))
    assert "ambiguous" in message and "rename it" in message


@pytest.mark.parametrize("name", ["Skin", "skin-v2", "2skin", "_skin", '"sk in"', '"sk.in"', '""', '"haut\\u00e4"'])
def test_a_model_name_has_lower_case_letters_digits_and_underscores(name: str) -> None:
    assert "use lower-case letters" in refused(BASE.replace("models.skin", f"models.{name}"))


def test_a_model_without_factory_says_what_to_write() -> None:
    text = BASE.replace('factory = "pkg.models:skin"\n', "")
    message = refused(text)
    assert 'needs factory = "package.module:function"' in message
    assert message.startswith(f"pyproject.toml:{line_of(text, '[tool.parity.models.skin]')} ")


def test_limits_of_a_cell_reach_only_its_own_outputs() -> None:
    two = BASE + (
        '[tool.parity.models.det]\nfactory = "p:f"\ninputs = [{ name = "x", shape = [1, 3] }]\n'
        'outputs = [{ name = "boxes" }]\n'
    )
    assert "no output 'boxes'" in refused(two + '[tool.parity.limits]\n"skin-onnx-fp32".boxes = { max_abs = 1 }\n')
    assert "no output 'boxes'" in refused(two + "[tool.parity.limits]\nskin.boxes = { max_abs = 1 }\n")
    (rule,) = read(two + "[tool.parity.limits]\nfp32.boxes = { max_abs = 1 }\n").rules
    assert (rule.scope, rule.output, rule.value) == ("fp32", "boxes", 1.0)


@pytest.mark.parametrize(
    ("metric", "limit"),
    [("cosine", 2), ("cosine", -1.01), ("max_abs", -0.1), ("noise_ratio", -1), ("top1", 1.5), ("top1", -0.1),
     ("top1_drop", 1.5), ("sqnr", 401), ("power", 80), ("flex_ops", -1), ("mean_signed", -0.5)],
)  # fmt: skip
def test_a_limit_that_the_metric_cannot_have_is_refused(metric: str, limit: float) -> None:
    text = BASE + f"[tool.parity.limits]\nfp32 = {{ {metric} = {limit} }}\n"
    assert f"{limit:g} is no limit for {metric}" in refused(text)
    waiver = (
        f'[[tool.parity.waive]]\ncell = "skin-onnx-fp32"\nmetric = "{metric}"\nlimit = {limit}\n'
        'reason = "r"\nexpires = 2027-01-31\n'
    )
    assert f"{limit:g} is no limit for {metric}" in refused(BASE + waiver)


@pytest.mark.parametrize(
    ("metric", "limit"),
    [("cosine", 1), ("cosine", -0.99), ("max_abs", 0), ("noise_ratio", 1e6), ("top1", 0.01), ("top1", 1), ("sqnr", 400),
     ("psnr", -5), ("power", 0.8), ("top1_drop", -0.1)],
)  # fmt: skip
def test_a_limit_at_the_edge_of_a_metric_is_taken(metric: str, limit: float) -> None:
    assert read(BASE + f"[tool.parity.limits]\nfp32 = {{ {metric} = {limit} }}\n").rules[0].value == limit


@pytest.mark.parametrize(
    "scope", ["default", *PRECISIONS, *formats.names(), "tflite-int8", "coreml-fp16", "skin", "skin-onnx-fp32"]
)
def test_every_scope_of_the_cascade_can_be_set(scope: str) -> None:
    text = BASE + f'[tool.parity.limits]\n"{scope}" = {{ max_abs = 0.5 }}\n'
    (rule,) = read(text).rules
    assert (rule.scope, rule.value) == (scope, 0.5)
    assert f"pyproject.toml:{line_of(text, 'max_abs')} " in rule.source and scope in rule.source


def test_a_limit_names_the_line_of_its_own_key_in_a_long_table() -> None:
    text = (
        BASE
        + "[tool.parity.limits.fp32]\n# note\ncosine = 0.9\n\nmax_abs = 1\n[tool.parity.limits.skin.logits]\nsqnr=3\n"
    )
    sources = {r.metric: r.source for r in read(text).rules}
    for metric, part in (("cosine", "cosine"), ("max_abs", "max_abs"), ("sqnr", "sqnr")):
        assert sources[metric].startswith(f"pyproject.toml:{line_of(text, part)} ")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024), ("8GiB", 8 << 30), ("500 MB", 500_000_000), ("1.5k", 1500), ("2 KiB", 2048), ("1Ti", 1 << 40),
        ("0", 0), (" 3gb ", 3_000_000_000), ("7B", 7),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1 PB", "1,5G", "GiB", "1e9", "0x10", "1 G B", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ParityError, match="is not a size"):
        parse_size(text)


# The file itself.


def test_toml_that_does_not_parse_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        read("[tool.parity\n")
    assert "not valid TOML" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[tool]\n", "[tool.other]\n", "tool = 3\n"])
def test_a_file_without_the_table_says_parity_init(text: str) -> None:
    with pytest.raises(ConfigError, match="parity init"):
        read(text)


def test_a_file_that_cannot_be_read_is_one_line(root: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(root / "pyproject.toml", formats.facts())
    (root / "pyproject.toml").write_bytes(b"[tool.parity]\n# \xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(root / "pyproject.toml", formats.facts())


def test_labels_that_cannot_be_read_name_the_labels_file(root: Path) -> None:
    (root / "labels.txt").write_bytes(b"caf\xe9\n")
    (root / "pyproject.toml").write_text(BASE.replace('kind = "logits"', 'kind = "logits", labels = "labels.txt"'))
    with pytest.raises(ConfigError, match=r"pyproject.toml:\d+ .*labels.txt"):
        load(root / "pyproject.toml", formats.facts())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[tool.parity]\n", True),
        ("[ tool . parity ]\n", True),
        ("[tool.parity.models.x]\n", True),
        ("[[tool.parity.waive]]\n", True),
        ("[tool]\nparity.seed = 3\n", True),
        ("tool.parity.seed = 3\n", True),
        ('["tool"."parity"]\n', True),
        ("# [tool.parity]\n", False),
        ("[tool.parity-extra]\n", False),
        ("[tool.parityx]\n", False),
        ('note = """\n[tool.parity]\n"""\n', False),
        ("[tool.pytest]\n", False),
        ("", False),
    ],
)
def test_find_sees_the_table_and_nothing_else(text: str, found: bool, root: Path) -> None:
    (root / "pyproject.toml").write_text(text)
    assert find(root) == (root / "pyproject.toml" if found else None)


def test_find_goes_up_past_files_without_the_table(root: Path) -> None:
    inner = root / "a" / "b"
    inner.mkdir(parents=True)
    (root / "pyproject.toml").write_text(BASE)
    (root / "a" / "pyproject.toml").write_text("[project]\n")
    assert find(inner) == root / "pyproject.toml"


def test_find_reports_a_broken_file_that_has_the_table(root: Path) -> None:
    (root / "pyproject.toml").write_text("[tool.parity]\nx = \n")
    assert find(root) == root / "pyproject.toml"


# Anything at all: a ConfigError of one line, or a configuration.

VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**62), 2**62), st.just(10**400), st.floats(), st.text(max_size=12),
        st.sampled_from(["onnx", "fp32", "image", "logits", "RGB", "batch", "skin-onnx-fp32", ".", "4GiB", "a:b"]),
        st.dates(), st.datetimes(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "shape", "kind", "labels", "path", "fp32", "cosine", "mean", "size", "cell", "x"]),
            inner, max_size=3,
        ),
    ),
    max_leaves=6,
)  # fmt: skip


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {as_toml(v)}" for k, v in value.items()) + " }"
    return repr(value)


@settings(max_examples=300, deadline=None)
@given(
    key=st.sampled_from([
        "targets", "precisions", "require", "seed", "timeout", "memory", "cache", "cache_size", "limits", "waive",
        "factory", "options", "checkpoint", "golden", "calibration", "opset", "inputs", "outputs", "preprocess", "dims",
        "cells", "artifacts",
    ]),
    value=VALUES,
)  # fmt: skip
def test_no_value_of_any_key_escapes_as_a_traceback(key: str, value: object) -> None:
    top = ("targets", "precisions", "require", "seed", "timeout", "memory", "cache", "cache_size", "limits", "waive")
    text = placed(f"{key} = {as_toml(value)}", "top" if key in top else "model")
    with contextlib.suppress(ConfigError):
        read(text)
        return
    refused(text)
