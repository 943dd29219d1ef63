"""`parity export` on checkpoints, lengths, modes and files: what is refused, what is written, what is left behind."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from parity import cli, mil
from parity.core.errors import ConfigError
from parity.exporting import adapt, options
from parity.session import project as projects
from tests.cli.conftest import CONFIG
from tests.cli.test_commands import one_line

pytestmark = pytest.mark.usefixtures("project")

TEXT_MODEL = """
import torch


class Prefill(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.mix, self.head = torch.nn.Embedding(16, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 16)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(torch.tanh(self.mix(torch.cumsum(x, 1))))


class Decode(Prefill):
    def forward(self, token, memory):
        memory = memory + self.embed(token)
        return self.head(torch.tanh(self.mix(memory))), memory


def words(mode="prefill"):
    return {"prefill": Prefill, "decode": Decode}[mode]()
"""

TEXT_CONFIG = """
[tool.parity.models.words]
factory = "texts:words"
options = { mode = "prefill" }
inputs = [{ name = "ids", shape = ["batch", "sequence"], dtype = "int32", range = [0, 15] }]
outputs = [{ name = "logits", kind = "logits" }]
dims = { sequence = [6, 9] }

[tool.parity.models.words_step]
factory = "texts:words"
options = { mode = "decode" }
inputs = [
  { name = "token", shape = ["batch", 1], dtype = "int32", range = [0, 15] },
  { name = "memory", shape = ["batch", 1, 8], range = [-1, 1] },
]
outputs = [{ name = "logits", kind = "logits" }, { name = "next_memory" }]
"""


@pytest.fixture
def texts(project: Path) -> Path:
    (project / "texts.py").write_text(TEXT_MODEL)
    (project / "pyproject.toml").write_text(CONFIG + TEXT_CONFIG)
    return project


def exported(project: Path, name: str = "export_results.json", folder: str = "exports"):
    return json.loads((project / folder / name).read_text())


def tiny() -> torch.nn.Module:
    sys.path.insert(0, str(Path.cwd()))
    try:
        sys.modules.pop("models", None)
        from models import tiny

        return tiny()
    finally:
        sys.path.pop(0)


class Evil:
    """A pickle that leaves a file behind when it is loaded."""

    def __reduce__(self):
        return (Path("pwned").write_text, ("x",))


def missing_key(path: Path) -> None:
    state = tiny().state_dict()
    del state["4.bias"]
    torch.save(state, path)


def truncated(path: Path) -> None:
    torch.save(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-300])


def code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))


@pytest.mark.parametrize(
    ("make", "words"),
    [(missing_key, "lacks 1, first '4.bias'"), (truncated, "damaged, or not a .pt"),
     (code, "would run code when loaded; refused")],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_wrong_checkpoint_is_one_line_and_leaves_nothing(project, run, make, words):
    make(project / "wrong.pt")
    before = {p.name for p in project.iterdir()} | {"cache", "__pycache__"}
    # Two formats and one line: it is the model that is wrong, not its cells.
    found, out, err = run("export", "tiny", "--checkpoint", "wrong.pt", "--format", "onnx,torchscript")
    assert found == 1
    one_line(err, "tiny: error: checkpoint wrong.pt", words)
    assert "0 of 2 exported" in out
    assert {p.name for p in project.iterdir()} | {"cache", "__pycache__"} == before
    assert not (project / "pwned").exists()


def test_a_whole_module_is_loaded_only_where_the_user_vouches_for_it(project, run):
    torch.manual_seed(9)
    module = tiny()
    torch.nn.init.normal_(module[4].weight)
    torch.save(module, "whole.pt")
    torch.save(module.state_dict(), "state.pt")
    code, _, err = run("export", "tiny", "--checkpoint", "whole.pt", "--allow-whole-module")
    assert code == 0, err
    first = (project / "exports" / "tiny.onnx").read_bytes()
    assert run("export", "tiny", "--weights", "state.pt", "--no-verify")[0] == 0
    assert (project / "exports" / "tiny.onnx").read_bytes() == first


def test_of_two_models_the_one_with_its_checkpoint_is_exported(project, run):
    second = CONFIG.partition("[tool.parity.models.tiny]")[2]
    config = f'{CONFIG}checkpoint = "one.pt"\n[tool.parity.models.other]{second}checkpoint = "other.pt"\n'
    (project / "pyproject.toml").write_text(config)
    torch.save(tiny().state_dict(), "one.pt")
    code, _, err = run("export", "tiny", "other")
    assert code == 0, err
    assert "other is left out: checkpoint other.pt: no such file" in err
    assert [(r["cell"], r["state"]) for r in exported(project)["results"]] == [
        ("tiny-onnx-fp32", "pass"), ("other-onnx-fp32", "skipped")]  # fmt: skip
    code, _, err = run("export", "tiny", "other", "--checkpoint", "tiny=gone.pt", "--checkpoint", "other=one.pt",
                       "--no-verify")  # fmt: skip
    assert (code, "tiny is left out" in err) == (0, True)
    assert [r["state"] for r in exported(project)["results"]] == ["skipped", "unverified"]
    code, _, err = run("export", "other")
    assert code == 1
    one_line(err, "checkpoint other.pt: no such file")


def test_a_batch_frozen_by_tracing_fails_the_export(project, run):
    source = (project / "models.py").read_text()
    frozen = source.replace("def tiny", textwrap.dedent("""
        class Frozen(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = net(3)

            def forward(self, x):
                return self.inner(x).mean(0, keepdim=True).expand(int(x.shape[0]), 3)


        def tiny():
            return Frozen()


        def net""").strip())  # fmt: skip
    (project / "models.py").write_text(frozen)
    code, _, err = run("export", "tiny", "--format", "torchscript", "--precision", "fp32")
    assert code == 1
    one_line(err, "tiny-torchscript-fp32: fail")
    assert not (project / "exports").exists()


def test_an_int8_that_cannot_be_built_is_logged_and_the_others_go_on(project, run):
    folder = project / "calibration"
    folder.mkdir()
    np.savez(folder / "bad.npz", image=np.full((1, 3, 17, 19), np.nan, np.float32))
    code, _, err = run("export", "tiny", "--int8", "--calibration-dir", "calibration")
    assert code == 1
    assert "warning: 1 calibration files; 50 to 200" in err
    one_line(err, "tiny-onnx-int8")
    states = {r["precision"]: r["state"] for r in exported(project)["results"]}
    assert states["fp32"] == "pass"
    assert states["int8"] in ("error", "fail")
    assert [e["path"] for e in exported(project, "manifest.json")["artifacts"]] == ["tiny.onnx"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["words", "--mode", "prefil"], 2, ["--mode", "prefill"]),
        (["tiny", "--mode", "decode"], 2, ["--mode decode", "models:tiny"]),
        (["tiny", "--enumerated-T", "4"], 2, ["no dynamic axis"]),
        (["words", "--enumerated-T", "0"], 2, ["at least 1"]),
        (["words", "--device", "cuda"], 2, ["--device cuda", "on the CPU"]),
        (["words", "--backend", "neuralnetwork"], 2, ["add --format coreml"]),
        (["words", "--format", "coreml", "--deployment-target", "iOS14"], 2, ["mlprogram file needs iOS15"]),
        (["words", "--format", "coreml_nn", "--deployment-target", "iOS16"], 2, ["needs iOS14 or macOS11"]),
        (["words", "--deployment-target", "iOS99"], 2, ["invalid choice"]),
        (["words", "--shape-sets", "none.json"], 1, ["none.json", "no such file"]),
        (["words", "--output-dir", "words.onnx"], 2, ["names a folder", "--model-name"]),
        (["words", "words_step", "--checkpoint", "a.pt"], 2, ["which model", "MODEL=FILE"]),
        (["words", "--checkpoint", "tiny=a.pt"], 2, ["'tiny' is not among the models"]),
        (["words.pt"], 1, ["words.pt: no such file"]),
        (["models.py"], 2, ["unknown model 'models.py'"]),
        (["words.pt", "words"], 2, ["one file at a time"]),
        (["words.pt", "--format", "onnx"], 2, ["converted to Core ML only"]),
    ],
)
def test_a_mistake_in_the_options_is_one_line(texts, run, arguments, code, words):
    found, _, err = run("export", *arguments)
    assert found == code, err
    one_line(err, *words)
    assert not (texts / "exports").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("INPUT_SIZE", "big", "not a whole number"), ("INT8", "perhaps", "write 1 or 0"), ("OPSET", "-3", "at least 1"),
     ("MODE", "encode", "choose from prefill"), ("ENUMERATED_T", "8,x", "not a whole number")],
)  # fmt: skip
def test_a_mistake_in_the_environment_is_one_line(run, monkeypatch, name, value, words):
    monkeypatch.setenv(f"EXPORT_{name}", value)
    code, _, err = run("export", "tiny")
    assert code == 2
    one_line(err, f"EXPORT_{name}", words)


def test_every_option_has_its_variable_and_the_command_line_wins():
    values = {"store": "7", "append": "a=b", "flag": "1"}
    given = cli.parser().parse_args(["export", "tiny", "--opset", "12"])
    wanted = {}
    for action in given.declared:
        kind = "flag" if action.nargs == 0 else "append" if action.dest in ("checkpoint", "format") else "store"
        wanted[options.variable(action)] = str(sorted(action.choices)[0]) if action.choices else values[kind]
    assert {"EXPORT_MODEL_NAME", "EXPORT_INPUT_SIZE", "EXPORT_INT8", "EXPORT_DUMMY", "EXPORT_OUTPUT_DIR",
            "EXPORT_ENUMERATED_T", "EXPORT_NO_VERIFY", "EXPORT_CALIBRATION_DIR"} <= set(wanted)  # fmt: skip
    options.fill(given, wanted)
    assert all(getattr(given, action.dest) is not None for action in given.declared)
    assert (given.opset, given.enumerated_T, given.checkpoint, given.int8) == (12, [7], ["a=b"], True)
    other = cli.parser().parse_args(["export", "tiny"])
    options.fill(other, {"EXPORT_WEIGHTS_PATH": "w 1.npz", "EXPORT_INT8": "0", "EXPORT_DUMMY": ""})
    assert (other.checkpoint, other.int8, other.dummy) == (["w 1.npz"], None, None)


def test_scriptable_reaches_a_factory_that_takes_it_and_timm_is_told_to_be_missing(project, run):
    package = project / "timm"
    (project / "pyproject.toml").write_text(CONFIG.replace("models:tiny", "timm:create_model"))
    code, _, err = run("export", "tiny")
    assert code == 2
    one_line(err, "no module 'timm'", "pip install timm", "pyproject.toml:")
    package.mkdir()  # stands for the real one, which needs a torchvision that this machine may not have
    (package / "__init__.py").write_text(
        "import sys\nsys.path.append('.')\n"
        "def create_model(scriptable=False):\n"
        "    import models\n"
        "    assert scriptable, 'not asked for'\n"
        "    return models.tiny()\n"
    )
    assert run("export", "tiny", "--scriptable")[0] == 0
    (project / "pyproject.toml").write_text(CONFIG)
    code, _, err = run("export", "tiny", "--scriptable")
    assert code == 1
    one_line(err, "models:tiny", "scriptable")


def test_both_modes_and_enumerated_lengths_go_into_files_and_contract(texts, run):
    code, _, err = run("export", "words", "--mode", "both", "--format", "onnx,torchscript", "--enumerated-T", "4", "7",
                       "--model-name", "lm")  # fmt: skip
    assert code == 0, err
    contract = exported(texts, "contract.json")
    assert set(contract) == {"words", "words_step"}
    entry = contract["words"]
    assert entry["enumerated"] == {"sequence": [4, 7]}
    assert entry["outputs"] == [
        {"name": "logits", "kind": "logits", "shape": ["batch", "sequence", 16], "dtype": "float32"}
    ]
    assert entry["inputs"][0] == {"name": "ids", "shape": ["batch", "sequence"], "dtype": "int32", "range": [0, 15]}
    assert (entry["mode"], contract["words_step"]["mode"]) == ("prefill", "decode")
    assert entry["files"] == ["lm_prefill.fp32.pt", "lm_prefill.onnx"]
    assert (texts / "exports" / "lm_decode.onnx").exists()


def planned(*arguments: str):
    """(models, jobs, variants) that a command line asks for, without making anything."""
    given = cli.parser().parse_args(["export", *arguments])
    options.fill(given, {})
    models, _ = adapt.chosen(projects.here(), given)
    return models, *adapt.work(models.values(), given)


def test_shape_sets_json_enumerates_and_the_option_wins(texts, run):
    (texts / "shape_sets.json").write_text('{"words": {"sequence": [5, 8]}}')
    (words,) = planned("words")[0].values()
    assert (words.contract.sizes()["sequence"], words.enumerated) == ((5, 8), ("sequence",))
    (words,) = planned("words", "--enumerated-T", "3", "3", "9")[0].values()
    assert words.contract.sizes()["sequence"] == (3, 9)
    for text, words in (("[1", "not JSON"), ('{"wrds": {}}', "did you mean 'words'"), ("[]", "expected {name"),
                        ('{"words": {"seqence": [1]}}', "did you mean 'sequence'"),
                        ('{"words": {"sequence": [0]}}', "expected a list of sizes")):  # fmt: skip
        (texts / "shape_sets.json").write_text(text)
        code, _, err = run("export", "words", "--no-verify")
        assert code in (1, 2)
        one_line(err, "shape_sets.json", words)


@pytest.mark.usefixtures("texts")
def test_a_format_that_fixes_its_axes_gets_a_file_a_length():
    _, jobs, variants = planned("words", "--format", "tflite,coreml,onnx", "--enumerated-T", "4", "7")
    assert [(job.cell.id, job.base, job.length) for job in jobs] == [
        ("words_t4-tflite-fp32", "words", 4), ("words_t7-tflite-fp32", "words", 7),
        ("words-coreml-fp32", "words", None), ("words-onnx-fp32", "words", None)]  # fmt: skip
    assert [v.contract.example()["sequence"] for v in variants.values()] == [4, 7]


def test_a_picture_size_is_fixed_or_the_first_that_is_tried(project):
    (model,) = planned("tiny", "--input-size", "32")[0].values()
    assert model.contract.inputs[0].shape == ("batch", 3, 32, 32)
    free = CONFIG.replace("17, 19]", '"height", "width"]') + "dims = { height = [17, 21], width = [19, 23] }\n"
    (project / "pyproject.toml").write_text(free + "preprocess = { size = [17, 19] }\n")
    (model,) = planned("tiny", "--input-size", "32")[0].values()
    assert model.contract.inputs[0].shape == ("batch", 3, "height", "width")
    assert (model.contract.sizes()["height"], model.contract.sizes()["width"]) == ((32, 21), (32, 23))
    assert model.contract.preprocess.size == (32, 32)
    with pytest.raises(ConfigError, match="no dynamic axis besides the batch"):
        planned("tiny", "--sequence-length", "4")  # height is no sequence


def test_without_a_precision_the_configured_cells_are_exported_int8_only_when_asked_for(project):
    cells = 'cells = ["onnx-fp32", "tflite-fp32", "tflite-int8", "coreml-fp16", "ncnn-fp16", "ncnn-int8"]\n'
    (project / "pyproject.toml").write_text(CONFIG + cells)

    def listed(*arguments: str) -> list[str]:
        return [job.cell.id.removeprefix("tiny-") for job in planned("tiny", *arguments)[1]]

    assert listed() == ["onnx-fp32", "tflite-fp32", "coreml-fp16", "ncnn-fp16"]
    assert listed("--int8", "--format", "tflite,ncnn") == ["tflite-fp32", "tflite-int8", "ncnn-fp16"]
    assert listed("--quantize", "float16", "--format", "tflite") == ["tflite-fp16"]
    assert listed("--fp32", "--fp16", "--backend", "neuralnetwork", "--format", "coreml") == [
        "coreml_nn-fp32", "coreml_nn-fp16"]  # fmt: skip


def test_golden_sequences_are_cut_or_repeated_to_the_length_that_was_asked_for():
    from parity.cases.fit import fitted
    from parity.core.case import Case
    from parity.core.contract import Contract, InputSpec, OutputSpec

    spec = InputSpec("x", ("batch", "sequence", 2))
    value = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    for length, rows in ((3, [0, 1, 2]), (4, [0, 1, 2, 3]), (6, [0, 1, 2, 3, 0, 1])):
        contract = Contract((spec,), (OutputSpec("y"),), None, {"sequence": (length,)})
        (case,) = fitted([Case("a", {"x": value}, 3)], contract)
        assert (case.id, case.label) == ("a", 3)
        assert np.array_equal(case.inputs["x"], value[:, rows])


@pytest.mark.parametrize(
    "file", ["words.fp32.pt", pytest.param("words.fp32.pt2", marks=pytest.mark.nightly)]
)  # fmt: skip
def test_core_ml_is_converted_from_a_file_as_its_contract_says(texts, run, file):
    assert run("export", "words", "--format", "torchscript,exported", "--enumerated-T", "4", "7", "--no-verify")[0] == 0
    contract = str(texts / "exports" / "contract.json")
    code, out, err = run("export", f"exports/{file}", "--format", "coreml", "--fp32", "--output-dir", "ml",
                         "--contract", contract)  # fmt: skip
    assert code == 0, err
    assert "batch is fixed at 1" in out
    (result,) = exported(texts, folder="ml")["results"]
    assert (result["state"], result["published"]) == ("pass", "words.fp32.mlpackage")
    program = mil.load(texts / "ml" / "words.fp32.mlpackage")
    assert [(n, sorted(f.shapes)) for n, f in program.inputs.items()] == [("ids", [(1, 4), (1, 7)])]
    assert list(program.outputs) == ["logits"]
    assert exported(texts, "contract.json", "ml")["words"]["files"] == ["words.fp32.mlpackage"]


def test_a_file_or_contract_that_cannot_be_converted_is_one_line(texts, run):
    torch.save(tiny().state_dict(), "words.pt")
    entry = {"inputs": [{"name": "x", "shape": ["batch", 3], "dtype": "float32"}], "outputs": [{"name": "y"}]}
    Path("good.json").write_text(json.dumps({"words": entry}))
    code, _, err = run("export", "words.pt", "--contract", "good.json")
    assert code == 1
    one_line(err, "words.pt", "not a TorchScript module", "--checkpoint")
    strange = {**entry, "inputs": [{**entry["inputs"][0], "dtype": "float33"}]}
    for text, words in (("{", "not JSON"), ("[]", "not a table of models"), ('{"words": {"inputs": []}}', "lacks"),
                        (json.dumps({"a": entry, "b": entry}), "describes a, b, none of which is words.pt"),
                        (json.dumps({"words": strange}), "unknown dtype 'float33'")):  # fmt: skip
        Path("bad.json").write_text(text)
        code, _, err = run("export", "words.pt", "--contract", "bad.json")
        assert code == 1
        one_line(err, "bad.json", words)
    assert not (texts / "exports").exists()


OFFLINE = """
import os, socket


def refuse(*arguments, **named):
    family = getattr(arguments[0], "family", None)
    if family == socket.AF_UNIX:
        return real(*arguments, **named)
    with open(os.environ["SOCKET_LOG"], "a") as log:
        log.write(f"{arguments!r}\\n")
    raise OSError("the network is cut off")


real = socket.socket.connect
socket.socket.connect = refuse
socket.socket.connect_ex = refuse
socket.socket.sendto = refuse
socket.getaddrinfo = refuse
"""


def test_a_real_picture_model_is_converted_with_the_network_cut_off(project):
    """TFLite, ONNX and Core ML without a socket: onnx2tf fetches a sample file when it is not given one. Every process
    refuses and notes connections, and where the system allows it there is no network interface at all."""
    site = project / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(OFFLINE)
    log = project / "sockets.log"
    python = [sys.executable, "-m", "parity.cli"]
    alone = ["unshare", "--map-root-user", "--net"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        alone = []
    env = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{Path(__file__).parents[2]}", "SOCKET_LOG": str(log)}
    probe = "import socket\ntry:\n  socket.create_connection(('127.0.0.1', 9))\nexcept OSError as e: print(e)"
    told = subprocess.run([*alone, sys.executable, "-c", probe], env=env, capture_output=True, text=True)
    assert "cut off" in told.stdout  # the guard works
    log.unlink()
    done = subprocess.run(
        [*alone, *python, "export", "tiny", "--format", "tflite,onnx,coreml", "--precision", "fp32", "--no-verify"],
        env=env, capture_output=True, text=True, cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not log.exists(), log.read_text()
    assert "3 of 3 exported" in done.stdout


def test_core_ml_packages_are_named_by_what_they_hold(tmp_path):
    """coremltools draws new identifiers at every save: the same model must not have two hashes."""
    from parity.formats.coreml.convert import _settle

    for name, first, second in (("one", "AAAA", "BBBB"), ("two", "CCCC", "DDDD")):
        items = {first: {"path": "com.apple.CoreML/model.mlmodel"}, second: {"path": "com.apple.CoreML/weights"}}
        (tmp_path / name).mkdir()
        manifest = {"itemInfoEntries": items, "rootModelIdentifier": first}
        (tmp_path / name / "Manifest.json").write_text(json.dumps(manifest))
        _settle(tmp_path / name)
    made = [(tmp_path / name / "Manifest.json").read_text() for name in ("one", "two")]
    assert made[0] == made[1]
    read = json.loads(made[0])
    assert read["itemInfoEntries"][read["rootModelIdentifier"]]["path"].endswith("model.mlmodel")
    assert len(read["itemInfoEntries"]) == 2


@pytest.mark.nightly
def test_two_fresh_builds_have_the_same_hashes(project, run):
    """Every format at every precision that it has, built twice from nothing."""
    made = []
    for n in ("1", "2"):
        code, _, err = run("export", "tiny", "--format", "onnx,tflite,coreml,coreml_nn,ncnn,torchscript,exported",
                           "--precision", "fp32,fp16,dynamic", "--no-verify", "--parity-cache", f"cache{n}",
                           "--output-dir", f"out{n}")  # fmt: skip
        assert code == 0, err
        made.append({e["path"]: e["sha256"] for e in exported(project, "manifest.json", f"out{n}")["artifacts"]})
    assert len(made[0]) >= 18
    assert made[0] == made[1]


def test_int8_cells_that_are_left_out_are_named_with_the_option(project):
    (project / "pyproject.toml").write_text(CONFIG + 'cells = ["onnx-fp32", "onnx-int8", "ncnn-fp16", "ncnn-int8"]\n')

    def named(*arguments: str) -> list[str]:
        models, jobs = planned("tiny", *arguments)[:2]
        given = cli.parser().parse_args(["export", "tiny", *arguments])
        options.fill(given, {})
        return [c.id for c in adapt.left_out(models["tiny"], given, [job.cell for job in jobs])]

    assert named() == ["tiny-onnx-int8", "tiny-ncnn-int8"]
    assert named("--format", "onnx") == ["tiny-onnx-int8"]
    assert named("--int8", "--format", "onnx") == named("--precision", "fp32") == []
