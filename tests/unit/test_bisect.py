"""`parity bisect`: the search, by a function that says what came of each version; which versions there are; what the
command says and refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from parity import cli
from parity.core.errors import ConfigError, ParityError
from parity.core.record import Check
from parity.process.toolchains import environments, versions
from parity.process.toolchains.definitions import Recipe
from parity.process.toolchains.versions import Base, moved, ordered
from parity.session import packages, project
from parity.session.bisecting import (
    Change,
    Measure,
    Range,
    Trial,
    first_change,
    hints,
    no_change,
    ranges,
    sentence_of,
    tried_ends,
)
from parity.session.packages import Place, usual
from tests.unit.test_toolchains import NOW, wheel

TEN = tuple(f"1.{i}" for i in range(10))


def check(value: float | None, metric: str = "noise_ratio", sense: str = "max", output: str = "logits") -> Check:
    return Check("golden", "0", output, metric, value, 1.4, sense, (value or 0) <= 1.4)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", range(1, 10))
def test_the_first_version_that_differs_is_found_in_few_trials(first: int) -> None:
    asked: list[str] = []

    def side(version: str) -> str:
        asked.append(version)
        return "pass" if TEN.index(version) < first else "fail"

    assert first_change(TEN, side) == Change(TEN[first - 1], TEN[first])
    assert len(asked) == len(set(asked)) <= 5 and TEN[-1] not in asked


def test_ends_that_are_swapped_are_a_fault_that_was_mended() -> None:
    assert first_change(TEN, lambda v: "fail" if v < "1.7" else "pass") == Change("1.6", "1.7")


@pytest.mark.parametrize("holes", [{"1.4"}, {"1.4", "1.5", "1.3"}, {"1.1", "1.2", "1.8"}, set(TEN[1:-1])])
def test_versions_that_cannot_be_tried_are_passed_over_and_told(holes: set[str]) -> None:
    change = first_change(TEN, lambda v: None if v in holes else ("pass" if v < "1.4" else "crash"))
    tried = [version for version in TEN if version not in holes]
    assert change.before == max(version for version in tried if version < "1.4")
    assert change.after == min(version for version in tried if version >= "1.4")
    assert set(change.untried) == {v for v in holes if change.before < v < change.after}


def test_of_several_changes_one_away_from_the_first_side_is_found() -> None:
    states = dict(zip(TEN, "ppffpefffp", strict=True))
    states["1.9"] = "f"
    change = first_change(TEN, states.__getitem__)
    assert states[change.before] == "p" != states[change.after] and not change.untried


def test_ends_are_what_was_named_else_the_one_in_use_and_then_the_outermost() -> None:
    def pairs(current: str, good: str = "", bad: str = "") -> list[tuple[str, str]]:
        return [(r.versions[0], r.versions[-1]) for r in ranges(TEN, TEN[2:9], current, good, bad)]

    assert pairs("1.5") == [("1.5", "1.8"), ("1.2", "1.5")]
    assert pairs("1.8") == [("1.2", "1.8")]
    assert pairs("") == pairs("9.9") == [("1.2", "1.8")]
    assert pairs("1.5", good="1.3") == [("1.3", "1.5")] and pairs("1.5", bad="1.7") == [("1.5", "1.7")]
    assert pairs("1.5", good="1.5") == [("1.5", "1.8")] and pairs("1.5", bad="1.5") == [("1.2", "1.5")]
    assert pairs("1.5", good="1.9", bad="1.0") == pairs("1.5", good="1.0", bad="1.9") == [("1.0", "1.9")]
    named = next(ranges(TEN, TEN, "1.5", "1.9", ""))
    assert (named.is_low_named, named.is_high_named) == (False, True)
    with pytest.raises(ConfigError, match=r"^--bad 1\.11: the index offers no such release for this Python \(did you"):
        list(ranges(TEN, TEN, "1.5", "", "1.11"))
    with pytest.raises(ConfigError, match=r"^--good and --bad are both 1\.3$"):
        list(ranges(TEN, TEN, "1.5", "1.3", "1.3"))


def test_an_end_that_cannot_be_tried_moves_inwards_unless_it_was_named() -> None:
    absent = {"1.0", "1.1", "1.9"}

    def run(version: str) -> Trial:
        return Trial(version, "" if version in absent else "pass", "no wheel" if version in absent else "")

    assert tried_ends(Range(TEN), run) == Range(TEN[2:9])
    assert tried_ends(Range(TEN[:2]), run) is None
    with pytest.raises(ConfigError, match=r"^1\.9 could not be tried: no wheel$"):
        tried_ends(Range(TEN, is_high_named=True), run)


def test_versions_are_ordered_as_versions_without_pre_releases_and_local_builds() -> None:
    listed = ["1.10.0", "1.9", "2.0rc1", "1.9.0.post1", "2.13.0+cpu", "2.13.0", "junk!", " 1.2.0.dev3"]
    assert ordered(listed) == ("1.9", "1.9.0.post1", "1.10.0", "2.13.0")


def test_a_limit_makes_a_change_of_a_figure() -> None:
    trials = [Trial("1.0", "pass", checks=(check(0.9), check(1.2))), Trial("1.1", "pass", checks=(check(1.3),))]
    state, limit = Measure(), Measure(limit=1.25)
    assert [state.side(trial) for trial in trials] == ["pass", "pass"]
    assert [limit.side(trial) for trial in trials] == ["within", "beyond"]
    assert state.figure(trials[0]) == "noise_ratio 1.2 (logits)"
    assert limit.side(Trial("1.2", "crash", "signal 11")) == "crash"
    nothing = Trial("1.3", "fail", checks=(check(None),))
    assert limit.worst(nothing) is None and limit.side(nothing) == "fail"
    cosine = Trial("1.4", "pass", checks=(check(0.9, "cosine", "min"), check(0.99, "cosine", "min")))
    assert Measure("cosine", 0.95).side(cosine) == "beyond"
    assert sentence_of("a-onnx-int8", "tool", limit, *trials, ()) == (
        "a-onnx-int8 is within noise_ratio 1.25 with tool 1.0 and is beyond noise_ratio 1.25 from 1.1 on: "
        "noise_ratio 1.3 (logits)"
    )


def test_the_sentence_and_its_hints() -> None:
    before = Trial("1.28.5", "pass", "a warning", moved={"numpy": ("1.26.4", "2.0.0")}, route="a")
    after = Trial("1.29.0", "fail", "logits: noise_ratio 3.1 > 1.4", route="b", moved={"onnx": ("", "1.19")})
    newest = Trial("1.29.9", "error", "no")
    assert sentence_of("skin-tflite-int8", "onnx2tf", Measure(), before, after, ()) == (
        "skin-tflite-int8 passes with onnx2tf 1.28.5 and fails from 1.29.0 on: logits: noise_ratio 3.1 > 1.4"
    )
    assert sentence_of("c", "p", Measure(), after, before, ("1.28.9",)) == (
        "c fails with p 1.29.0 (logits: noise_ratio 3.1 > 1.4) and passes from 1.28.5 on (1.28.9 could not be tried)"
    )
    assert hints("onnx2tf", Measure(), before, after, newest) == [
        "onnx2tf 1.29.0 brings others along, which may be the cause: numpy 2.0.0 -> 1.26.4, onnx absent -> 1.19",
        "the file is made otherwise: by a, then by b",
        "it changes again: with 1.29.9 it ends in an error; --good 1.29.0 --bad 1.29.9 finds where",
    ]
    assert hints("onnx2tf", Measure(), before, before, before) == []
    measured = [Trial("1", "pass", checks=(check(0.9),)), Trial("2", "crash", "signal 11")]
    assert hints("onnx2tf", Measure(), *measured, measured[1]) == ["worst figure: noise_ratio 0.9 (logits) with 1"]


def test_ends_that_do_not_differ_are_told_with_their_figures() -> None:
    alike = [
        Trial("1.0", "pass", checks=(check(1.0),)),
        Trial("1.4", "pass", checks=(check(1.24),)),
        Trial("2", "pass"),
    ]
    assert no_change("a-onnx-int8", "tool", Measure(), alike) == (
        "no change: a-onnx-int8 passes with tool 1.0 (noise_ratio 1 (logits)) and 1.4 (noise_ratio 1.24 (logits)) and "
        "2 (no noise_ratio)"
    )
    failing = [Trial("1.0", "fail", "wrong; and more"), Trial("1.4", "fail", "wrong")]
    assert no_change("c", "tool", Measure("cosine"), failing) == (
        "no change: c fails with tool 1.0 (no cosine) and 1.4 (no cosine): wrong"
    )


def test_what_a_version_moves_beside_itself() -> None:
    base = Base("project", "python", "3.11", {"Tool_A": "1.0", "numpy": "1.26.4", "pip": "23"})
    now = {"tool-a": "2.0", "numpy": "2.0.0", "New.One": "3", "pip": "24"}
    assert moved(base, now, "tool.a") == {"numpy": ("1.26.4", "2.0.0"), "new-one": ("", "3")}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for the package index, and a cache folder of the test's own."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_version_lies_over_an_environment_that_stays_as_it_is(index: Path) -> None:
    for version in ("1.0", "1.9", "1.10", "2.0rc1"):
        wheel(index, "tiny", version)
    wheel(index, "tiny", "3.0", "==3.99.*")  # a folder, unlike an index, does not say so beforehand
    wheel(index, "beside", "5.0")
    assert versions.offered("tiny", NOW) == ("1.0", "1.9", "1.10", "3.0")
    with pytest.raises(ParityError, match=r"^nothing: No matching distribution found for nothing$"):
        versions.offered("nothing", NOW)

    below = environments.install(Recipe("onnx2tf", "tiny==1.9\nbeside\n", False, (NOW,)), print)
    base = versions.base_of("onnx2tf", below.python)
    assert (base.minor, base.version("Tiny"), base.version("absent")) == (NOW, "1.9", "")
    other = versions.with_version(base, "tiny", "1.10", print)
    assert (other.packages["tiny"], other.packages["beside"]) == ("1.10", "5.0")
    assert not list(other.folder.glob("lib/python*/site-packages/beside*"))
    assert moved(base, other.packages, "tiny") == {}
    assert versions.base_of("onnx2tf", below.python) == base
    assert versions.with_version(base, "tiny", "1.10", print) == other  # made once
    with pytest.raises(ParityError, match=r"^onnx2tf: .*tiny.* requires a different Python"):
        versions.with_version(base, "tiny", "3.0", print)


PROJECT = """
[tool.parity]
targets = ["onnx", "tflite"]
precisions = ["fp32"]
[tool.parity.models.net]
factory = "nets:net"
inputs = [{ name = "x", shape = [1, 4], range = [-1, 1] }]
outputs = [{ name = "y" }]
"""


def test_mistakes_are_one_line_that_says_what_to_do(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "nets.py").write_text("def net(): ...\n")
    monkeypatch.chdir(tmp_path)

    def says(*arguments: str, code: int = 2) -> str:
        assert cli.main(["bisect", *arguments]) == code
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        return err

    assert "unknown cell 'net-onnx-fp23' (did you mean 'net-onnx-fp32'?)" in says("net-onnx-fp23", "--package", "x")
    assert "unknown metric 'noise'" in says("net-onnx-fp32", "--package", "pytest", "--metric", "noise")
    assert "unknown toolchain 'pnnx'" in says("net-tflite-fp32", "--package", "pnnx", "--toolchain", "pnnx")
    said = says("net-onnx-fp32", "--package", "onnxruntim")
    assert "neither this environment nor a toolchain of onnx" in said and "did you mean" in said
    assert "No matching distribution found for pytest" in says("net-onnx-fp32", "--package", "pytest", code=1)
    wheel(index, "pytest", "1.0")
    assert "pytest 1.0: the index offers no such" not in says("net-onnx-fp32", "--package", "pytest")
    wheel(index, "pytest", "1.1")
    wrong = says("net-onnx-fp32", "--package", "pytest", "--good", "1.2")
    assert "--good 1.2: the index offers no such release for this Python" in wrong
    assert "--good and --bad are both 1.1" in says(
        "net-onnx-fp32", "--package", "pytest", "--good", "1.1", "--bad", "1.1"
    )


def test_a_package_is_found_in_the_lock_of_a_toolchain_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "nets.py").write_text("def net(): ...\n")
    config = project.load(tmp_path / "pyproject.toml")
    assert packages._holds(config, "litert", "AI_Edge.quantizer") and not packages._holds(config, "litert", "sha256")
    here = versions.base_of("project", sys.executable)
    place = Place(here, "onnx2tf")
    assert usual(("1.27.9", "1.28.0", "1.29.1", "2.0"), "onnx2tf", place) == ("1.28.0", "1.29.1")
    assert usual(("0.1", "0.2"), "onnx2tf", place) == usual(("0.1", "0.2"), "numpy", Place(here)) == ("0.1", "0.2")
