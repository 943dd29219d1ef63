"""Files that anybody may have damaged: each is read or refused in one line; no traceback, no hang, no wrong pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from parity.process.isolate import Budget, Child, ChildFailure
from tests.fuzz.damage import damaged
from tests.fuzz.readers import NATIVE, READERS, ReadRequest
from tests.fuzz.seeds import CORPUS

ROOT = Path(__file__).parents[2]
BUDGET = Budget(30, 2 << 30)  # what one small file may cost before it counts as a hang, or a bomb
SEALED = ("capsule.parity", "manifest.json")  # no change of such a file may go unnoticed
FOUND = sorted(p for p in CORPUS.rglob("found-*"))


class Outcome(AssertionError):
    """A file that was neither read nor refused."""


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child("fuzz", root=ROOT)
    yield child
    child.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the good files, beside which a damaged one is read."""
    import shutil

    return Path(shutil.copytree(CORPUS, tmp_path_factory.mktemp("fuzz") / "corpus"))


def ask(child: Child, place: Path, kind: str, data: bytes) -> dict[str, str]:
    """What became of `data` as a file of `kind`: {"read": ...} or {"refused": one line}."""
    suffix = kind[kind.rfind(".") :]
    file = place / Path(kind).parent / f"damaged{suffix}"
    file.write_bytes(data)
    try:
        answer = child.call(
            "tests.fuzz.readers:read",
            ReadRequest(kind, str(file)),
            dict[str, str],
            budget=BUDGET,
            stage="read",
            again=False,
        )
    except ChildFailure as failure:
        if kind in NATIVE and failure.state in ("crash", "timeout"):  # named, and nobody else's end
            return {"refused": str(failure)}
        kept = place.parent / f"found-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
        kept.write_bytes(data)
        raise Outcome(f"{kind}: {failure.state}: {failure.reason}\n{kept}\n{failure.log[-1500:]}") from None
    line = answer.get("refused", "-")
    assert line and "\n" not in line.strip() and len(line) < 1000 and "Traceback" not in line, f"{kind}: {line!r}"
    return answer


@pytest.mark.parametrize("kind", READERS)
def test_a_good_file_is_read(child: Child, place: Path, kind: str) -> None:
    assert "read" in ask(child, place, kind, (CORPUS / kind).read_bytes())


@pytest.mark.parametrize("file", FOUND, ids=lambda p: p.name)
def test_what_fuzzing_found_is_refused(child: Child, place: Path, file: Path) -> None:
    """`found-KIND.N.suffix`: files that once gave a traceback, a crash or a hang."""
    (kind,) = [k for k in READERS if Path(k).name == f"{file.name.split('-')[1].split('.')[0]}{file.suffix}"]
    assert "refused" in ask(child, place, kind, file.read_bytes())


def fuzz(child: Child, place: Path, kind: str, examples: int, random: bool) -> None:
    seed = (CORPUS / kind).read_bytes()

    @settings(
        max_examples=examples, derandomize=not random, deadline=None, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.one_of(damaged(seed, kind), st.binary(max_size=64)))
    def read_or_refused(data: bytes) -> None:
        answer = ask(child, place, kind, data)
        if kind == "capsule.parity" and data != seed:
            assert "refused" in answer, f"a changed {kind} was taken"

    read_or_refused()


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_or_refused(child: Child, place: Path, kind: str) -> None:
    fuzz(child, place, kind, 40, random=False)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", READERS)
def test_many_damaged_files_are_read_or_refused(child: Child, place: Path, kind: str) -> None:
    fuzz(child, place, kind, 300 if kind in NATIVE else 3000, random=True)  # two of five crash LiteRT: a child each


def test_the_corpus_is_small() -> None:
    assert sum(p.stat().st_size for p in CORPUS.rglob("*") if p.is_file()) < 200_000
