"""`parity video` on the real clips: every option changes what it should, and a wrong file is noticed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import CONFIG
from tests.cli.test_commands import one_line

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "fixtures" / "video"
PORTRAIT = str(CLIPS / "portrait.mp4")


def frames_of(out: str) -> list[int]:
    return [int(n) for n in re.findall(r"^\S+#(\d+):", out, re.M)]


@pytest.mark.parametrize(
    ("clip", "options"),
    [("top.avi", ["--crop-from", "top"]), ("turned.mp4", ["--rotate", "-90", "--crop-from", "bottom"]),
     pytest.param("tagged.mp4", ["--crop-from", "bottom"], marks=pytest.mark.nightly),
     pytest.param("portrait.mp4", ["--crop-from", "bottom"], marks=pytest.mark.nightly)],
)  # fmt: skip
def test_the_model_decides_right_on_frames_turned_and_cropped_as_asked(run, monkeypatch, clip, options):
    """From the encoded clip to the class: colour order, rotation and crop are all in it."""
    monkeypatch.chdir(ROOT)
    code, out, err = run("video", "line_video", "--video", str(CLIPS / clip), "--validate-torch", *options)
    assert code == 0, err
    decided = re.findall(r"^\S+#\d+: probs (\w+) \(", out, re.M)
    labels = json.loads((CLIPS / clip).with_suffix(".json").read_text())["labels"]
    assert len(decided) == len(labels)
    assert np.mean([a == b for a, b in zip(decided, labels, strict=True)]) >= 0.8
    assert "run by" not in out


def test_frames_are_chosen_compared_and_saved_and_a_wrong_file_fails(project, run):
    golden = ["--target", "onnx", "--precision", "fp32"]
    code, out, err = run("video", "tiny", "--video", PORTRAIT, *golden, "--compare", "--stride", "5", "--max-frames",
                         "4", "--save-debug-frames", "plain")  # fmt: skip
    assert code == 0, err
    assert out.startswith("Python ") and "torch " in out.splitlines()[0]
    assert "portrait.mp4: 4 of 36 frames, 128 x 176, 12 a second" in out
    assert "tiny-onnx-fp32: run by onnxruntime" in out
    assert frames_of(out) == [0, 5, 10, 15]
    assert "all 4 frames inside the limits" in out and "worst frame: portrait.mp4#" in out
    assert "resizing by OpenCV instead of Pillow" in out
    saved = sorted(p.name for p in Path("plain").iterdir())
    assert saved == [f"portrait_{n:05d}.png" for n in (0, 5, 10, 15)]
    # The same frame turned, and cropped from either end of what is then its height.
    whole = np.asarray(Image.open("plain/portrait_00000.png"))
    assert whole.shape == (176, 128, 3)
    for folder, options, want in (
        ("turned", ["--rotate", "270"], np.rot90(whole, 1)),
        ("bottom", ["--crop-from", "bottom"], whole[48:]),
        ("both", ["--rotate", "180", "--crop-from", "top"], np.rot90(whole, 2)[:128]),
    ):
        code, out, err = run("video", "tiny", "--video", PORTRAIT, "--validate-torch", "--max-frames", "1",
                             "--save-debug-frames", folder, *options)  # fmt: skip
        assert code == 0, err
        assert frames_of(out) == [0]
        assert np.array_equal(np.asarray(Image.open(f"{folder}/portrait_00000.png")), want)
    # The file of other weights than the model's.
    assert run("export", "tiny", "--no-verify")[0] == 0
    (project / "models.py").write_text((project / "models.py").read_text().replace("manual_seed(1)", "manual_seed(3)"))
    (project / "pyproject.toml").write_text(CONFIG + 'artifacts = { "onnx-fp32" = "exports/tiny.onnx" }\n')
    code, out, _ = run("video", "tiny", "--video", PORTRAIT, *golden, "--max-frames", "2")
    assert code == 1
    assert "OUTSIDE: " in out and "checks outside their limits" in out


@pytest.mark.nightly
def test_core_ml_alone_runs_its_file_and_no_model(project, run):
    code, out, err = run("video", "tiny", "--video", PORTRAIT, "--coreml", "--max-frames", "2")
    assert code == 0, err
    assert "tiny-coreml-fp16: run by" in out
    assert frames_of(out) == [0, 1]
    assert "file " not in out.split("run by")[1]  # nothing to compare with


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [(["--coreml", "--target", "onnx"], 2, ["--coreml runs the Core ML file alone"]),
     (["--coreml", "--compare"], 2, ["not allowed with argument"]),
     (["--rotate", "45"], 2, ["--rotate", "invalid choice"]),
     (["--crop-from", "left"], 2, ["--crop-from"]),
     (["--max-frames", "0"], 2, ["at least 1"]),
     (["--target", "onnxx"], 2, ["did you mean 'onnx'"])],
)  # fmt: skip
def test_a_mistake_is_one_line(project, run, options, code, words):
    found, _, err = run("video", "tiny", "--video", PORTRAIT, *options)
    assert found == code
    one_line(err, *words)
