"""`parity release` and `parity diff`: only what passed and is still the same file is published, and worse is seen."""

from __future__ import annotations

import datetime
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity import cli
from parity.commands.release import publish as copy_out
from parity.core.errors import ParityError
from parity.core.record import ArtifactRecord, CellRecord, FileRecord, RunRecord, WaiverRecord, dumps
from parity.judging.gate import judge
from parity.store.cache import Store, sha256_file
from tests.unit.ledgers import cell, edited, figure, run

FP32, INT8 = "skin-tflite-fp32", "skin-tflite-int8"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def parity(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def built(one: CellRecord, store: Store) -> CellRecord:
    """The cell with an artefact of two files that is in the store."""

    def builder(folder: Path) -> dict[str, Any]:
        (folder / "weights").mkdir()
        (folder / "model.bin").write_text(one.id)
        (folder / "weights" / "w.bin").write_bytes(b"\0" * 100)
        return {"entry": "model.bin"}

    entry = store.build({"cell": one.id}, one.id, builder)
    files = tuple(FileRecord(*f) for f in entry.files)
    return replace(one, artifact=ArtifactRecord(files, entry.key, 1.0, True, f"objects/{entry.key}"))


@pytest.fixture
def passed(store: Store) -> RunRecord:
    return run(built(cell(FP32), store), built(cell(), store))


def release(parity: Cli, record: RunRecord | str, *more: str) -> tuple[int, str, str]:
    Path("parity.json").write_text(record if isinstance(record, str) else dumps(record), encoding="utf-8")
    return parity("release", "parity.json", "--to", "dist/1.0", "--parity-cache", "cache", *more)


def listed(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_whole_pass_is_published_with_its_evidence(parity: Cli, passed: RunRecord, tmp_path: Path) -> None:
    code, out, err = release(parity, passed)
    assert (code, err) == (0, "")
    assert out == "dist/1.0: 2 cells, 4 files and manifest.json\n"
    folder = tmp_path / "dist" / "1.0"
    names = {f"{c}/{f}" for c in (FP32, INT8) for f in ("model.bin", "weights/w.bin")}
    assert listed(folder) == {*names, "manifest.json"}
    evidence = json.loads((folder / "manifest.json").read_text())
    assert evidence["schema"] == "parity.release/1" and evidence["verdict"] == "pass"
    assert evidence["record"]["sha256"] == hashlib.sha256(Path("parity.json").read_bytes()).hexdigest()
    assert evidence["environment"]["packages"]["onnx2tf"] == "1.29.24"
    for one in evidence["cells"]:
        for file in one["files"]:
            content = (folder / file["path"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
    worst = {w["metric"]: w for w in evidence["cells"][1]["worst"]}
    assert (worst["cosine"]["value"], worst["cosine"]["limit"], worst["cosine"]["case"]) == (0.999, 0.95, "a")
    assert worst["rel_rms"]["source"].startswith("pyproject.toml:31")
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    assert list((tmp_path / "dist").iterdir()) == [folder], "nothing half-made is left"


def test_the_same_record_gives_the_same_bytes(parity: Cli, passed: RunRecord, tmp_path: Path) -> None:
    release(parity, passed)
    first = (tmp_path / "dist" / "1.0" / "manifest.json").read_bytes()
    assert parity("release", "parity.json", "--to", "again", "--parity-cache", "cache")[0] == 0
    assert (tmp_path / "again" / "manifest.json").read_bytes() == first


def test_what_cannot_run_here_is_named_and_not_released(parity: Cli, passed: RunRecord, tmp_path: Path) -> None:
    away = cell("skin-coreml-fp16", state="unavailable", reason="needs macOS", artifact=None, checks=())
    code, out, _ = release(parity, judge(replace(passed, cells=(*passed.cells, away))))
    assert code == 0 and "1 cell could not run and is not released" in out
    evidence = json.loads((tmp_path / "dist" / "1.0" / "manifest.json").read_text())
    assert evidence["not_released"] == [{"id": away.id, "state": "unavailable", "reason": "needs macOS"}]


def forged(record: RunRecord, **changes: Any) -> RunRecord:
    """The record with its int8 cell changed and nothing judged again."""
    return replace(record, cells=(record.cells[0], replace(record.cells[1], **changes)))


def refiled(record: RunRecord, **changes: Any) -> RunRecord:
    artifact = record.cells[1].artifact
    assert artifact
    return forged(record, artifact=replace(artifact, **changes))


def file_of(record: RunRecord, **changes: Any) -> tuple[FileRecord, ...]:
    artifact = record.cells[1].artifact
    assert artifact
    return (replace(artifact.files[0], **changes), *artifact.files[1:])


def raised(record: RunRecord, **changes: Any) -> CellRecord:
    return edited(record.cells[1], lambda c: (c.metric, c.case) == ("rel_rms", "a"), **changes)


REFUSED: dict[str, tuple[Callable[[RunRecord], RunRecord | str], str]] = {
    "a failing run": (lambda r: judge(replace(figure(0.9), environment=r.environment)), "the verdict of this run"),
    "an incomplete run": (lambda r: run(r.cells[0], cell(measured=())), "incomplete"),
    "a partial run": (lambda r: judge(replace(r, partial="models skin")), "partial"),
    "a partial run that claims to pass": (lambda r: replace(r, partial="models skin"), "narrowed (models skin)"),
    "a failing run that claims to pass": (lambda r: replace(figure(0.9), verdict="pass"), "1 cell failed"),
    "a cell that claims to pass": (lambda r: forged(r, checks=raised(r, value=0.9).checks), "its figures say fail"),
    "a check that claims to fail": (lambda r: forged(r, checks=raised(r, passed=False).checks), "passed=False"),
    "a cell without a measurement": (lambda r: forged(r, checks=()), "its figures say missing"),
    "a cell without a plan": (lambda r: forged(r, planned=(), checks=()), "its figures say missing"),
    "a crash that claims to pass": (lambda r: replace(forged(r, state="crash"), verdict="pass"), "1 cell failed"),
    "a cell that claims a waiver": (lambda r: forged(r, state="waived"), "recorded as waived"),
    "a failing cell that claims a waiver": (
        lambda r: forged(r, state="waived", checks=raised(r, value=0.9, passed=False).checks), "its figures say fail",
    ),
    "a regression": (
        lambda r: replace(r, baseline=replace(judged_worse(r).baseline)), "1 regression",
    ),
    "an unmatched waiver": (
        lambda r: replace(r, waivers=(WaiverRecord(INT8, "cosine", "x", "2099-01-01"),)), "1 waiver",
    ),
    "a cell twice": (lambda r: replace(r, cells=(*r.cells, r.cells[1])), "twice"),
    "a cell with another's name": (lambda r: forged(r, id="skin-onnx-int8"), "no cell's id"),
    "a cell that is a path": (lambda r: forged(r, id="../../evil", model="../../evil"), "no cell's id"),
    "no file": (lambda r: refiled(r, files=()), "names no file"),
    "no artefact": (lambda r: forged(r, artifact=None), "names no file"),
    "a file left out": (lambda r: refiled(r, files=file_of(r)[:1]), "not those that the record names"),
    "another sha256": (lambda r: refiled(r, files=file_of(r, sha256="f" * 64)), "not those that the record names"),
    "no sha256": (lambda r: refiled(r, files=file_of(r, sha256="")), "is no sha256"),
    "another size": (lambda r: refiled(r, files=file_of(r, bytes=1)), "not those that the record names"),
    "a path out of the folder": (lambda r: refiled(r, files=file_of(r, path="../../secret")), "not a path inside"),
    "an absolute path": (lambda r: refiled(r, files=file_of(r, path="/etc/passwd")), "not a path inside"),
    "a key that is a path": (lambda r: refiled(r, key="../x", location="objects/../x"), "no place in the cache"),
    "a key that is not there": (
        lambda r: refiled(r, key="a" * 64, location="objects/" + "a" * 64), "does not hold aaaaaaaaaaaa",
    ),
    "no JSON": (lambda r: "no JSON", "not a JSON record"),
    "half a record": (lambda r: dumps(r)[:500], "not a JSON record"),
    "a baseline": (lambda r: '{"schema": "parity.baseline/1"}', "schema is"),
}  # fmt: skip


def judged_worse(record: RunRecord) -> RunRecord:
    from parity.judging.baseline import attach, of

    return attach(of(run()), figure(0.2))


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line_and_nothing_left(
    parity: Cli, passed: RunRecord, tmp_path: Path, change: Any, words: str
) -> None:
    code, out, err = release(parity, change(passed))
    assert (code, out) == (1, "")
    assert err.startswith("parity release: ") and err.count("\n") == 1 and words in err
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "parity.json"}


def test_a_damaged_file_in_the_cache_is_refused(parity: Cli, passed: RunRecord, store: Store, tmp_path: Path) -> None:
    artifact = passed.cells[1].artifact
    assert artifact
    (store.root / "objects" / artifact.key / "weights" / "w.bin").write_bytes(b"\0" * 99 + b"\1")
    code, _, err = release(parity, passed)
    assert code == 1 and "or holds it damaged" in err and not (tmp_path / "dist").exists()


def test_a_file_that_changes_while_it_is_copied_is_refused(
    parity: Cli, passed: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.copyfile", lambda a, b: Path(b).write_bytes(b"other"))
    code, _, err = release(parity, passed)
    assert code == 1 and "changed while it was copied" in err and not (tmp_path / "dist").exists()


def test_a_full_disk_leaves_nothing(
    parity: Cli, passed: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    code, _, err = release(parity, passed)
    assert code == 1 and "No space left" in err and not (tmp_path / "dist").exists()


def test_a_release_is_never_written_over(parity: Cli, passed: RunRecord, tmp_path: Path) -> None:
    assert release(parity, passed)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "dist").rglob("*")}
    code, _, err = release(parity, passed)
    assert code == 1 and "never written over" in err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "dist").rglob("*")} == before


def waived(store: Store, expires: str, limit: float = 1.0) -> RunRecord:
    one = edited(built(cell(), store), lambda c: c.metric == "rel_rms", value=0.5, passed=False)
    one = replace(one, state="waived", reason="waived")
    waiver = WaiverRecord(INT8, "rel_rms", "accepted in #41", expires, limit, "used", "pyproject.toml:60")
    return judge(replace(run(), cells=(built(run().cells[0], store), one), waivers=(waiver,)))


def test_a_waiver_holds_until_its_day_and_up_to_its_limit(parity: Cli, store: Store, tmp_path: Path) -> None:
    yesterday = (datetime.date.today() - datetime.timedelta(1)).isoformat()
    code, _, err = release(parity, waived(store, yesterday))
    assert code == 1 and "recorded as waived, its figures say fail" in err
    assert release(parity, waived(store, "2099-01-01", limit=0.4))[0] == 1
    assert release(parity, waived(store, "never"))[0] == 1
    assert release(parity, waived(store, "2099-01-01"))[0] == 0
    evidence = json.loads((tmp_path / "dist" / "1.0" / "manifest.json").read_text())
    assert evidence["cells"][1]["waivers"][0]["reason"] == "accepted in #41"


def test_prebuilt_files_are_released_by_their_hash(parity: Cli, tmp_path: Path) -> None:
    (tmp_path / "prebuilt").mkdir()
    file = tmp_path / "prebuilt" / "m.tflite"
    file.write_bytes(b"TFL3")
    digest = hashlib.sha256(b"TFL3").hexdigest()
    artifact = ArtifactRecord((FileRecord("m.tflite", 4, digest),), digest, None, True, "prebuilt")
    record = run(cell(route="prebuilt", artifact=artifact))
    file.write_bytes(b"TFL4")
    code, _, err = release(parity, record)
    assert code == 1 and "is not the file that was measured" in err and not (tmp_path / "dist").exists()
    file.write_bytes(b"TFL3")
    assert release(parity, record)[0] == 0
    assert (tmp_path / "dist" / "1.0" / INT8 / "m.tflite").read_bytes() == b"TFL3"


# parity diff


def diff(parity: Cli, a: RunRecord, b: RunRecord) -> tuple[int, list[str]]:
    for name, record in (("A.json", a), ("B.json", b)):
        Path(name).write_text(dumps(record), encoding="utf-8")
    code, out, err = parity("diff", "A.json", "B.json")
    assert not err
    return code, out.splitlines()


def smaller() -> RunRecord:
    artifact = cell().artifact
    assert artifact
    return run(cell(FP32), cell(artifact=replace(artifact, files=(FileRecord("m", 500_000, "0" * 64),))))


def test_no_difference(parity: Cli) -> None:
    assert diff(parity, run(), run()) == (0, ["no difference between A.json and B.json"])
    assert diff(parity, run(), figure(0.0105))[0] == 0


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (run(), figure(0.9), f"worse {INT8}: pass -> fail: logits: rel_rms 0.9 > 0.25"),
        (run(), figure(0.2), f"worse {INT8}: rel_rms of logits 0.01 -> 0.2 (regressed)"),
        (smaller(), run(), f"worse {INT8}: size in bytes 500000 -> 1000000 (regressed)"),
        (run(), run(cell()), f"worse {FP32}: removed, was pass"),
        (run(), run(cell(FP32), cell(state="crash", reason="SIGSEGV")), f"worse {INT8}: pass -> crash: SIGSEGV"),
        (run(), run(cell(FP32), cell(state="unavailable", reason="x")), f"worse {INT8}: pass -> unavailable: x"),
        (run(), run(cell(FP32), cell(measured=())), f"worse {INT8}: pass -> missing"),
        (
            run(), run(cell(FP32), cell(checks=tuple(c for c in cell().checks if c.metric != "sqnr"))),
            f"worse {INT8}: sqnr of logits 40 -> none (removed)",
        ),
        (run(cell()), run(cell(), cell(FP32, measured=())), f"worse {FP32}: new, missing"),
        (run(), replace(figure(0.9), verdict="pass"), f"worse {INT8}: pass -> fail"),
    ],
)  # fmt: skip
def test_worse_is_told_and_exits_1(parity: Cli, a: RunRecord, b: RunRecord, words: str) -> None:
    code, out = diff(parity, a, b)
    assert code == 1
    assert any(line.startswith(words) for line in out), out
    assert out[-1].startswith("B.json is worse than A.json: ")


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (figure(0.9), run(), f"{INT8}: fail -> pass"),
        (figure(0.2), run(), f"{INT8}: rel_rms of logits 0.2 -> 0.01 (improved)"),
        (run(), smaller(), f"{INT8}: size in bytes 1000000 -> 500000 (improved)"),
        (run(cell()), run(), f"{FP32}: new, pass"),
        (run(), replace(run(cell()), partial="models skin"), "the second run is partial (models skin)"),
        (
            run(), run(cell(FP32), edited(cell(), lambda c: c.metric == "cosine", limit=0.9)),
            f"{INT8}: the limit of cosine of logits was widened: 0.95 -> 0.9",
        ),
        (
            run(), replace(run(), environment=replace(run().environment, python="3.12.0")),
            "environment: python 3.11.7 -> 3.12.0",
        ),
    ],
)  # fmt: skip
def test_no_worse_is_told_and_exits_0(parity: Cli, a: RunRecord, b: RunRecord, words: str) -> None:
    code, out = diff(parity, a, b)
    assert code == 0
    assert any(line.strip().startswith(words) for line in out), out
    assert out[-1].startswith("B.json is no worse than A.json: ")


def test_another_environment_does_not_hide_what_got_worse(parity: Cli) -> None:
    worse = figure(0.2)
    after = replace(worse, environment=replace(worse.environment, machine="darwin-arm64"))
    code, out = diff(parity, run(), after)
    assert code == 1 and any("environment: machine" in line for line in out)


def test_a_file_that_is_no_record(parity: Cli) -> None:
    Path("A.json").write_text("{}")
    code, out, err = parity("diff", "A.json", "A.json")
    assert (code, out) == (1, "") and err.count("\n") == 1


def test_two_releases_to_one_folder_at_once_leave_one_of_them_whole(tmp_path: Path) -> None:
    sources: dict[str, dict[str, list[tuple[Path, FileRecord]]]] = {}
    for letter in "xy":
        files = []
        for i in range(12):
            path = tmp_path / letter / f"{i}.bin"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(letter.encode() * 50_000)
            files.append((path, FileRecord(f"{i}.bin", 50_000, sha256_file(path))))
        sources[letter] = {"m-onnx-fp32": files}
    together, ends = threading.Barrier(2), []

    def publish(letter: str) -> None:
        together.wait()
        try:
            copy_out(tmp_path / "release", sources[letter], {"by": letter})
            ends.append("written")
        except ParityError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=publish, args=(letter,)) for letter in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("written") == 1
    assert not any("\n" in end for end in ends)
    by = json.loads((tmp_path / "release" / "manifest.json").read_text())["by"]
    assert {p.read_bytes()[:1] for p in (tmp_path / "release").rglob("*.bin")} == {by.encode()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["release", "x", "y"], "nothing half-written is left"
