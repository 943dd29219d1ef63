"""The one judge: what it makes of outputs, and that outputs as they were computed are none that it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import parity
from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.core.record import Check
from parity.judging.check_cases import check_cases, check_labels, comparable
from parity.judging.floor import floors
from parity.judging.limits import Limit, fallback
from parity.judging.post_processing import PostProcessed, post_process, post_process_all

ROOT = Path(__file__).parents[2]
SCORES = [np.array([[1.0, 3.0, 2.0]]), np.array([[5.0, 1.0, 0.0]])]
ROWS = [{"y": scores} for scores in SCORES]
CASES = ("a", "b")
FALLBACK = fallback("fp32")


def made(
    spec: OutputSpec, rows: list[dict[str, np.ndarray]], twin: bool = True, **limits: float
) -> tuple[list[Check], list[PostProcessed], list[PostProcessed]]:
    """The checks of `rows` against ROWS, both post-processed; the twin is off by 1e-6."""
    specs = [spec]
    oracle = [post_process(specs, row) for row in ROWS]
    noisy = post_process_all(specs, [{"y": row["y"] * (1 + 1e-6)} for row in ROWS], oracle)
    costs = floors(oracle, noisy, "fp32", specs) if twin else {}
    in_force = {"y": {metric: Limit(metric, value, "test") for metric, value in limits.items()}}
    judged = check_cases("golden", specs, CASES, rows, oracle, costs, in_force, FALLBACK)
    return list(judged.checks), list(judged.outputs), oracle


def limits_of(checks: list[Check], metric: str) -> set[float | None]:
    return {check.limit for check in checks if check.metric == metric}


def test_what_has_no_floor_is_held_to_the_fallback_and_what_has_one_is_not() -> None:
    scores, indices = OutputSpec("y"), OutputSpec("y", post="argmax")
    assert limits_of(made(scores, ROWS)[0], "rel_rms") == {None}
    assert limits_of(made(scores, ROWS, twin=False)[0], "rel_rms") == {FALLBACK.value}
    assert limits_of(made(indices, ROWS)[0], "rel_rms") == {None}  # an error of indices has no size
    assert limits_of(made(indices, ROWS, rel_rms=0.5)[0], "rel_rms") == {0.5}


def test_only_what_post_processing_leaves_is_compared() -> None:
    scaled = [{"y": row["y"] * 0.97} for row in ROWS]
    checks, outputs, _ = made(OutputSpec("y", post="argmax"), scaled)
    assert all(check.passed for check in checks)
    assert [row.outputs["y"].tolist() for row in outputs] == [[1], [0]]
    assert not all(check.passed for check in made(OutputSpec("y"), scaled, noise_ratio=4.0)[0])


def test_decisions_and_accuracy_of_indices_are_those_of_the_scores_behind_them() -> None:
    labels = ("p", "q", "r")
    swapped = [{"y": row["y"][:, [1, 0, 2]]} for row in ROWS]
    for rows, share in ((ROWS, 1.0), (swapped, 0.0), ([ROWS[0], swapped[1]], 0.5)):
        figures = []
        for post in (None, "softmax", "argmax"):
            spec = OutputSpec("y", "logits", labels, post)
            checks, outputs, oracle = made(spec, rows)
            checks += check_labels([spec], [1, None], outputs, oracle, {})
            chosen = [c for c in checks if c.metric in ("top1", "top1_drop", "top1_accuracy")]
            figures.append([(c.metric, c.value, c.bound) for c in chosen])
            assert [c.value for c in chosen if c.metric == "top1"] == [share]
        assert figures[0] == figures[1] == figures[2]


def test_an_output_that_is_missing_or_misshapen_fails_by_case_and_makes_no_figure_over_all() -> None:
    for lost in ({}, {"y": np.ones((1, 2))}):
        checks, outputs, oracle = made(OutputSpec("y", "logits"), [ROWS[0], lost])
        assert not comparable("y", outputs, oracle)
        assert {check.case for check in checks if check.value is None} == {"b"}
        assert "all" not in {check.case for check in checks}
        assert check_labels([OutputSpec("y", "logits", ("p", "q", "r"))], [0, 1], outputs, oracle, {}) == []


def test_labels_that_do_not_fit_are_an_error_of_the_declaration() -> None:
    with pytest.raises(ParityError, match="2 labels are declared for 3 classes"):
        made(OutputSpec("y", "logits", ("p", "q")), ROWS)


SNIPPET = """
from collections.abc import Mapping, Sequence
from parity.core.case import Array
from parity.core.contract import OutputSpec
from parity.judging.check_cases import check_cases, check_labels
from parity.judging.floor import floors
from parity.judging.limits import Limit
from parity.judging.post_processing import PostProcessed, post_process

def judge(
    specs: Sequence[OutputSpec], raw: Sequence[Mapping[str, Array]], done: Sequence[PostProcessed], limit: Limit
) -> None:
    {line}
"""
RIGHT = (
    'check_cases("golden", specs, ["a"], raw, done, floors(done, done, "fp32", specs), {}, limit)',
    "check_labels(specs, [0], done, done, {})",
    "post_process(specs, raw[0], done[0])",
)
WRONG = (
    'check_cases("golden", specs, ["a"], raw, raw, {}, {}, limit)',
    'check_cases("golden", specs, ["a"], done, done, {}, {}, limit)',
    "check_labels(specs, [0], raw, done, {})",
    'floors(raw, done, "fp32", specs)',
    "post_process(specs, done[0])",
    "post_process(specs, raw[0], raw[0])",
)


def test_a_type_checker_refuses_raw_outputs_in_place_of_post_processed_ones(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    lines = (*RIGHT, *WRONG)
    for number, line in enumerate(lines):
        (tmp_path / f"line{number}.py").write_text(SNIPPET.format(line=line))
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    done = subprocess.run(
        [*command, f"--cache-dir={tmp_path / 'cache'}", *(f"line{n}.py" for n in range(len(lines)))],
        cwd=tmp_path,
        env={"PATH": "", "MYPYPATH": str(Path(parity.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    refused = {line.partition(":")[0] for line in done.stdout.splitlines() if "error:" in line}
    assert refused == {f"line{n}.py" for n in range(len(RIGHT), len(lines))}, done.stdout + done.stderr
    assert "PostProcessed" in done.stdout


def test_nothing_but_post_processing_makes_outputs_that_pass_for_post_processed() -> None:
    makers = [p.name for p in (ROOT / "parity").rglob("*.py") if "PostProcessed(" in p.read_text(encoding="utf-8")]
    assert makers == ["post_processing.py"]
