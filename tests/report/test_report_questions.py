"""Questions that users bring to a report: each has its answer in sight, unfolded, within two clicks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Page

pytestmark = pytest.mark.slow

INT8 = "#skin-tflite-int8"
QUESTIONS = {
    "what blocks the release": ((), ".lead", "6 of 15 cells block the release"),
    "which cells are they": ((), ".blocks", "hand-coreml-fp16"),
    "what does the worst frame look like": (
        (".blocks a[href='#hand-onnx-fp16']",),
        "#hand-onnx-fp16 .look",
        "input frame 96 × 96 reference mask",
    ),
    "which frame is worst": ((".blocks a[href='#hand-onnx-fp16']",), "#hand-onnx-fp16 .checks .x", "frame_084"),
    "what was the limit": ((f".blocks a[href='{INT8}']",), f"{INT8} .checks .x", "≤ 0.25"),
    "who set the limit": (
        (f".matrix a[href='{INT8}']",),
        f"{INT8} .checks",
        "pyproject.toml:31 [tool.parity.limits] int8",
    ),
    "how do I run it again": ((f".blocks a[href='{INT8}']",), f"{INT8} .rerun", "pytest -m parity -k"),
    "what changed": (("nav a[href='#p_changes']",), "#p_changes tbody", "regressed"),
    "how large is the int8 file": ((), ".figures", "246 kB"),
    "how large is it, in its section": ((f".matrix a[href='{INT8}']",), f"{INT8} .facts", "246 kB"),
    "which converter version": (("nav a[href='#p_environment']",), ".packages", "onnx2tf 1.29.24"),
    "was Core ML run": ((), ".verdict", "needs macOS to run"),
    "why was this cell skipped": ((".matrix a[href='#skin-coreml-fp16']",), "#skin-coreml-fp16 .reason", "needs macOS"),
    "would the gate have noticed a channel swap": (
        (f".matrix a[href='{INT8}']", f"{INT8} .faults summary"),
        f"{INT8} .faults",
        "✓ noticed 8 swap_rgb_bgr",
    ),
    "would the gate have noticed a lost bias": (
        (f".matrix a[href='{INT8}']",),
        f"{INT8} .says",
        "Not noticed bias_dropped",
    ),
    "what explains the failure": ((f".blocks a[href='{INT8}']",), f"{INT8} .says", "in BGR order"),
    "where in the network does it go wrong": (
        (f".blocks a[href='{INT8}']",),
        f"{INT8} .says",
        "First divergence net.stem.conv introduces 0.0213",
    ),
    "what do correct files have there": (
        (f".blocks a[href='{INT8}']",),
        f"{INT8} .checks",
        "correct exports: median",
    ),
    "which file was it, to the bit": ((f".blocks a[href='{INT8}']",), f"{INT8} .files", "sha256:"),
    "who made the file": ((f".blocks a[href='{INT8}']",), f"{INT8} .facts", "Route torch.onnx+onnx2tf"),
    "which other cases are bad": (
        (f".blocks a[href='{INT8}']", f"{INT8} .scroll ~ details:has(.cases) summary"),
        f"{INT8} table.cases",
        "hand_031",
    ),
    "why does this one pass although it is over its limit": (
        (".matrix a[href='#skin-onnx-int8']",),
        "#skin-onnx-int8 .reason",
        "accepted in #41 until 2027-01-31",
    ),
    "which waivers do not hold": (("nav a[href='#p_waivers']",), "#p_waivers tbody", "✗ expired skin-tflite-fp32"),
    "what does unavailable mean": (
        ("#s_unavailable a[href='#w_states_unavailable']",),
        "#w_states_unavailable",
        "cannot",
    ),
    "how was the whole run started": (("nav a[href='#p_environment']",), "#p_environment .rerun", "pytest -m parity"),
    "was it also executed on a device": (
        (".blocks a[href='#hand-onnx-fp16']",),
        "#hand-onnx-fp16",
        "Also executed by",
    ),
    "what does this metric mean": (
        (f".matrix a[href='{INT8}']", f"{INT8} .checks a[href='#w_metrics_cosine']"),
        "#w_metrics_cosine",
        "blind to scale",
    ),
}


def test_a_run_without_power_says_that_nobody_asked_what_the_gate_would_notice(
    page: Page, pages: Callable[[str], Path]
) -> None:
    page.open(pages("crashed"))
    page.click("nav a[href='#p_cells']")
    assert "was not measured in this run: add --parity-power" in page("document.querySelector('#p_cells').innerText")


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_two_clicks_away(page: Page, pages: Callable[[str], Path], question: str) -> None:
    clicks, place, answer = QUESTIONS[question]
    assert len(clicks) <= 2
    page.open(pages("failing"))
    for selector in clicks:
        assert page(f"document.querySelector(`{selector}`).checkVisibility()")
        page.click(selector)
    assert page(f"document.querySelector(`{place}`).checkVisibility()")
    assert answer in " ".join(page(f"document.querySelector(`{place}`).innerText").split())
    if clicks and "href=" in clicks[-1]:
        target = clicks[-1].split("href='")[1].split("'")[0]
        page("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page(f"document.querySelector(`{target}`).getBoundingClientRect().top < innerHeight")
