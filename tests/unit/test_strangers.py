"""The strangers: the committed list holds to its rules, and the judge by hand tells right files from wrong ones."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from research.strangers import data, lines, project, table
from research.strangers.__main__ import chosen
from research.strangers.by_hand import rounding, verdict
from research.strangers.lines import Line
from research.strangers.suite import HERE, LONGEST, public_files, strangers

ROOT = HERE.parents[1]


def test_the_list_is_as_long_as_promised_and_a_third_of_it_is_held_back() -> None:
    suite = strangers()
    held = sum(s.held_back for s in suite)
    assert len(suite) >= 40
    assert len(suite) // 4 < held <= len(suite) * 0.4
    assert max(s.table.count("\n") for s in suite) <= LONGEST
    assert len(public_files()) >= 12


def test_every_factory_is_there_and_every_input_can_be_drawn() -> None:
    for stranger in strangers():
        module, _, name = stranger.settings["factory"].partition(":")
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for spec in stranger.settings["inputs"]:
            value = data._drawn(spec, stranger.settings.get("dims", {}), np.random.default_rng(0))
            assert value.ndim == len(spec["shape"])
            low, high = spec.get("range", (-np.inf, np.inf))
            assert value.min() >= low
            assert value.max() <= high


def test_siblings_are_files_of_the_list() -> None:
    files = {file.name: file for file in public_files()}
    assert {s for file in files.values() for s in file.siblings} <= set(files)


def test_the_judge_by_hand_has_no_line_of_parity() -> None:
    for file in sorted((HERE / "by_hand").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "parity"], file


def test_a_shard_takes_every_nth_name() -> None:
    assert chosen(list("abcde"), "", "2/2") == ["b", "d"]
    assert chosen(list("abcde"), "d,a", "1/1") == ["d", "a"]
    with pytest.raises(SystemExit, match="not in the list: z"):
        chosen(list("abcde"), "z", "1/1")


def test_scores_that_one_scale_with_pixels_made_0_are_not_called_right() -> None:
    rng = np.random.default_rng(0)
    want = [np.concatenate([rng.uniform(0, 640, (1, 4, 50)), rng.uniform(0, 1, (1, 2, 50))], 1) for _ in range(4)]
    step = 640 / 255
    got = [np.round(w / (2 * step)) * (2 * step) for w in want]
    assert verdict.judge("int8", got, want, want, [[w + rng.normal(0, step, w.shape) for w in want]]).state == (
        "cannot say"
    )
    assert verdict.lost_columns(got, want) == [4, 5]
    assert verdict.lost_columns(want, want) == []


def test_scores_that_one_scale_left_two_numbers_are_not_called_right() -> None:
    """A step of 0.9: a score is 0 or 0.9."""
    rng = np.random.default_rng(0)
    want = [np.concatenate([rng.uniform(0, 220, (1, 4, 50)), rng.uniform(0, 1, (1, 2, 50))], 1) for _ in range(4)]
    got = [np.round(w / 0.9) * 0.9 for w in want]
    assert {float(v) for g in got for v in g[:, 4:].ravel()} == {0.0, 0.9}
    hand = [[w + rng.normal(0, 0.9, w.shape) for w in want]]
    assert verdict.judge("int8", got, want, want, hand).state == "cannot say"
    masks = [(w > 0.5).astype(np.float64) for w in want]  # what the module itself has two of is not lost
    assert verdict.lost_columns(masks, masks) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic", "int8"])
def test_a_file_as_good_as_the_precision_is_right_and_a_changed_one_is_wrong(precision: str) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
    cases = [{"x": np.random.default_rng(i).standard_normal((1, 12)).astype(np.float32)} for i in range(6)]
    single = _first(rounding.outputs(module, cases, ["x"], torch.float32))
    want = _first(rounding.outputs(module.double(), cases, ["x"], torch.float64))
    hand = [_first(outputs) for outputs in rounding.by_hand(module, precision, cases, cases, ["x"])]
    right = hand[-1] if hand else single
    assert verdict.judge(precision, right, want, single, hand).state == "right"
    swapped = [r[:, [1, 0, 2, 3, 4]] for r in right]
    assert verdict.judge(precision, swapped, want, single, hand).state == "wrong"
    lost = [np.full_like(r, np.nan) for r in right]
    assert verdict.judge(precision, lost, want, single, hand).state == "wrong"


def _first(outputs: list[list[Any]]) -> list[Any]:
    return [case[0] for case in outputs]


def test_where_the_precision_costs_half_the_output_nothing_is_said() -> None:
    want = [np.linspace(-1, 1, 9)[None]]
    hand = [[w + 0.4 * np.sign(w + 0.01) for w in want]]
    assert verdict.judge("int8", [want[0] * 0.2], want, want, hand).state == "cannot say"


def test_channels_last_outputs_are_turned_and_other_shapes_are_wrong() -> None:
    want = [np.random.default_rng(0).standard_normal((1, 3, 4, 5))]
    assert verdict.judge("fp32", [np.moveaxis(want[0], 1, -1)], want, want, []).state == "right"
    assert verdict.judge("fp32", [want[0][:, :, :, :4]], want, want, []).state == "wrong"


def test_rows_of_a_set_may_come_in_another_order() -> None:
    rng = np.random.default_rng(0)
    want = [[rng.standard_normal((1, 6, 4)), rng.random((1, 6))]]
    order = rng.permutation(6)
    mixed = [[value[:, order] for value in want[0]]]
    assert verdict.as_sets(mixed, want)[0][0] == pytest.approx(want[0][0])


def line(cell: str, state: str, judged: str, **more: Any) -> Line:
    model, target, precision = cell.split("-")
    given = {"reason": "r", "stage": "", "file": True, "why": "w", "seconds": 1.0, **more}
    return Line(model, cell, target, precision, state, verdict=judged, **given)


def test_the_summary_counts_refused_right_files_and_keeps_core_ml_apart(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    lines.write(file, [line("a-onnx-fp32", "fail", "right"), line("a-onnx-fp32", "pass", "right")])
    lines.write(file, [line("a-tflite-fp32", "error", "right"), line("a-coreml-fp32", "fail", "cannot say")])
    lines.write(file, [line("a-ncnn-fp32", "pass", "wrong"), line("a-onnx-fp16", "error", "", file=False)])
    text = table.summary(lines.read([file]))
    assert "Right files refused: 1 of 2 (50.0%)." in text
    assert "## wrong, passed: 1" in text
    assert "| no file | 1 |" in text
    assert "Core ML, not run by hand\n\n1 cells of 1 models." in text


def test_what_was_measured_of_another_architecture_is_not_taken(tmp_path: Path) -> None:
    stranger = next(s for s in strangers() if s.name == "temporal")
    project.write(stranger, tmp_path, ("onnx",), ("fp32",))
    assert project.earlier(stranger, tmp_path) is None
    (tmp_path / project.ENDED).write_text('{"code": 0, "seconds": 1.0}', encoding="utf-8")
    (tmp_path / "log.txt").touch()
    assert project.earlier(stranger, tmp_path) == project.Run(None, 0, 1.0, "")
    assert project.earlier(replace(stranger, table=stranger.table + "opset = 18\n"), tmp_path) is None


def test_a_cell_that_was_not_reached_in_time_is_no_refusal() -> None:
    assert line("a-onnx-fp32", "missing", "right", reason="golden: no case").outcome == "right, refused"
    assert line("a-onnx-fp32", "missing", "right", reason=lines.OUT_OF_TIME + " than 9 s").outcome == "out of time"


def test_a_file_is_judged_in_a_process_of_its_own(tmp_path: Path) -> None:
    """A real project: a module, its right TorchScript file, and one whose weights were changed."""
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef net():\n    torch.manual_seed(0)\n    return torch.nn.Linear(4, 3).eval()\n",
        encoding="utf-8",
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.parity.models.net]\nfactory = "net:net"\ninputs = [{ name = "x" }]\noutputs = [{ name = "y" }]\n'
        'golden = "golden"\ncalibration = "golden"\n',
        encoding="utf-8",
    )
    (tmp_path / "golden").mkdir()
    for i in range(3):
        values = np.random.default_rng(i).standard_normal((1, 4)).astype(np.float32)
        np.savez(tmp_path / "golden" / f"{i}.npz", x=values)
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3).eval()
    cells = []
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
        torch.jit.trace(module, torch.zeros(1, 4)).save(str(tmp_path / name / "model.pt"))
        cells.append({"cell": name, "target": "torchscript", "precision": "fp32", "folder": str(tmp_path / name)})
        module.weight.data *= 1.01
    done = subprocess.run(
        [sys.executable, "-m", "research.strangers.by_hand", str(tmp_path), "net"],
        input=json.dumps(cells), capture_output=True, text=True, check=True, cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin"},
    )  # fmt: skip
    told = {said["cell"]: said["state"] for said in map(json.loads, done.stdout.splitlines())}
    assert told == {"right": "right", "wrong": "wrong"}
