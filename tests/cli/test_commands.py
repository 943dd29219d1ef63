"""The commands as a person uses them: what they print, their exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

COMMANDS = ("init", "demo", "verify", "doctor", "export", "video", "gate", "report", "cache", "bisect")


def one_line(text: str, *parts: str) -> None:
    """The error is one line, says all the parts, and is no traceback."""
    errors = [line for line in text.splitlines() if line.startswith("parity")]
    assert len(errors) == 1, text
    assert "Traceback" not in text
    for part in parts:
        assert part in errors[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_teaches(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"parity {command}" in out
    assert len(out.splitlines()) > 4


def test_the_command_line_imports_no_converter():
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; from parity import cli; cli.parser(); "
         "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorflow', 'coremltools', 'cv2'}; "
         "print(sorted(heavy & set(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["nonsense"], 2, ["invalid choice", "--help"]),
        (["export"], 2, ["required", "--help"]),
        (["export", "tinny"], 2, ["unknown model 'tinny'", "did you mean 'tiny'"]),
        (["export", "tiny", "--format", "onyx"], 2, ["unknown format 'onyx'", "did you mean 'onnx'"]),
        (["export", "tiny", "--precision", "fp23"], 2, ["unknown precision"]),
        (["export", "tiny", "--checkpoint", "gone.pt"], 1, ["gone.pt", "no such file"]),
        (["export", "tiny", "--calibration-dir", "gone"], 1, ["gone", "no such folder"]),
        (["export", "tiny", "--input-size", "0"], 2, ["--input-size: 0", "at least 1"]),
        (["export", "tiny", "--input-size", "many"], 2, ["invalid int value"]),
        (["export", "tiny", "--sequence-length", "5"], 2, ["no dynamic axis"]),
        (["gate", "gone.json"], 1, ["gone.json", "No such file"]),
        (["report", "models.py"], 1, ["models.py", "not a JSON record"]),
        (["cache", "why", "tiny-onnx-int9"], 2, ["unknown precision"]),
        (["cache", "why", "tiny-tflite-fp32"], 1, ["not in this project's plan"]),
        (["cache", "sweep", "--keep", "lots"], 1, ["not a size"]),
        (["video", "tiny", "--video", "gone.mp4"], 1, ["gone.mp4", "no such file"]),
        (["video", "tiny", "--video", "models.py"], 1, ["models.py", "cannot be opened"]),
        (["video", "tiny", "--video", "models.py", "--stride", "0"], 2, ["at least 1"]),
        (["init", "models:tiny", "--input", "image=1,3,17,19"], 1, ["has a model 'tiny' already", "--name"]),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(project, run, arguments, code, parts):
    found, _, err = run(*arguments)
    assert found == code, err
    one_line(err, *parts)
    assert not (project / "exports").exists()


def test_a_folder_without_a_project_says_what_to_do(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", "tiny")
    assert code == 2
    one_line(err, "no pyproject.toml with a [tool.parity] table", "parity init")


def test_export_verifies_and_lists_what_it_made(project, run):
    code, out, err = run("export", "tiny", "--format", "onnx,torchscript", "--precision", "fp32,fp16")
    assert code == 0, err
    manifest = json.loads((project / "exports" / "manifest.json").read_text())
    paths = {entry["path"] for entry in manifest["artifacts"]}
    assert paths == {"tiny.onnx", "tiny.fp16.onnx", "tiny.fp32.pt", "tiny.fp16.pt"}
    for entry in manifest["artifacts"]:
        assert (project / "exports" / entry["path"]).stat().st_size == entry["bytes"]
        assert entry["sha256"][:16] in out
    results = json.loads((project / "exports" / "export_results.json").read_text())["results"]
    assert {r["state"] for r in results} == {"pass"}
    assert json.loads((project / "exports" / "contract.json").read_text())["tiny"]["inputs"][0]["name"] == "image"
    lines = out.splitlines()
    assert lines[0].startswith("Python ") and "torch " in lines[0]
    assert " s  tiny-onnx-fp32: onnx" in err
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("file ")) :]
    assert table[1].split()[:2] == ["tiny.onnx", f"{(project / 'exports' / 'tiny.onnx').stat().st_size:,}"]
    assert " x " in table[2]  # against the first; so small a file grows at fp16
    for entry in manifest["artifacts"]:
        assert any(line.startswith(entry["sha256"]) and line.endswith(entry["path"]) for line in table)


def test_every_option_has_an_environment_override(project, run, monkeypatch):
    for name, value in (("OUTPUT_DIR", "elsewhere"), ("MODEL_NAME", "renamed"), ("FORMAT", "onnx"),
                        ("PRECISION", "fp16"), ("NUM_CLASSES", "5"), ("INPUT_SIZE", "16"), ("NO_VERIFY", "1"),
                        ("OPSET", "16"), ("DUMMY", "1")):  # fmt: skip
        monkeypatch.setenv(f"EXPORT_{name}", value)
    code, _, err = run("export", "tiny")
    assert code == 0, err
    assert (project / "elsewhere" / "renamed.fp16.onnx").exists()
    contract = json.loads((project / "elsewhere" / "contract.json").read_text())["tiny"]
    assert contract["inputs"][0]["shape"] == ["batch", 3, 16, 16]
    result = json.loads((project / "elsewhere" / "export_results.json").read_text())["results"][0]
    assert result["state"] == "unverified"


def test_a_failed_verification_publishes_nothing_over_a_good_file(project, run):
    assert run("export", "tiny")[0] == 0
    good = (project / "exports" / "tiny.onnx").read_bytes()
    config = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(config + "\n[tool.parity.limits]\nfp32 = { max_abs = 1e-30 }\n")
    code, _, err = run("export", "tiny")
    assert code == 1
    one_line(err, "tiny-onnx-fp32: fail", "max_abs", "pyproject.toml:")
    assert (project / "exports" / "tiny.onnx").read_bytes() == good
    assert not list(project.glob(".exports.*"))


def test_a_checkpoint_that_would_run_code_is_refused(project, run):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path("pwned").write_text, ("x",))

    (project / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    code, _, err = run("export", "tiny", "--checkpoint", "evil.pt")
    assert code == 1
    one_line(err, "evil.pt")
    assert not (project / "pwned").exists()
    assert not (project / "exports").exists()


def test_cache_why_names_what_changed(project, run):
    assert "never built" in run("cache", "why", "tiny-onnx-fp32")[1]
    assert run("export", "tiny")[0] == 0
    assert "hit" in run("cache", "why", "tiny-onnx-fp32")[1]
    source = (project / "models.py").read_text()
    (project / "models.py").write_text(source.replace("stride=2", "stride=3"))
    out = run("cache", "why", "tiny-onnx-fp32")[1]
    assert "changed" in out
    assert "model.structure" in out
    assert "model.source" in out
    (project / "models.py").write_text(source)
    assert "hit" in run("cache", "why", "tiny-onnx-fp32")[1]
    assert "deleted" in run("cache", "sweep", "--keep", "0")[1]
    assert "gone or damaged" in run("cache", "why", "tiny-onnx-fp32")[1]


def test_init_sets_up_a_project_that_passes(tmp_path, monkeypatch, run):
    from tests.cli.conftest import MODEL

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODEL)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    arguments = ("models:tiny", "--input", "image=batch,3,17,19", "--output", "logits", "--no-run")
    code, out, err = run("init", *arguments)
    assert code == 0, err
    assert "pytest -m parity" in out
    text = (tmp_path / "pyproject.toml").read_text()
    assert text.startswith('[project]\nname = "theirs"\n')
    assert len(list((tmp_path / "golden" / "tiny").glob("*.npz"))) == 8
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "parity", "--parity-cache", "cache", "--parity-targets", "onnx"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: partial" in done.stdout


def test_init_tells_a_wrong_shape_at_once_and_writes_nothing(tmp_path, monkeypatch, run):
    from tests.cli.conftest import MODEL

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODEL)
    code, _, err = run("init", "models:tiny", "--input", "image=batch,5,17,19")
    assert code == 1
    one_line(err, "expected input", "channels")
    assert not (tmp_path / "pyproject.toml").exists()
    assert not (tmp_path / "golden").exists()


@pytest.mark.parametrize("factory", ["models:tini", "nowhere.models:tiny"])
def test_init_names_no_file_that_is_not_there(tmp_path, monkeypatch, run, factory):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text("def tiny():\n    return None\n")
    code, _, err = run("init", factory)
    assert code == 2
    one_line(
        err, "parity init: factory: ", "defines no 'tini' (did you mean 'tiny'?)" if "tini" in factory else "nowhere"
    )
    assert "pyproject" not in err and not (tmp_path / "pyproject.toml").exists()


def test_gate_and_report_work_from_the_record_alone(project, run):
    test = project / "tests"
    test.mkdir()
    (test / "test_parity.py").write_text("from parity.suite import *\n")
    golden = project / "golden"
    golden.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        np.savez(golden / f"{i}.npz", image=rng.random((1, 3, 17, 19), np.float32))
    config = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(config + 'golden = "golden"\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "parity"], capture_output=True, text=True, cwd=project
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = project / "reports" / "parity.json"
    (project / "golden").rename(project / "golden-away")
    (project / "models.py").unlink()
    code, out, _ = run("gate", str(record))
    assert (code, "verdict: pass" in out) == (0, True)
    html = (project / "reports" / "parity.html").read_bytes()
    assert run("report", str(record))[0] == 0
    assert (project / "reports" / "parity.html").read_bytes() == html
    (project / "golden-away").rename(project / "golden")
    (project / "pyproject.toml").write_text(
        config + 'golden = "golden"\n[tool.parity.limits]\nfp32 = { max_abs = 1e-30 }\n'
    )
    code, out, _ = run("gate", str(record), "--limits", str(project / "pyproject.toml"))
    assert code == 1
    assert "verdict: fail" in out
    data = json.loads(record.read_text())
    for check in data["cells"][0]["checks"]:
        if check["metric"] == "cosine":
            check["value"] = 0.5  # tampered; `passed` still says true
    record.write_text(json.dumps(data))
    assert run("gate", str(record))[0] == 1


def test_a_stored_state_excuses_nothing(tmp_path, run):
    from parity.core.record import CellRecord, Check, Environment, RunRecord, WaiverRecord, dumps

    broken = Check("golden", "a", "logits", "max_abs", 2.0, 1.0, "max", False)
    waived = CellRecord(
        "skin-onnx-fp32", "skin", "onnx", "fp32", "waived", checks=(broken,), planned=("golden",),
        measured=("golden",), planned_cases=1,
    )  # fmt: skip
    record = RunRecord("pass", (waived,), Environment("3.11", {}, "linux"), started="2026-01-01T12:00:00Z")
    file = tmp_path / "parity.json"
    file.write_text(dumps(record))
    code, out, _ = run("gate", str(file))
    assert (code, "verdict: fail" in out) == (1, True)
    used = WaiverRecord("skin-onnx-fp32", "max_abs", "accepted", "2099-01-01", None, "used")
    file.write_text(dumps(replace(record, waivers=(used,))))
    code, out, _ = run("gate", str(file))
    assert (code, "1 of them by a waiver" in out) == (0, True)


def test_the_demonstration_fails_for_the_reason_that_was_seeded(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, err = run("demo")
    assert code == 0, out + err
    reason = out.partition("\n  fail: ")[2].splitlines()[0]
    assert "opposite order" in reason and "first wrong at features.0 (shapes.py:" in reason
    assert "chain of proof: fp32: not faithful" in out and "logits: " in reason and "noise_ratio" in reason
    assert "opposite order" in out.partition("diagnosis:")[2]
    assert (tmp_path / "parity-demo" / "reports" / "parity.html").is_file()
    code, out, err = run("demo")
    assert code == 1
    one_line(err, "parity-demo exists already")


@pytest.fixture
def golden(project):
    rng = np.random.default_rng(3)
    (project / "golden").mkdir()
    for i in range(3):
        np.savez(project / "golden" / f"{i}.npz", image=rng.random((1, 3, 17, 19), dtype=np.float32))
    config = project / "pyproject.toml"
    config.write_text(config.read_text() + 'golden = "golden"\n')
    return project


def test_a_file_made_elsewhere_is_verified_as_it_is(golden, run):
    assert run("export", "tiny")[0] == 0
    file = golden / "exports" / "tiny.onnx"
    code, out, err = run("verify", str(file))
    assert code == 0, out + err
    assert "tiny.onnx as tiny-onnx-fp32: pass: " in out
    assert f"of a narrowed plan (parity verify {shlex.quote(str(file))}; models tiny; " in out
    assert "--parity-set" not in out + (golden / "reports" / "verify.md").read_text()
    renamed = file.read_bytes().replace(b"logits", b"logitz")
    file.write_bytes(renamed)
    code, out, err = run("verify", str(file), "--model", "tiny")
    assert code == 1
    assert "tiny-onnx-fp32: fail: logits: present: output 'logits'; the file has logitz" in out
    assert f"rerun: parity verify {shlex.quote(str(file))} --model tiny" in out
    assert "hint: if the file's 'logitz' is the model's 'logits': --tensor logits=logitz " in out
    assert "test_verify.py" not in out
    code, out, err = run("verify", str(file), "--tensor", "logits=logitz")
    assert code == 0, out + err


def test_a_table_that_speaks_of_other_cells_is_no_hindrance(golden, run):
    assert run("export", "tiny")[0] == 0
    config = golden / "pyproject.toml"
    artifacts = 'artifacts = { "onnx-fp16" = "exports/tiny.onnx" }'
    table = ['cells = ["onnx-fp32", "onnx-fp16"]', artifacts, 'nightly = ["onnx-fp16"]']
    config.write_text(config.read_text() + "\n".join(table))
    code, out, err = run("verify", str(golden / "exports" / "tiny.onnx"))
    assert code == 0, out + err
    assert "1 of 1 cell pass" in out


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["nothing.onnx"], 1, ["nothing.onnx: no such file"]),
        (["pyproject.toml"], 2, ["does not tell its format"]),
        (["pyproject.toml", "--target", "onxx"], 2, ["did you mean 'onnx'"]),
        (["pyproject.toml", "--target", "onnx", "--model", "tinny"], 2, ["did you mean 'tiny'"]),
        (["pyproject.toml", "--target", "onnx", "--tensor", "image"], 2, ["NAME=THEIRS"]),
        (["pyproject.toml", "--target", "onnx", "--tensor", "imag=x"], 2, ["did you mean 'image'"]),
    ],
)
def test_what_cannot_be_verified_is_told_in_one_line(project, run, arguments, code, parts):
    found, _, err = run("verify", *arguments)
    assert found == code
    one_line(err, *parts)


@pytest.mark.nightly
def test_verify_compares_two_files_without_a_project(tmp_path, monkeypatch, run):
    from tests.cli.conftest import MODEL

    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    space: dict = {}
    exec(MODEL, space)
    module = space["tiny"]().eval()
    picture = torch.rand(2, 3, 17, 19)
    torch.export.save(
        torch.export.export(module, (picture,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False), "a.pt2"
    )
    for name, scale in (("right", 1.0), ("wrong", 1.001)):
        with torch.no_grad():
            module[4].weight.mul_(scale)
        torch.onnx.export(
            module, (picture,), f"{name}.onnx", dynamo=False, opset_version=17, input_names=["input"],
            output_names=["output"], dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        )  # fmt: skip
    code, out, err = run("verify", "right.onnx", "--reference", "a.pt2")
    assert code == 0, out + err
    assert "right.onnx as a-onnx-fp32: pass" in out and "8 drawn inputs" in out
    assert (
        "measured against ExportedProgram file a.pt2, no PyTorch module"
        in (tmp_path / "reports" / "verify.json").read_text()
    )
    code, out, _ = run("verify", "wrong.onnx", "--reference", "right.onnx")
    assert code == 1 and "wrong.onnx as right-onnx-fp32: fail" in out
    assert "ONNX file right.onnx" in (tmp_path / "reports" / "verify.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["a.onnx", "--reference", "gone.pt2"], ["gone.pt2", "no such file"]),
        (["a.onnx", "--golden", "."], ["--golden goes with --reference"]),
        (["a.onnx", "--reference", "a.txt"], ["unknown kind of file"]),
        (["a.onnx", "--reference", "a.pt"], ["a.pt", "no TorchScript file"]),
    ],
)
def test_a_reference_that_will_not_do_is_one_line(tmp_path, monkeypatch, run, arguments, parts):
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "a.txt", "a.pt"):
        (tmp_path / name).write_bytes(b"x")
    code, _, err = run("verify", *arguments)
    assert code in (1, 2)
    one_line(err, *parts)


def test_settings_are_checked_without_the_projects_code(project, run):
    config = project / "pyproject.toml"
    (project / "models.py").write_text("raise SystemExit('imported')")
    assert run("schema", "config", str(config)) == (0, f"{config}: 1 model, 1 cell\n", "")
    config.write_text(config.read_text().replace("range", "rage"))
    code, out, err = run("schema", "config", str(config))
    assert (code, out) == (2, "")
    one_line(err, "pyproject.toml:9", "unknown key 'rage'", "did you mean 'range'")


def test_records_are_checked(project, run):
    (project / "parity.json").write_text("{}")
    code, _, err = run("schema", "record", "parity.json")
    assert code == 1
    one_line(err, "parity.json", "schema")
