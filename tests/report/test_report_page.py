"""The page of a run: what is on it, in which order, and that nothing in a record can change what it is."""

from __future__ import annotations

import ast
import base64
import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import records
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reading import cells, read, shape, unescaped

from parity.core.record import CellRecord, Divergence, Drift, Explanation, Finding, RunRecord, dumps, loads
from parity.report import markdown, render
from parity.report.glossary import KIND_WORDS, METRIC_WORDS, STATE_ORDER
from parity.report.text import visible

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"


def frozen(name: str, text: str) -> None:
    """Compare with a kept file; `PARITY_UPDATE_GOLDEN=1` writes it, deliberately."""
    path = GOLDEN / name
    if os.environ.get("PARITY_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{name} changed; PARITY_UPDATE_GOLDEN=1 keeps the new text"


def body(page: str) -> str:
    """The part of a page that depends on the record."""
    return page[page.index("<main>") : page.index('<section id="p_words">')]


def test_the_page_of_a_record_is_kept_byte_for_byte() -> None:
    frozen("crashed.html", body(render(records.crashed())) + "\n")


def test_another_process_with_another_hash_seed_writes_the_same_bytes() -> None:
    script = "import hashlib, records; from parity.report import *; r = records.failing();"
    script += "print(hashlib.sha256((render(r) + markdown(r)).encode()).hexdigest())"
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = records.failing()
    assert found == {hashlib.sha256((render(here) + markdown(here)).encode()).hexdigest() + "\n"}


@pytest.mark.parametrize("name", ["passing", "failing", "crashed"])
def test_a_record_read_back_from_json_gives_the_same_page(name: str) -> None:
    record = getattr(records, name)()
    assert render(loads(dumps(record))) == render(record)


def test_the_parts_come_in_the_promised_order() -> None:
    page = render(records.failing())
    ids = re.findall(r'<section id="(p_\w+)"', page)
    assert ids == ["p_verdict", "p_matrix", "p_changes", "p_cells", "p_waivers", "p_environment", "p_words"]


def test_every_state_is_visible_in_matrix_and_sections_and_failing_comes_first() -> None:
    page = render(records.failing())
    tree = read(page)
    found = [state for _, state, _ in cells(tree)]
    assert set(found) == set(STATE_ORDER)
    assert found == sorted(found, key=STATE_ORDER.index)
    for section in tree.all("section", class_="cell"):
        assert "hidden" not in section.attrs
        assert section.one("h4").one("span", class_="word").text.startswith(section.attrs["data-state"])
    slots = tree.one("table", class_="matrix").all("a")
    assert sorted(slot.one("b").text for slot in slots) == sorted(found)
    for slot in slots:
        assert slot.one("use").attrs["href"] == "#g-" + slot.one("b").text, "a glyph beside the word"


def test_the_matrix_shows_the_share_of_the_tightest_limit_and_links_to_the_section() -> None:
    record = records.failing()
    tree = read(render(record))
    slots = {slot.attrs["href"][1:]: slot.one("span").text for slot in tree.one("table", class_="matrix").all("a")}
    assert set(slots) == {cell.id for cell in record.cells} == {anchor for _, _, anchor in cells(tree)}
    for cell in record.cells:
        shares = [share for check in cell.checks if (share := check.share()) is not None]
        if shares:
            assert abs(int(slots[cell.id].rstrip(" %")) - 100 * max(shares)) <= 1
        else:
            assert slots[cell.id] == ""


def test_models_with_the_worst_cells_come_first_and_unplanned_slots_say_so() -> None:
    tree = read(render(records.run([records.cell("good-onnx-fp32"), records.cell("bad-tflite-fp16", "crash")])))
    table = tree.one("table", class_="matrix")
    assert [row.one("b").text for row in table.all("tr", class_="model")] == ["bad", "good"]
    assert [slot.text for slot in table.all("td", class_="none")] == ["–", "–"]


def test_a_check_shows_value_limit_headroom_worst_case_and_who_set_the_limit() -> None:
    points = [
        records.check("max_abs", value, 0.5, case=case, source="pyproject.toml:34", detail=f"element [{case}]")
        for case, value in (("a", 0.1), ("b", 0.75), ("c", 0.3))
    ]
    tree = read(render(records.run([records.cell(state="fail", checks=tuple(points))])))
    row = tree.one("table", class_="checks").all("tr", class_="x")[0]
    texts = [cell.text.strip() for cell in row.all("td")]
    assert texts[:3] == ["✗ 0.75", "≤ 0.5", "150 % of limit"]
    assert texts[4:] == ["b · element [b] · 1 of 3 outside", "pyproject.toml:34"]
    assert row.one("title").text == "3 cases, median 60 %, worst 150 % of the limit, 1 outside"
    lines = tree.one("table", class_="cases").one("tbody").all("tr")
    assert [line.one("th").text.strip() for line in lines] == ["b", "c", "a"], "worst first"


def test_what_was_not_measured_is_said() -> None:
    lost = records.check(value=None, nonfinite=7)
    record = records.run([records.cell(state="fail", checks=(lost,), planned=("golden", "video"))])
    text = read(render(record)).one("section", class_="cell").text
    assert "Planned and not measured: golden, video." in text
    assert "✗ not finite" in text
    assert "7 not finite" in text


def test_a_failed_check_never_reads_as_inside_its_limit() -> None:
    zero = records.check("decision_flips", 3.0, 0.0)
    assert zero.share() == 1.0
    tree = read(render(records.run([records.cell(state="fail", checks=(zero,))])))
    assert tree.one("table", class_="matrix").one("a").one("span").text == "over"
    close = records.check("cosine", 0.98999999, 0.99)
    row = read(render(records.run([records.cell(state="fail", checks=(close,))]))).one("table", class_="checks")
    value, limit = (cell.text.strip() for cell in row.all("td")[:2])
    assert value.removeprefix("✗ ") != limit.removeprefix("≥ ")


def test_a_value_beside_non_finite_elements_is_not_called_over_its_limit() -> None:
    lost = records.check("max_abs", 0.1, 0.5, nonfinite=3, passed=False)
    tree = read(render(records.run([records.cell(state="fail", checks=(lost,))])))
    assert tree.one("table", class_="matrix").one("a").one("span").text == "not finite"
    assert "3 not finite" in tree.one("table", class_="checks").text


def test_a_fact_holds_or_not_and_has_no_share() -> None:
    facts = (
        records.check("present", 1.0, 1.0, sense="min", kind="contract"),
        records.check("flex_ops", 0.0, 0.0, kind="contract"),
        records.check("dtype", 0.0, 1.0, sense="min", kind="contract"),
    )
    tree = read(render(records.run([records.cell(state="fail", checks=facts)])))
    rows = tree.one("table", class_="checks").all("tr")[2:]
    assert [row.all("td")[2].text for row in rows] == ["over the limit", "holds", "holds"], "what fails stands on top"
    assert tree.one("table", class_="checks").all("svg") == []


def test_a_required_cell_that_is_unavailable_blocks_and_an_optional_one_does_not() -> None:
    cells = [records.cell("a-coreml-fp16", "unavailable", required=True), records.cell("b-coreml-fp16", "unavailable")]
    record = records.run(cells, "incomplete")
    blocking = read(render(record)).one("ul", class_="blocks").all("li")
    assert [(row.one("a").text, row.one("span").text) for row in blocking] == [
        ("a-coreml-fp16", "required, unavailable")
    ]
    assert "### Blocking (1)" in markdown(record)


def test_all_cases_of_a_small_run_are_listed_under_the_checks() -> None:
    tree = read(render(records.run([records.cell(f"m{i}-onnx-fp32", cases=48) for i in range(20)])))
    for table in tree.all("table", class_="cases"):
        assert len(table.one("tbody").all("tr")) == 48


def test_size_and_latency_stand_against_fp32_of_the_same_target() -> None:
    tree = read(render(records.passing()))
    cell = tree.one("section", id="skin-tflite-int8")
    facts = {div.one("dt").text: div.one("dd").text for div in cell.one("dl").all("div")}
    assert facts["Size"] == "246 kB 0.27× fp32"
    assert facts["Latency"] == "2.08 ms 0.48× fp32"
    first = tree.one("section", id="skin-tflite-fp32")
    assert "fp32" not in {d.one("dt").text: d.one("dd").text for d in first.one("dl").all("div")}["Size"]


def test_diagnosis_power_divergence_findings_and_rerun_are_told() -> None:
    text = read(render(records.failing())).one("section", id="skin-tflite-int8").text
    for part in (
        "The file behaves as if the channels were in BGR order. swap_rgb_bgr explains 99 % of the error",
        "net.stem.conv introduces 0.0213",
        "22 of 30 faults noticed",
        "bias_dropped, zero_point_off_by_one",
        "The golden pictures use 61 % of the calibrated range.",
        "litert: needs an interpreter of its own",
        "pytest -m parity -k 'test_golden[skin-tflite-int8]'",
        hashlib.sha256(b"skin-tflite-int8").hexdigest(),
    ):
        assert part in text


def test_the_policy_admits_the_pages_own_style_and_script_and_nothing_else() -> None:
    page = render(records.failing())
    policy = read(page).one("meta", http_equiv="Content-Security-Policy").attrs["content"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "").replace("http%3A//www.w3.org", "")
    assert "https://" not in page
    assert not re.search(r"<[^>]* (style|on\w+)=", page), "no inline style and no handler"


def test_every_link_inside_the_page_has_its_target_and_no_id_is_used_twice() -> None:
    for name in ("passing", "failing", "crashed", "hostile"):
        tree = read(render(getattr(records, name)()))
        ids = [node.attrs["id"] for node in tree.all() if "id" in node.attrs]
        assert len(ids) == len(set(ids))
        links = {node.attrs["href"] for node in tree.all("a") + tree.all("use")}
        assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
        assert all(link.startswith("#") for link in links)


def test_cells_with_the_same_or_an_unplain_id_keep_separate_anchors() -> None:
    ids = ["skin-onnx-fp32", "skin-onnx-fp32", "p_cells", "a b-c", "a  b-c", ""]
    record = records.run([dataclasses.replace(records.cell(), id=id) for id in ids])
    anchors = [anchor for _, _, anchor in cells(read(render(record)))]
    assert len(set(anchors)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z][\w.~-]*-[\w.~-]+", anchor) for anchor in anchors)


def test_hostile_text_is_shown_and_stays_text() -> None:
    page = render(records.hostile())
    benign = render(records.full_of(*(f"benign{i}" * 9 for i in range(len(records.HOSTILE)))))
    assert Counter(shape(page)) == Counter(shape(benign))
    assert page.count("<script>") == page.count("</script>") == 1
    text = read(page).one("main").text
    for part in ("<script>alert(1)</script>", "null␀byte ␛[31mred␛[0m ‹U+0085› ‹U+D800›", "‹U+202E›gnp.exe"):
        assert part in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    page.encode("utf-8")


def test_a_log_keeps_its_lines_and_shows_its_escapes() -> None:
    record = records.run([records.cell(state="crash", log="one\n\ttwo \x1b[1m<b>\r\n")])
    assert read(render(record)).one("pre").text == "one\n\ttwo ␛[1m<b>␍\n"


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec=None), min_size=1, max_size=60))
def test_no_text_changes_the_shape_of_the_page(text: str) -> None:
    assume(text not in {**METRIC_WORDS, **KIND_WORDS})  # a known word is a link to its meaning
    assert shape(render(records.full_of(text))) == shape(render(records.full_of("x" * len(text))))


_STATES = st.sampled_from(STATE_ORDER)
_IDS = st.text(st.characters(codec=None), max_size=40)


@st.composite
def _runs(draw: st.DrawFn) -> RunRecord:
    found: list[CellRecord] = []
    for index in range(draw(st.integers(0, 6))):
        found.append(
            dataclasses.replace(records.cell("m-onnx-fp32", draw(_STATES), cases=1), id=f"{index}{draw(_IDS)}")
        )
    return records.run(found, draw(st.sampled_from(("pass", "fail", "incomplete", "partial"))))


@settings(max_examples=60, deadline=None)
@given(_runs())
def test_page_and_summary_say_the_verdict_and_the_states_of_the_record(record: RunRecord) -> None:
    tree = read(render(record))
    assert tree.one("html").attrs["data-verdict"] == record.verdict
    assert tree.one("h1").text.lower() == record.verdict
    told = sorted((visible(cell.id), cell.state) for cell in record.cells)
    assert sorted((id, state) for id, state, _ in cells(tree)) == told
    text = markdown(record)
    assert text.splitlines()[0].endswith(f"Parity: {record.verdict}")
    lines = re.findall(r"^- \S+ \*\*(.*)\*\* (\w+): ", text, re.MULTILINE)
    blocking = ("fail", "crash", "error", "timeout")
    wanted = [pair for pair in told if pair[1] in (*blocking, "unavailable", "waived")]
    wanted += [pair for pair in told if pair[1] == "missing"] * 2
    assert sorted((unescaped(id), state) for id, state in lines) == sorted(wanted)


@pytest.fixture(scope="module")
def large() -> RunRecord:
    return records.large()


def test_five_hundred_cells_stay_small_quick_and_complete(large: RunRecord) -> None:
    page = render(large)  # how fast: benchmarks/report.py
    assert len(page.encode()) <= 3_000_000
    assert page.count('<section class="cell ') == 500
    assert "The other " in page
    assert "are in parity.json" in page


def test_a_page_that_would_grow_too_large_lists_less_of_each_cell() -> None:
    wide = [
        check
        for output in range(8)
        for kind in ("golden", "property")
        for check in records.checks("x", 3, kind=kind, output=f"o{output}")
    ]
    worst = records.check("max_abs", 9.0, 0.5, case="the_worst", output="o7")
    noisy = [
        records.cell(f"m{i}-onnx-fp32", "fail", checks=(*wide, worst), log="x" * 30_000, reason="r" * 5000)
        for i in range(500)
    ]
    page = render(records.run(noisy))
    assert len(page.encode()) <= 3_000_000
    assert page.count("the_worst") >= 500, "what is worst is always listed"
    assert "more rows" in page


def test_every_metric_and_kind_of_check_is_taught() -> None:
    from parity.core.kinds import KINDS
    from parity.judging.registry import METRICS

    assert set(METRICS) <= set(METRIC_WORDS)
    assert [kind.name for kind in KINDS] == [*KIND_WORDS]


def test_the_report_imports_the_record_and_jinja2_and_nothing_heavier() -> None:
    import parity.report

    allowed = {*sys.stdlib_module_names, "jinja2", "markupsafe"}
    light = ("parity.report", "parity.core", "parity.judging", "parity.store", "parity.formats")
    for path in Path(parity.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                ours = name.startswith(light)
                assert ours or name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_a_finding_of_many_lines_keeps_them_and_one_that_repeats_the_diagnosis_is_said_once() -> None:
    said = "behaves as if the channels were in BGR order"
    found = (Finding(f"diagnosis: {said}"), Finding("simplest failing input: impulse\nimport numpy as np\nprint(<1>)"))
    one = records.cell(state="fail", diagnosis=(Explanation("swap_rgb_bgr", 0.99, said),), findings=found)
    section = read(render(records.run([one]))).one("ul", class_="says")
    assert section.text.count(said) == 1
    assert "Note simplest failing input: impulse" in section.text
    assert section.one("pre").text == "import numpy as np\nprint(<1>)"


def test_the_first_divergence_is_said_once_and_marked_at_its_own_tensor() -> None:
    curve = [Drift("net.relu", 1.8, 1e-7, tensor="conv_out"), Drift("net.relu", 1.2, 1e-7, tensor="relu_out")]
    first = Divergence("net.conv", 1.8, "net.py:16", "Conv", "conv_out", allowed=5e-6)
    found = (Finding("first divergence: net.conv (net.py:16): Conv introduces 1.8"), Finding("why: logits: far off"))
    one = records.cell(state="fail", first_divergence=first, drift=tuple(curve), findings=found)
    section = read(render(records.run([one]))).one("section", class_="cell")
    says = section.one("ul", class_="says").text
    assert says.count("net.conv") == 1
    assert "net.conv (Conv, net.py:16) introduces 1.8" in says
    assert "Why logits: far off" in says
    assert "first divergence at net.conv, 1 of 2" in section.text
    rows = section.all("table", class_="cases")[-1].one("tbody").all("tr")
    assert [(row.attrs.get("class"), row.one("th").text.strip()) for row in rows] == [
        ("x", "net.conv first divergence"), (None, "net.relu")
    ]  # fmt: skip


def test_a_chart_of_steps_that_use_nothing_of_their_limit_is_left_out() -> None:
    steps = [records.check("changed", 0.0, 1.0, kind="sequence", case=str(i), output="y") for i in range(8)]
    assert "in order" not in render(records.run([records.cell(checks=tuple(steps))]))
    steps[5] = records.check("changed", 0.1, 1.0, kind="sequence", case="5", output="y")
    assert "8 cases in order" in render(records.run([records.cell(checks=tuple(steps))]))
