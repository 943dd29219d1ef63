"""What a record shows: the right cases, pictures of what was really there, and nothing that can break a run."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parity.core.case import Case
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.core.exhibits import Distribution, Exhibit, Picture, Spread
from parity.core.plan import Cell
from parity.core.record import Check, build
from parity.judging import judge
from parity.judging.floor import floor
from parity.judging.limits import Limit
from parity.suite import evidence, pictures

RNG = np.random.default_rng(1)
CONTRACT = Contract(
    (InputSpec("image", ("batch", 3, 32, 40)),), (OutputSpec("logits", "logits", ("a", "b", "c")), OutputSpec("mask")),
    Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
)  # fmt: skip


def decoded(picture: Picture | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.data))).convert("RGB"))


def test_a_photograph_is_the_picture_that_the_input_was_made_from() -> None:
    y, x = np.mgrid[0:64, 0:64]
    pixels = np.stack([x * 3, y * 3, 200 - x], -1).astype(np.float64)
    for how in (Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)), Preprocess(scale=1.0, color="BGR")):
        array = pixels[..., ::-1] if how.color == "BGR" else pixels
        array = (array / how.scale - np.asarray(how.mean)) / np.asarray(how.std)
        shown = decoded(pictures.photograph(array.transpose(2, 0, 1)[None].astype(np.float32), how))
        assert np.abs(shown.astype(float) - pixels).mean() < 6, "a JPEG of it"


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8), (1, 3, 1, 8), (1, 2, 4, 8, 8)])
def test_what_is_no_picture_is_not_shown_as_one(shape: tuple[int, ...]) -> None:
    assert pictures.photograph(np.zeros(shape, np.float32), None) is None


def test_one_wrong_element_of_a_million_is_seen_in_the_difference() -> None:
    moved = np.zeros((1000, 1000))
    moved[777, 333] = -1.0
    shown = decoded(pictures.difference_map(moved, 1.0, ""))
    assert max(shown.shape[:2]) <= pictures.LONGEST
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 2


def test_not_finite_has_a_colour_of_its_own() -> None:
    shown = decoded(pictures.value_map(np.array([[0.0, 1.0], [np.nan, np.inf]]), 0, 1, ""))
    assert [tuple(p) for p in shown[1]] == [(200, 0, 200)] * 2


def test_the_channels_that_moved_most_are_shown() -> None:
    moved = np.zeros((1, 9, 4, 4))
    moved[0, 7, 2, 2] = 3
    moved[0, 4, 0, 0] = np.nan
    assert set(pictures.channels(moved) or ()) >= {4, 7}


def outputs(case: int, error: float) -> dict[str, Any]:
    rng = np.random.default_rng(case)
    logits, mask = rng.normal(size=(1, 3)), rng.normal(size=(1, 1, 12, 12))
    return {"logits": logits + error, "mask": mask + error}


def gathered(errors: list[float], limit: float | None, kind: Any = "golden") -> dict[str, Any]:
    cases = [Case(f"c{i}", {"image": np.zeros((1, 3, 32, 40), np.float32)}, 1) for i in range(len(errors))]
    want, got = [outputs(i, 0.0) for i in range(len(errors))], [outputs(i, e) for i, e in enumerate(errors)]
    limits = {"rel_rms": Limit("rel_rms", limit, "a test")} if limit else {}
    checks: list[Check] = []
    for spec in CONTRACT.outputs:
        for case, g, w in zip(cases, got, want, strict=True):
            checks += judge.check_output(kind, case.id, spec, g[spec.name], w[spec.name], limits)
    return evidence.gather(kind, Cell("m", "tflite", "int8"), CONTRACT, cases, got, want, {}, checks)


def test_a_passing_cell_shows_its_worst_case_and_a_failing_one_the_three_worst_in_order() -> None:
    errors = [0.001, 0.1, 0.002, 2.5, 0.003, 0.5]
    assert [e["case"] for e in gathered(errors, 9.0)["exhibits"]] == ["c3"]
    assert [e["case"] for e in gathered(errors, 0.01)["exhibits"]] == ["c3", "c5", "c1"]
    assert [e["case"] for e in gathered(errors, 9.0, "video")["exhibits"]] == ["c3", "c5", "c1"]


def test_a_case_that_is_not_finite_is_the_worst_and_a_missing_output_is_no_error() -> None:
    shown = [build(Exhibit, e) for e in gathered([0.1, float("nan"), 0.2], 9.0)["exhibits"]]
    assert shown[0].case == "c1"
    cases = [Case("c0", {"image": np.zeros((1, 3, 32, 40), np.float32)})]
    checks = judge.check_output("golden", "c0", CONTRACT.outputs[0], None, np.zeros((1, 3)), {})
    found = evidence.gather(
        "golden", Cell("m", "onnx", "fp32"), CONTRACT, cases, [{}], [outputs(0, 0)], {}, checks
    )  # fmt: skip
    assert found["exhibits"][0]["want"] == found["distributions"] == []


def test_scores_are_told_by_class_and_maps_are_pictured_on_one_scale() -> None:
    for raw in gathered([0.1, 0.5], 0.01)["exhibits"]:
        shown = build(Exhibit, raw)
        assert shown.inputs[0].mime == "image/jpeg"
        if shown.output == "logits":
            assert shown.names == ("a", "b", "c")
            assert shown.got == pytest.approx([w + 0.1 + 0.4 * (shown.case == "c1") for w in shown.want])
        else:
            assert shown.reference and shown.artefact and shown.difference
            assert shown.reference.caption == shown.artefact.caption


def test_a_distribution_counts_every_element_once_and_carries_the_twin() -> None:
    want = [RNG.normal(size=(1, 50)) for _ in range(4)]
    got = [w + 1e-3 for w in want]
    got[0] = got[0].copy()
    got[0][0, :3] = want[0][0, :3]
    got[1] = got[1].copy()
    got[1][0, 0] = np.inf
    twin = [w * (1 + 1e-5) for w in want]
    found = evidence.distribution("golden", "o", got, want, floor(want, twin, "fp32"))
    assert found.elements == sum(found.artefact) + found.exact + found.nonfinite == 200
    assert (found.exact, found.nonfinite) == (3, 1)
    assert sum(found.twin) + found.twin_exact == 200
    middle = [i for i, n in enumerate(found.artefact) if n]
    assert len(middle) == 1, "one size of error is one bin"
    assert 10 ** (found.first + middle[0] * found.step) <= 1e-3 / found.magnitude
    assert 10 ** (found.first + (middle[0] + 1) * found.step) >= 1e-3 / found.magnitude


def test_the_natural_spread_is_the_measured_one_and_absent_where_nobody_measured() -> None:
    found = {s.metric: s for s in evidence.spreads("tflite", "int8")}
    assert set(found) == {"noise_ratio", "noise_ratio_case", "noise_ratio_channel", "noise_ratio_peak"}
    assert all(s.median <= s.p95 <= s.largest and s.count > 1 for s in found.values())
    assert evidence.spreads("nothing", "int8") == ()


SHAPES = st.lists(st.sampled_from([1, 2, 3, 7, 40]), min_size=0, max_size=5).map(tuple)


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    SHAPES,
    st.sampled_from(["float32", "float16", "int32", "bool"]),
    st.sampled_from([0.0, 1e30, float("nan")]),
)
def test_no_shape_or_value_breaks_it(inputs: Any, outputs: Any, dtype: str, odd: float) -> None:
    contract = Contract((InputSpec("x", inputs, dtype),), (OutputSpec("y", "logits"), OutputSpec("z")), None)
    x = np.ones(inputs, dtype)
    want = RNG.normal(size=outputs)
    got = (want + np.where(RNG.random(outputs) < 0.1, odd, 0.0)).astype(np.float32)
    checks = []
    for spec in contract.outputs:
        checks += judge.check_output("golden", "c", spec, got, want, {})
    row, wanted = {"y": got, "z": got}, {"y": want, "z": want}
    with np.errstate(all="ignore"):
        found = evidence.gather(
            "golden", Cell("m", "onnx", "fp32"), contract, [Case("c", {"x": x})], [row], [wanted], {}, checks
        )
    for name, kind in (("exhibits", Exhibit), ("distributions", Distribution), ("natural", Spread)):
        for value in found[name]:
            build(kind, value)
