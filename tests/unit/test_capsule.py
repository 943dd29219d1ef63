"""Capsules: whole ones pass; damaged, changed, stale and incomplete ones never do, and say why in one line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity import cli
from parity import formats as targets
from parity.capsule import archive, contents
from parity.capsule.archive import MANIFEST, Archive, pack
from parity.capsule.contents import (
    Bound,
    CasePlan,
    CellPlan,
    DataPlan,
    Executed,
    Execution,
    OutputPlan,
    Plan,
    RunReport,
    dump,
    save_array,
)
from parity.capsule.device import Device
from parity.capsule.judge import judged
from parity.capsule.run import run
from parity.core.errors import ParityError
from parity.core.record import (
    ArtifactRecord,
    CellRecord,
    Check,
    Environment,
    FileRecord,
    RunRecord,
    RuntimeRecord,
    dumps,
    loads,
)
from parity.formats.target import Target
from parity.judging import gate, judge
from parity.judging.check_cases import check_cases, check_labels
from parity.judging.floor import floors
from parity.judging.limits import fallback
from parity.judging.post_processing import post_process, post_process_all
from parity.process.isolate import Budget

SESSION = '''
import os
import numpy as np

class PlainSession:
    """y = 2 x, by NumPy; PLAIN says how it misbehaves. describe is for exporting machines and must not be asked."""

    def __init__(self, folder, notes):
        self.factor = np.frombuffer(open(os.path.join(folder, notes["entry"]), "rb").read(), "<f4")[0]

    def describe(self):
        raise RuntimeError("needs the converter")

    def run(self, inputs):
        how = os.environ.get("PLAIN")
        if how == "abort":
            os.abort()
        if how == "raise":
            raise ValueError("no kernel")
        y = inputs["x"] * self.factor
        return {} if how == "nothing" else {"y": y}
'''
CASES = ("a/one", "b two", "c")
LIMITS = {"max_abs": 1e-3, "cosine": 0.99, "noise_ratio": 4.0, "top1": 1.0, "top1_drop": 0.0}
FILE = np.array([2.0], "<f4").tobytes()
X = [np.random.default_rng(i).standard_normal((1, 4)).astype(np.float32) for i in range(3)]
WANT = [x.astype(np.float64) * 2 for x in X]
TWIN = [w + 1e-5 for w in WANT]
NUMPY = Execution("numpy", "CPU")
COREML = contents.executions("coreml", "")


class Plain(Target):
    name, precisions, requires, extra = "plain", ("fp32",), (), "none"
    session, family, runtime_package = "plain_session:PlainSession", "plain", "numpy"


def output_plan(**limits: float) -> OutputPlan:
    bounds = {name: Bound(value, "test") for name, value in {**LIMITS, **limits}.items()}
    return OutputPlan("y", "logits", ("p", "q", "r", "s"), bounds)


def cell_plan(target: str, executions: tuple[Execution, ...]) -> CellPlan:
    precision = "fp32" if target == "plain" else "fp16"
    notes = {"entry": "w.bin", "inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}
    file = FileRecord("w.bin", len(FILE), hashlib.sha256(FILE).hexdigest())
    return CellPlan(f"tiny-{target}-{precision}", "tiny", target, precision, ("golden", "accuracy"), notes, (file,),
                    (output_plan(),), executions, ("y",))  # fmt: skip


def measured(plan: CellPlan) -> CellRecord:
    specs, limits = [plan.outputs[0].spec], {"y": plan.outputs[0].in_force()}
    oracle = [post_process(specs, {"y": w}) for w in WANT]
    twin = post_process_all(specs, [{"y": t} for t in TWIN], oracle)
    costs = floors(oracle, twin, plan.precision, specs)
    rows = [{"y": w.astype(np.float32)} for w in WANT]
    judged = check_cases("golden", specs, CASES, rows, oracle, costs, limits, fallback(plan.precision))
    checks: list[Check] = [judge.fact("signature", "y", "present", True, "there"), *judged.checks]
    checks += check_labels(specs, labels(), judged.outputs, oracle, limits)
    kinds = ("contract", "golden", "accuracy")
    runtime = RuntimeRecord("mil-eval" if plan.target == "coreml" else "numpy", "1", 0.1)
    return gate.settle(CellRecord(
        plan.id, "tiny", plan.target, plan.precision, "missing", planned=kinds, measured=kinds, planned_cases=3,
        planned_outputs=("y",), artifact=ArtifactRecord(plan.files), checks=tuple(checks), runtime=runtime,
    ))  # fmt: skip


def labels() -> list[int]:
    return [int(w.argmax()) for w in WANT]


class Bundle:
    """A record, its capsule and outputs, as files that a test may change before they are judged."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.record, self.capsule, self.outputs = folder / "parity.json", folder / "c.zip", folder / "o.zip"
        self.cells = (cell_plan("plain", (NUMPY,)), cell_plan("coreml", COREML))
        run_record = RunRecord("incomplete", tuple(measured(c) for c in self.cells), Environment("3", {}, "m"))
        self.record.write_text(dumps(gate.judge(run_record)))
        self.plan = Plan(
            hashlib.sha256(self.record.read_bytes()).hexdigest(),
            (DataPlan("tiny", ("x",), ("y",), tuple(map(CasePlan, CASES, labels())), (), "float64"),), self.cells,
        )  # fmt: skip
        self.source, self.results = folder / "source", folder / "results"
        for cell in self.cells:
            path = self.source / "artifacts" / cell.id / "w.bin"
            path.parent.mkdir(parents=True)
            path.write_bytes(FILE)
            for i, twin in enumerate(TWIN):
                save_array(self.source, f"twins/{cell.id}/golden/{i:05d}/0.npy", twin)
        for i in range(3):
            save_array(self.source, f"data/tiny/golden/{i:05d}/in.0.npy", X[i])
            save_array(self.source, f"data/tiny/golden/{i:05d}/want.0.npy", WANT[i])
        self.seal = self.pack_capsule()
        self.executed = [
            Executed(c.id, e.executor, e.compute_unit, "ok", version="1", milliseconds=0.5)
            for c in self.cells for e in c.executions
        ]  # fmt: skip
        for cell in self.cells:
            for number in range(len(cell.executions)):
                for i in range(3):
                    self.put(cell, number, i, WANT[i].astype(np.float32))
        self.pack_outputs()

    def put(self, cell: CellPlan, execution: int, case: int, value: Any) -> None:
        save_array(self.results, f"outputs/{cell.id}/{execution}/golden/{case:05d}/0.npy", value)

    def pack_capsule(self) -> str:
        (self.source / "plan.json").write_text(dump(self.plan))
        self.seal = pack(self.source, self.capsule, "capsule")
        return self.seal

    def pack_outputs(self) -> None:
        report = RunReport("arm64", "macOS 15", "3.11", {"numpy": "2"}, tuple(self.executed))
        (self.results / "run.json").write_text(dump(report))
        pack(self.results, self.outputs, "outputs", self.seal)

    def merged(self, **options: Any) -> RunRecord:
        return judged(self.capsule, self.outputs, self.record, **options)

    def refused(self, *parts: str, **options: Any) -> None:
        with pytest.raises(ParityError) as caught:
            self.merged(**options)
        assert "\n" not in str(caught.value)
        for part in parts:
            assert part in str(caught.value)

    def code(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        code = cli.main(["capsule", "judge", str(self.capsule), str(self.outputs), "--record", str(self.record)])
        return code, capsys.readouterr().err


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A target whose runtime is NumPy, importable by children."""
    monkeypatch.setitem(targets._registered, "plain", Plain())
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "plain_session.py").write_text(SESSION)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    return modules


# The container.


def tree(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def craft(path: Path, files: list[tuple[str, bytes]], manifest: bytes | None = None) -> None:
    """An archive that keeps the form and breaks the rules: any names, any order, a manifest that fits them."""
    if manifest is None:
        listed = [[n, len(d), hashlib.sha256(d).hexdigest()] for n, d in files]
        value = {"schema": archive.SCHEMA, "content": "capsule", "capsule": None, "members": listed}
        manifest = archive._canonical(value)
    everything = [*files, (MANIFEST, manifest)]
    members = [archive._Member(n, len(d), zlib.crc32(d)) for n, d in everything]
    body = b"".join(m.local() + d for m, (_, d) in zip(members, everything, strict=True))
    path.write_bytes(body + archive._directory(members))


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(ParityError) as caught, Archive(path, "capsule"):
        pass
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_the_same_files_are_the_same_bytes_and_any_zip_tool_opens_them(tmp_path: Path) -> None:
    one = tree(tmp_path / "1", b__x=b"xx", a=b"", c=bytes(range(256)))
    two = tree(tmp_path / "2", c=bytes(range(256)), a=b"", b__x=b"xx")
    os.utime(two / "a", (1, 1))
    assert pack(one, tmp_path / "1.zip", "capsule") == pack(two, tmp_path / "2.zip", "capsule")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as known:
        assert known.testzip() is None
        assert known.namelist() == ["a", "b/x", "c", MANIFEST]
        assert known.read("b/x") == b"xx"
    with Archive(tmp_path / "1.zip", "capsule") as read:
        assert {name: read.read(name) for name in read} == {"a": b"", "b/x": b"xx", "c": bytes(range(256))}


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../x", "a//x", "./x", "a/.", "a\\x", "C:x", "a\nx", "a\0x", "", "x ", "a/ x", "x.", "x" * 500],
)
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    craft(tmp_path / "c.zip", [(name, b"data")])
    refused(tmp_path / "c.zip", "member name")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([("a", b"1"), ("a", b"1")], "two members"),
        ([("A", b"1"), ("a", b"1")], "two members"),
        ([("a", b"1"), ("a/b", b"1")], "both a member and a folder"),
        ([("b", b"1"), ("a", b"1")], "not in order"),
        ([(MANIFEST, b"{}")], "c.zip"),
    ],
)
def test_members_that_meet_or_change_places_are_refused(
    tmp_path: Path, files: list[tuple[str, bytes]], why: str
) -> None:
    craft(tmp_path / "c.zip", files)
    refused(tmp_path / "c.zip", why)


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"schema":"parity.capsule/1"}',
     b'{"capsule":null,"content":"capsule","members":[["a",1]],"schema":"parity.capsule/1"}',
     b'{"capsule":null,"content":"capsule","members":[],"schema":"parity.capsule/1"}'],
)  # fmt: skip
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, manifest: bytes) -> None:
    craft(tmp_path / "c.zip", [("a", b"1")], manifest)
    refused(tmp_path / "c.zip", "manifest")


def test_a_member_with_a_good_checksum_and_another_hash_is_refused(tmp_path: Path) -> None:
    listed = [["a", 1, hashlib.sha256(b"2").hexdigest()]]
    value = {"schema": archive.SCHEMA, "content": "capsule", "capsule": None, "members": listed}
    craft(tmp_path / "c.zip", [("a", b"1")], archive._canonical(value))
    refused(tmp_path / "c.zip", "not what its manifest says")


def test_a_zip_bomb_and_an_ordinary_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a", bytes(50 << 20))
        bomb.writestr(MANIFEST, b"{}")
    refused(tmp_path / "c.zip", "damaged or changed")
    (tmp_path / "c.zip").write_bytes(b"")
    refused(tmp_path / "c.zip", "cut off")
    refused(tmp_path, "cannot be read")


def test_outputs_are_no_capsule(tmp_path: Path) -> None:
    pack(tree(tmp_path / "1", a=b""), tmp_path / "c.zip", "outputs", "seal")
    refused(tmp_path / "c.zip", "holds outputs of a capsule, not a capsule")


def test_more_than_the_format_holds_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_BYTES", 100)
    with pytest.raises(ParityError, match="more than one capsule holds"):
        pack(tree(tmp_path / "1", a=bytes(200)), tmp_path / "c.zip", "capsule")
    assert not (tmp_path / "c.zip").exists()


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_a_container_goes_unnoticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "f.zip"
    pack(tree(tmp_path / "1", b__x=b"xx", a=b"", c=b"some more"), path, "capsule")
    whole = path.read_bytes()
    changed = data.draw(edits(whole))
    if changed != whole:
        path.write_bytes(changed)
        refused(path)


@st.composite
def edits(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with one flipped, cut off, added to, a part left out, or a part moved."""
    how = draw(st.sampled_from(("flip", "cut", "add", "drop", "move")))
    at = draw(st.integers(0, len(whole) - 1))
    if how == "flip":
        return whole[:at] + bytes([whole[at] ^ draw(st.integers(1, 255))]) + whole[at + 1 :]
    if how == "cut":
        return whole[:at]
    if how == "add":
        return whole[:at] + draw(st.binary(min_size=1, max_size=40)) + whole[at:]
    end = draw(st.integers(at + 1, len(whole)))
    if how == "drop":
        return whole[:at] + whole[end:]
    return whole[at:end] + whole[:at] + whole[end:]


# Judging.


def test_a_whole_capsule_passes_and_keeps_what_the_record_had(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = loads(bundle.record.read_text()), bundle.merged(seal=bundle.seal)
    assert (before.verdict, after.verdict) == ("pass", "pass")
    for cell, one in zip(before.cells, after.cells, strict=True):
        assert one.checks[: len(cell.checks)] == cell.checks and one.runtime == cell.runtime
    coreml = after.cell("tiny-coreml-fp16")
    assert [e.name for e in coreml.executions] == ["coreml-runtime CPU_ONLY", "coreml-runtime ALL"]
    assert {e.capsule for e in coreml.executions} == {bundle.seal}
    assert coreml.runtime is not None and coreml.runtime.name == "mil-eval"
    assert loads(dumps(after)) == after
    assert bundle.code(capsys)[0] == 0


def test_each_execution_measures_what_the_suite_measures(bundle: Bundle) -> None:
    cell = bundle.merged().cell("tiny-coreml-fp16")
    prefixes = [f"{e.name}: " for e in cell.executions]
    own = {(c.kind, c.case, c.metric, c.limit) for c in cell.checks if not c.case.startswith(tuple(prefixes))}
    for prefix in prefixes:
        device = {(c.kind, c.case.removeprefix(prefix), c.metric, c.limit)
                  for c in cell.checks if c.case.startswith(prefix)}  # fmt: skip
        assert device == {row for row in own if row[0] != "contract"}


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_change_of_any_file_passes(whole: Bundle, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    name = data.draw(st.sampled_from(("capsule", "outputs", "record")))
    path: Path = getattr(whole, name)
    original = path.read_bytes()
    changed = data.draw(edits(original))
    if changed == original:
        return
    path.write_bytes(changed)
    try:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = cli.main(["capsule", "judge", str(whole.capsule), str(whole.outputs), "--record", str(whole.record)])
        assert code == 1
        assert len(err.getvalue().splitlines()) == 1 and "verdict" not in out.getvalue()
    finally:
        path.write_bytes(original)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tmp_path_factory.mktemp("whole"))


def change_artifact(b: Bundle) -> None:
    other = np.array([2.5], "<f4").tobytes()
    file = FileRecord("w.bin", len(other), hashlib.sha256(other).hexdigest())
    (b.source / "artifacts" / b.cells[0].id / "w.bin").write_bytes(other)
    b.plan = replace(b.plan, cells=(replace(b.cells[0], files=(file,)), b.cells[1]))


def loosen_limit(b: Bundle) -> None:
    b.plan = replace(b.plan, cells=(replace(b.cells[0], outputs=(output_plan(max_abs=9.0),)), b.cells[1]))


def drop_limit(b: Bundle) -> None:
    output = output_plan()
    kept = {k: v for k, v in output.limits.items() if k != "max_abs"}
    b.plan = replace(b.plan, cells=(replace(b.cells[0], outputs=(replace(output, limits=kept),)), b.cells[1]))


def drop_case(b: Bundle) -> None:
    b.plan = replace(b.plan, models=(replace(b.plan.models[0], golden=b.plan.models[0].golden[:2]),))
    shutil.rmtree(b.source / "data/tiny/golden/00002")
    for cell in b.cells:
        shutil.rmtree(b.source / f"twins/{cell.id}/golden/00002")
        for number in range(len(cell.executions)):
            shutil.rmtree(b.results / f"outputs/{cell.id}/{number}/golden/00002")


def drop_unit(b: Bundle) -> None:
    b.plan = replace(b.plan, cells=(b.cells[0], replace(b.cells[1], executions=COREML[:1])))
    b.executed.pop()
    shutil.rmtree(b.results / f"outputs/{b.cells[1].id}/1")


def other_executor(b: Bundle) -> None:
    units = (Execution("mil-eval", "CPU_ONLY"), Execution("mil-eval", "ALL"))
    b.plan = replace(b.plan, cells=(b.cells[0], replace(b.cells[1], executions=units)))
    b.executed = [replace(e, executor="mil-eval") if e.executor == "coreml-runtime" else e for e in b.executed]


def no_cell(b: Bundle) -> None:
    b.plan = replace(b.plan, cells=())
    b.executed = []
    for folder in (b.source / "artifacts", b.source / "twins", b.source / "data", b.results / "outputs"):
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (change_artifact, "its artefact in the record is another one"),
        (loosen_limit, "the limit of max_abs"),
        (drop_limit, "the limit of max_abs"),
        (drop_case, "other golden cases"),
        (drop_unit, "not planned for every compute unit"),
        (other_executor, "not planned for every compute unit"),
        (no_cell, "plan is empty"),
    ],
)
def test_a_capsule_changed_and_sealed_again_is_refused_by_the_record(
    bundle: Bundle, change: Callable[[Bundle], None], why: str
) -> None:
    change(bundle)
    bundle.pack_capsule()
    bundle.pack_outputs()
    bundle.refused(why)


def test_references_changed_and_sealed_again_are_refused_by_the_seal(bundle: Bundle) -> None:
    told = bundle.seal
    for i in range(3):
        save_array(bundle.source, f"data/tiny/golden/{i:05d}/want.0.npy", WANT[i] + 1e-6)
    bundle.pack_capsule()
    bundle.pack_outputs()
    bundle.refused("another capsule", seal=told)


def test_outputs_of_another_capsule_are_refused(bundle: Bundle) -> None:
    bundle.seal = "0" * 64
    bundle.pack_outputs()
    bundle.refused("made from another capsule")


def test_a_record_made_again_is_refused(bundle: Bundle) -> None:
    record = loads(bundle.record.read_text())
    bundle.record.write_text(dumps(replace(record, seconds=1.0)))
    bundle.refused("made from another record")


def test_a_merged_record_takes_no_second_helping(bundle: Bundle) -> None:
    bundle.record.write_text(dumps(bundle.merged()))
    bundle.refused("made from another record")
    bundle.plan = replace(bundle.plan, record=hashlib.sha256(bundle.record.read_bytes()).hexdigest())
    bundle.pack_capsule()
    bundle.pack_outputs()
    bundle.refused("holds such executions already")


@pytest.mark.parametrize("lost", ["execution", "array", "order", "twice"])
def test_incomplete_outputs_are_refused(bundle: Bundle, lost: str) -> None:
    if lost == "execution":
        bundle.executed.pop()
    elif lost == "array":
        (bundle.results / "outputs/tiny-coreml-fp16/1/golden/00001/0.npy").unlink()
    elif lost == "order":
        bundle.executed.reverse()
    else:
        bundle.executed[-1] = bundle.executed[-2]
    bundle.pack_outputs()
    bundle.refused("incomplete")


def test_outputs_with_something_more_are_refused(bundle: Bundle) -> None:
    (bundle.results / "more").write_text("")
    bundle.pack_outputs()
    bundle.refused("does not belong")


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x93NUMPY", header("(1, 4)"), header("(99999999999, 4)") + bytes(16), header("(1, 5)") + bytes(16),
     header("(1, 4)") + bytes(17), header("(-1, -4)") + bytes(16), header("(2,)", "|O") + bytes(16),
     header("(1, 2)", "<c8") + bytes(16), header("(1, 4)", "|V4") + bytes(16), header("nonsense(") + bytes(16),
     b"\x93NUMPY\x02\x00" + bytes(20)],
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_refused(bundle: Bundle, data: bytes) -> None:
    (bundle.results / "outputs/tiny-coreml-fp16/1/golden/00001/0.npy").write_bytes(data)
    bundle.pack_outputs()
    bundle.refused("not an array of numbers")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (np.full((1, 4), np.nan, np.float32), "coreml-runtime ALL: "),
        (np.full((1, 4), np.inf, np.float32), "coreml-runtime ALL: "),
        (WANT[1].astype(np.float32)[:, :3], "coreml-runtime ALL: "),
        (WANT[1].astype(np.float32)[0], "coreml-runtime ALL: "),
        (np.zeros((0, 4), np.float32), "coreml-runtime ALL: "),
        (WANT[1].astype(np.int64), "coreml-runtime ALL: "),
        (WANT[1].astype(np.float32)[:, ::-1].copy(), "coreml-runtime ALL: "),
        ((WANT[1] * 1.01).astype(np.float32), "coreml-runtime ALL: "),
    ],
    ids=["nan", "inf", "shape", "rank", "empty", "dtype", "reversed", "one percent"],
)
def test_one_bad_output_of_one_unit_fails_the_cell(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], value: Any, part: str
) -> None:
    bundle.put(bundle.cells[1], 1, 1, value)
    bundle.pack_outputs()
    cell = bundle.merged().cell("tiny-coreml-fp16")
    assert cell.state == "fail" and part in cell.reason
    assert bundle.code(capsys)[0] == 1


@pytest.mark.parametrize(
    ("state", "verdict"), [("unavailable", "incomplete"), ("crash", "fail"), ("timeout", "fail"), ("error", "fail")]
)
def test_what_could_not_be_executed_does_not_pass(bundle: Bundle, state: Any, verdict: str) -> None:
    bundle.executed[2] = replace(bundle.executed[2], state=state, stage="load", reason="went away")
    shutil.rmtree(bundle.results / "outputs/tiny-coreml-fp16/1")
    bundle.pack_outputs()
    record = bundle.merged()
    cell = record.cell("tiny-coreml-fp16")
    assert record.verdict == verdict and gate.exit_code(record) == 1
    assert cell.state == ("missing" if state == "unavailable" else state)
    assert "coreml-runtime ALL" in cell.reason
    assert any("went away" in f.text for f in cell.findings)


@pytest.mark.parametrize("gone", ["", "coreml-runtime CPU_ONLY: ", "coreml-runtime ALL: "])
@pytest.mark.parametrize("what", ["all", "one case", "accuracy", "limits"])
def test_no_executor_passes_for_another(bundle: Bundle, gone: str, what: str) -> None:
    cell = bundle.merged().cell("tiny-coreml-fp16")
    prefixes = ("coreml-runtime CPU_ONLY: ", "coreml-runtime ALL: ")

    def hit(check: Check) -> bool:
        mine = check.case.startswith(gone) if gone else not check.case.startswith(prefixes)
        rest = {"all": True, "one case": check.case.endswith("b two"), "accuracy": check.kind == "accuracy",
                "limits": check.kind == "golden"}  # fmt: skip
        return mine and rest[what] and check.kind != "contract"

    if what == "limits":
        checks = tuple(replace(c, limit=None) if hit(c) else c for c in cell.checks)
    else:
        checks = tuple(c for c in cell.checks if not hit(c))
    again = gate.settle(replace(cell, checks=checks))
    assert again.state == "missing"
    assert again.reason.startswith(gone)


def test_the_gate_alone_gives_the_same_answer(bundle: Bundle, tmp_path: Path) -> None:
    from parity.commands.gate import judged as by_gate

    merged = bundle.merged()
    assert by_gate(merged) == merged


# Running.


def test_run_and_judge_without_describing_the_file(bundle: Bundle, plain: Path) -> None:
    report = run(bundle.capsule, bundle.outputs, seal=bundle.seal)
    assert [e.state for e in report.executed] == ["ok", "unavailable", "unavailable"]
    record = bundle.merged()
    assert record.cell("tiny-plain-fp32").state == "pass"
    assert record.cell("tiny-coreml-fp16").state == "missing"
    assert record.verdict == "incomplete"


@pytest.mark.parametrize(
    ("how", "state", "reason"),
    [("abort", "crash", "SIGABRT"), ("raise", "error", "no kernel"), ("nothing", "error", "does not give")],
)
def test_an_artefact_that_dies_is_named(
    bundle: Bundle, plain: Path, monkeypatch: pytest.MonkeyPatch, how: str, state: str, reason: str
) -> None:
    monkeypatch.setenv("PLAIN", how)
    report = run(bundle.capsule, bundle.outputs)
    assert report.executed[0].state == state and reason in report.executed[0].reason
    cell = bundle.merged().cell("tiny-plain-fp32")
    assert cell.state == state and cell.reason.startswith("numpy CPU: ")


def test_an_artefact_that_hangs_is_named(bundle: Bundle, plain: Path) -> None:
    (plain / "plain_session.py").write_text("import time\ntime.sleep(60)\n")
    report = run(bundle.capsule, bundle.outputs, budget=Budget(2.0))
    assert report.executed[0].state == "timeout"


def test_a_damaged_capsule_is_not_executed(bundle: Bundle, plain: Path) -> None:
    bundle.capsule.write_bytes(bundle.capsule.read_bytes()[:-1])
    bundle.outputs.unlink()
    with pytest.raises(ParityError, match="damaged or changed"):
        run(bundle.capsule, bundle.outputs)
    assert not bundle.outputs.exists()


def test_another_capsule_is_not_executed(bundle: Bundle, plain: Path) -> None:
    with pytest.raises(ParityError, match="another capsule"):
        run(bundle.capsule, bundle.outputs, seal="0" * 64)


BLOCKED = ("torch", "torchvision", "onnx", "onnxruntime", "onnx2tf", "tensorflow", "coremltools", "ncnn", "cv2", "PIL",
           "filelock", "jinja2", "pytest", "hypothesis", "safetensors", "xdist")  # fmt: skip


def test_run_needs_numpy_psutil_cattrs_and_the_runtime_only(bundle: Bundle, plain: Path) -> None:
    (plain / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {BLOCKED!r}:\n"
        "            raise ModuleNotFoundError(f'blocked: {name}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    script = (
        "import sys, runpy\n"
        "from parity import formats as targets\n"
        "from parity.formats.target import Target\n"
        "class Plain(Target):\n"
        "    name, precisions, requires, extra = 'plain', ('fp32',), (), 'none'\n"
        "    session, family, runtime_package = 'plain_session:PlainSession', 'plain', 'numpy'\n"
        "targets.register_target(Plain)\n"
        "sys.argv = ['capsule', 'run', *sys.argv[1:]]\n"
        "runpy.run_module('parity.capsule', run_name='__main__')\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plain), str(root)])}
    check = [sys.executable, "-c", "import torch"]
    assert b"blocked: torch" in subprocess.run(check, env=environment, capture_output=True).stderr
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle.capsule), "--output", str(bundle.outputs)],
        env=environment, capture_output=True, text=True, cwd=bundle.folder,
    )  # fmt: skip
    assert "tiny-plain-fp32: numpy CPU: ok" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1  # Core ML did not run here
    assert bundle.merged().cell("tiny-plain-fp32").state == "pass"


# Core ML, by a stand-in for coremltools: what is asked of it, and that nothing else is ever taken for it.


class Units:
    CPU_ONLY, ALL = "cpu only", "all"

    def __class_getitem__(cls, name: str) -> str:
        return str(getattr(cls, name))


def stand_in(asked: list[Any]) -> types.ModuleType:
    class MLModel:
        def __init__(self, path: str, compute_units: str):
            asked.append((Path(path).name, compute_units))

        def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
            asked.append({name: value.dtype.name for name, value in inputs.items()})
            return {"y": inputs["x"] * 2}

    module = types.ModuleType("coremltools")
    module.ComputeUnit, module.models = Units, types.SimpleNamespace(MLModel=MLModel)  # type: ignore[attr-defined]
    return module


def notes(unit: str) -> dict[str, Any]:
    return {"entry": "m.mlpackage", "run_by": {"executor": "coreml-runtime", "compute_unit": unit, "session": "gone:X"}}


@pytest.mark.parametrize(("unit", "value"), [("CPU_ONLY", "cpu only"), ("ALL", "all")])
def test_core_ml_is_asked_for_the_compute_unit(monkeypatch: pytest.MonkeyPatch, unit: str, value: str) -> None:
    asked: list[Any] = []
    monkeypatch.setitem(sys.modules, "coremltools", stand_in(asked))
    monkeypatch.setattr("parity.capsule.device.lacking", lambda capability: None)
    device = Device("folder", notes(unit))
    got = device.run({"x": X[0].astype(np.float64), "ids": np.array([1], np.int64)})
    assert np.array_equal(got["y"], X[0] * 2)
    assert asked == [("m.mlpackage", value), {"x": "float32", "ids": "int32"}]
    assert device.describe() == {"devices": {}}


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML is here")
def test_nothing_is_taken_for_core_ml() -> None:
    with pytest.raises(ParityError, match="only on macOS"):
        Device("folder", notes("ALL"))


def test_the_plan_is_read_strictly(bundle: Bundle) -> None:
    plan = json.loads((bundle.source / "plan.json").read_text())
    for change in ({"extra": 1}, {"cells": None}, {"record": 5}):
        (bundle.source / "plan.json").write_text(json.dumps({**plan, **change}))
        pack(bundle.source, bundle.capsule, "capsule")
        with Archive(bundle.capsule, "capsule") as capsule, pytest.raises(ParityError):
            contents.load_plan(capsule)
