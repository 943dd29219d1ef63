"""Whatever we write, cut off at each single change of the file system: killed, disk full, broken, read-only.

After each, what was there before is whole or its successor is, nothing half-written stands where a reader looks, the
next attempt succeeds, and whoever was refused was told so in one line.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.capsule.archive import Archive, pack
from parity.cases import golden, kept, references
from parity.cases.recipes import Fill, Recipe
from parity.commands import export, release
from parity.core.case import Case
from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.errors import ParityError
from parity.core.record import FileRecord, read
from parity.core.settings import ModelConfig
from parity.exporting import publish as exporting
from parity.judging import baseline
from parity.report import publishing
from parity.report.progress import Board
from parity.session import ledger
from parity.store import atomic
from parity.store.cache import Entry, Store, sha256_file
from parity.store.remote import Remote
from tests.crash.injection import WAYS, forked
from tests.unit.ledgers import figure, run

SPEC = {"step": "export", "of": "tiny"}
CONTRACT = Contract((InputSpec("x", (1, 3), range=(-1, 1)),), (OutputSpec("y"),))
RECIPES = [Recipe({"x": Fill("uniform", seed)}) for seed in (1, 2)]


class Scenario:
    """Something that writes: `prepare` makes what was there before, `act` is cut off, `check` looks at what is left."""

    def __init__(self, folder: Path, way: str = ""):
        self.folder, self.way = folder, way

    def prepare(self) -> None: ...

    def act(self) -> object:
        raise NotImplementedError

    def check(self, again: bool) -> None:
        """What holds after a fault (`again` False), and after another attempt that nobody disturbed (True)."""
        raise NotImplementedError


class Building(Scenario):
    """A cache entry that is made."""

    def store(self) -> Store:
        return Store(self.folder / "cache")

    def build(self, text: str = "new", **options: Any) -> Entry:
        def builder(folder: Path) -> dict[str, Any]:
            (folder / "deep").mkdir()
            (folder / "deep" / "a.bin").write_text(text * 100)
            (folder / "b.bin").write_text(text)
            return {"entry": "b.bin", "text": text}

        return self.store().build(SPEC, "tiny~1-export", builder, **options)

    def act(self) -> object:
        return self.build()

    def check(self, again: bool) -> None:
        store = self.store()
        for key, _, _ in store.entries():
            found = store.get(key)
            assert found is not None, "half an entry is published"
            assert (found.folder / "b.bin").read_text() == found.notes["text"]
        if again:
            entry = self.build()
            assert entry.notes["text"] == "new"
            if entry.built:  # else a dead builder's leftovers wait for `parity cache sweep`
                assert list((self.folder / "cache" / "tmp").iterdir()) == []


class RebuildingDamaged(Building):
    def prepare(self) -> None:
        entry = self.build("new")
        (entry.folder / "b.bin").write_text("damaged")

    def check(self, again: bool) -> None:
        if again:
            super().check(again)
        else:
            found = self.store().get(self.store().last("tiny~1-export")["key"])  # type: ignore[index]
            assert found is None or found.notes["text"] == "new"


class RebuildingOld(Building):
    def prepare(self) -> None:
        self.build("old")

    def act(self) -> object:
        return self.build("new", rebuild_since=4e9)

    def check(self, again: bool) -> None:
        if not again:
            super().check(again)
        else:
            assert self.build("new", rebuild_since=4e9).notes["text"] == "new"


class TellingWorkers(Building):
    """What one process of a run tells the others."""

    def act(self) -> object:
        return self.store().once("run", "fingerprint", lambda: {"value": "a" * 64})

    def check(self, again: bool) -> None:
        notes = (self.folder / "cache").rglob("runs/run/*.json")
        assert all(json.loads(p.read_text()) == {"value": "a" * 64} for p in notes if not p.name.startswith("."))
        if again:
            assert self.act() == {"value": "a" * 64}


class Sweeping(Building):
    def prepare(self) -> None:
        self.build()
        for number in range(3):
            self.store().build(
                {"n": number}, f"n{number}", lambda folder: {"text": "", "n": (folder / "b.bin").write_text("")}
            )

    def act(self) -> object:
        return self.store().sweep(0)

    def check(self, again: bool) -> None:
        super().check(False)
        if again:
            assert list(self.store().entries()) == []


class Fetching(Building):
    """An entry that another machine has built."""

    def prepare(self) -> None:
        other = Store(self.folder / "other", self.remote())
        other.build(SPEC, "tiny", lambda folder: {"text": "new", "n": (folder / "b.bin").write_text("new")})

    def remote(self) -> Remote:
        return Remote(f"file://{self.folder}/shared")

    def store(self) -> Store:
        return Store(self.folder / "cache", self.remote())


class Pushing(Fetching):
    def prepare(self) -> None: ...

    def check(self, again: bool) -> None:
        super().check(again)
        reading = self.remote()
        reading.push = lambda key, folder: None  # type: ignore[method-assign]
        fresh = Store(self.folder / "third", reading)
        found = fresh.build(SPEC, "tiny", _absent)
        if found.notes["text"] == "absent":
            assert self.way, "nothing was pushed"  # what was not pushed at first is not pushed later
        else:
            assert (found.folder / "b.bin").read_text() == found.notes["text"]
        shutil.rmtree(self.folder / "third")


def _absent(folder: Path) -> dict[str, Any]:
    return {"text": "absent"}


class Reporting(Scenario):
    """The report of a run that fails, where that of one that passed stands."""

    html = property(lambda self: self.folder / "reports" / "parity.html")

    def prepare(self) -> None:
        publishing.publish(self.html, run(), whole=False)

    def act(self) -> object:
        publishing.clear(self.html)
        return publishing.publish(self.html, figure(0.9), whole=False)

    def check(self, again: bool) -> None:
        record = self.html.with_suffix(".json")
        if again or record.exists():
            assert read(record).verdict in (("fail",) if again else ("fail", "pass"))
        if not record.exists() and self.html.exists():
            assert "</html>" in self.html.read_text()
        if record.exists() and read(record).verdict == "pass":  # then nothing was written, and nothing cleared it
            summary = self.html.with_suffix(".md")
            assert not summary.exists() or "pass" in summary.read_text()
        if again:
            names = {p.name for p in self.html.parent.iterdir() if not p.name.startswith(".")}
            assert names >= {"parity.html", "parity.json", "parity.md", "parity.whole.json"}
            if self.way != "broken":  # one move refused and the next allowed is told by nobody
                assert names >= {"parity.whole.html", "parity.whole.md"}


class KeepingLedger(Scenario):
    path = property(lambda self: self.folder / "baseline.json")

    def prepare(self) -> None:
        ledger.write(self.path, figure(0.01))

    def act(self) -> object:
        return ledger.write(self.path, figure(0.02))

    def check(self, again: bool) -> None:
        drift = baseline.read(self.path).cells["skin-tflite-int8"].drift["golden"]["logits"]["rel_rms"]
        assert drift in ((0.02,) if again else (0.01, 0.02))


class KeepingRecipes(Scenario):
    def act(self) -> object:
        return [kept.save(self.folder, "tiny", recipe) for recipe in RECIPES]

    def check(self, again: bool) -> None:
        found, odd = kept.load(self.folder, self.model())
        assert odd == []
        assert {r.digest for r in found} <= {r.digest for r in RECIPES} and (not again or len(found) == 2)

    def model(self) -> ModelConfig:
        return ModelConfig("tiny", "a:b", CONTRACT, (), golden=self.folder / "golden")


class Promoting(KeepingRecipes):
    """Kept recipes that become golden cases: none is lost on the way."""

    def prepare(self) -> None:
        (self.folder / "golden").mkdir()
        super().act()

    def act(self) -> object:
        return kept.promote(self.folder, self.model(), []) if kept.load(self.folder, self.model())[0] else None

    def check(self, again: bool) -> None:
        left, odd = kept.load(self.folder, self.model())
        made = {c.id.removeprefix("property_") for c in golden.load(self.folder / "golden", CONTRACT)}
        assert odd == [] and made | {r.digest for r in left} == {r.digest for r in RECIPES}
        assert not again or len(made) == 2


class Packing(Scenario):
    """A capsule in place of an older one."""

    output = property(lambda self: self.folder / "out" / "c.parity")

    def source(self, text: str) -> Path:
        folder = self.folder / text
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(text * 1000)
        return folder

    def prepare(self) -> None:
        pack(self.source("old"), self.output, "capsule")
        self.source("new")

    def act(self) -> object:
        return pack(self.folder / "new", self.output, "capsule")

    def check(self, again: bool) -> None:
        with Archive(self.output, "capsule") as archive:
            assert archive.read("plan.json")[:3] in ((b"new",) if again else (b"old", b"new"))


class Exporting(Scenario):
    """Exported files in place of older ones: a manifest never lists what is not there."""

    output = property(lambda self: self.folder / "exports")

    def publish(self, text: str) -> None:
        with export.staged(self.output) as staging:
            (staging / "tiny.fp16.mlpackage" / "Data").mkdir(parents=True)
            (staging / "tiny.onnx").write_text(text)
            (staging / "tiny.fp16.mlpackage" / "Data" / "model").write_text(text)
            files = [e for n in ("tiny.onnx", "tiny.fp16.mlpackage") for e in exporting.entries(staging / n, staging)]
            exporting.publish(staging, self.output, [{"model": "tiny", "files": files}], {"tiny": {}})

    def prepare(self) -> None:
        self.publish("old")

    def act(self) -> object:
        return self.publish("new")

    def check(self, again: bool) -> None:
        manifest = self.output / "manifest.json"
        assert manifest.exists() or not again
        for entry in json.loads(manifest.read_text())["artifacts"] if manifest.exists() else ():
            assert sha256_file(self.output / entry["path"]) == entry["sha256"]
        assert not again or (self.output / "tiny.onnx").read_text() == "new"


class Releasing(Scenario):
    to = property(lambda self: self.folder / "release")

    def prepare(self) -> None:
        (self.folder / "a.bin").write_text("measured")

    def act(self) -> object:
        source = self.folder / "a.bin"
        file = FileRecord("deep/a.bin", 8, sha256_file(source))
        if not self.to.exists():
            release.publish(self.to, {"tiny-onnx-fp32": [(source, file)]}, {"cells": []})
        return None

    def check(self, again: bool) -> None:
        if again or self.to.exists():
            assert (self.to / "tiny-onnx-fp32" / "deep" / "a.bin").read_text() == "measured"
            assert json.loads((self.to / release.MANIFEST).read_text()) == {"cells": []}


class StoringReferences(Scenario):
    stored = property(lambda self: self.folder / "references")

    def write(self, value: float) -> None:
        case = Case("a", {"x": np.ones((1, 3), np.float32)})
        references.write(self.stored, [case], [{"y": np.full((1, 4), value)}], {"weights": str(value)})

    def prepare(self) -> None:
        self.write(1)

    def act(self) -> object:
        return self.write(2)

    def check(self, again: bool) -> None:
        try:
            found = references.read(self.stored)
        except ParityError:  # arrays of one and index of the other are refused
            assert not again
            return
        assert found is not None
        assert float(found.made_from["weights"]) == found.outputs["a"]["y"][0, 0]
        assert not again or found.outputs["a"]["y"][0, 0] == 2


class Telling(Scenario):
    """Progress is not worth an error."""

    def act(self) -> object:
        board = Board(self.folder / "progress")
        board.post("tiny", "oracle")
        board.clear()
        return None

    def check(self, again: bool) -> None:
        assert all(len(note) == 3 for note in Board(self.folder / "progress").read())


class WritingConfiguration(Scenario):
    """What `parity init` adds to a file that is somebody else's."""

    file = property(lambda self: self.folder / "pyproject.toml")

    def prepare(self) -> None:
        self.file.write_text("[project]\nname = 'theirs'\n")

    def act(self) -> object:
        return atomic.publish({self.file: self.file.read_text() + "[tool.parity]\n"})

    def check(self, again: bool) -> None:
        assert self.file.read_text().startswith("[project]\nname = 'theirs'\n")


SCENARIOS: tuple[type[Scenario], ...] = (
    Building, RebuildingDamaged, RebuildingOld, TellingWorkers, Sweeping, Fetching, Pushing, Reporting, KeepingLedger,
    KeepingRecipes, Promoting, Packing, Exporting, Releasing, StoringReferences, Telling, WritingConfiguration,
)  # fmt: skip
SAMPLE = 3  # changes of each scenario in an everyday run, the first and the last among them


def cut_off(scenario: type[Scenario], way: str, folder: Path, most: int | None = None) -> int:
    """Cut the scenario off at each change in turn (at `most` of them, evenly spread); the number of cuts."""
    changes = _counted(scenario, folder / "counting")
    assert changes > 0
    chosen = range(1, changes + 1) if most is None else sorted({*map(round, np.linspace(1, changes, most))})
    for at in chosen:
        made = scenario(folder / str(at), way)
        made.folder.mkdir()
        made.prepare()
        fate = forked(made.act, [made.folder], way, at)
        told = f"{way} at change {at} of {changes}: {fate.how} {fate.text}"
        assert fate.how in (("killed",) if way == "kill" else ("done", "refused")), told
        assert "\n" not in fate.text, told
        try:
            made.check(again=False)
            after = forked(made.act, [made.folder])
            assert after.how == "done", after.text
            made.check(again=True)
        except (AssertionError, ParityError, OSError) as error:
            raise AssertionError(told) from error
    return len(chosen)


def _counted(scenario: type[Scenario], folder: Path) -> int:
    folder.mkdir()
    made = scenario(folder)
    made.prepare()
    fate = forked(made.act, [folder])
    assert fate.how == "done", fate.text
    made.check(again=True)
    return fate.changes


@pytest.mark.parametrize("way", ["kill", "full"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_a_change_may_be_the_last(scenario: type[Scenario], way: str, tmp_path: Path) -> None:
    cut_off(scenario, way, tmp_path, SAMPLE)


@pytest.mark.nightly
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_every_change_may_be_the_last(scenario: type[Scenario], way: str, tmp_path: Path) -> None:
    print(f"{cut_off(scenario, way, tmp_path)} cuts of {scenario.__name__} by {way}")
