"""Fresh mutations of strangers' right files: does the suite refuse what computes something else?

The faults are the library's for files (`parity/faults/artefact`), put into files that nobody chose them for. Whether an
edit changed anything is for the judge by hand: the edited file and the right one run on the golden inputs by plain
runtimes. The suite's word is that of `research/seeded.py`: a golden check that breaks, a runtime that refuses the file,
or the chain of proof.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parity import config as configuration
from parity import formats as targets
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.session.session import Session
from parity.store.cache import Store
from research import seeded
from research.strangers import lines
from research.strangers.by_hand.files import opened
from research.strangers.by_hand.inputs import Array, Case, cases, settings
from research.strangers.by_hand.verdict import relative
from research.strangers.lines import Line

CHANGED = 1e-6  # of the outputs' spread; less is what float32 kernels differ by
FORMATS = ("onnx", "tflite", "ncnn")  # those whose files can be edited, and run by hand


def measure_all(options: argparse.Namespace) -> int:
    """Edit every right file of the lines given that passed, `--count` times at most; lines go to `options.out`."""
    from research.strangers.__main__ import chosen

    sys.path.insert(0, str(options.environment.resolve() / "packages"))
    os.environ.setdefault("USE_TF", "0")
    told = [line for line in lines.read(options.files) if line.outcome == "right, passed" and line.target in FORMATS]
    models = list(dict.fromkeys(line.model for line in told))
    done = {(line.cell, line.edit) for line in lines.read([options.out])} if options.out.exists() else set()
    for model in chosen(models, options.only, options.shard):
        with _session(options.work.resolve() / model) as session:
            for line in (line for line in told if line.model == model):
                for edited in mutated(session, line, options.work.resolve() / model, options.count):
                    if (edited.cell, edited.edit) not in done:
                        lines.write(options.out, [edited])
                        print(f"{edited.cell} {edited.edit}: {edited.outcome} ({edited.why})", flush=True)
    return 0


@contextlib.contextmanager
def _session(folder: Path) -> Iterator[Session]:
    """The project's own session, on the store that its run filled."""
    config = configuration.load(folder / "pyproject.toml", targets.facts())
    session = Session(config, f"mutations-{time.time()}", store=Store.at(str(folder / "store"), folder))
    try:
        yield session
    finally:
        session.close()


def mutated(session: Session, line: Line, folder: Path, count: int) -> Iterator[Line]:
    """A line for each of `count` faults drawn from those that fit the file; the same ones in every run."""
    cell = Cell(line.model, line.target, line.precision)
    model = session.config.models[line.model]
    subject = seeded.Subject(session, model, cell, folder / "mutations")
    table = settings(folder, line.model)
    golden = cases(folder / table["golden"], table)
    names = [spec["name"] for spec in table["inputs"]]
    right = _outputs(line.target, subject.artifact.folder, names, golden)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        edits = sorted(subject.faulty(Path(work)), key=lambda edit: edit[0])
        random.Random(line.cell).shuffle(edits)
        for fault, place, notes in edits[:count]:
            start = time.monotonic()
            try:  # first in a child of the suite: a file that ends its runtime would end this process too
                rows = subject.run(place, notes)
            except ParityError as error:
                changed, why, state, reason = True, "the runtime refuses it", "error", str(error)[:160]
            else:
                changed, why = _changed(line.target, place, names, golden, right)
                state, reason = _suite(subject, rows, place, notes) if changed else ("pass", "")
            yield Line(
                line.model, line.cell, line.target, line.precision, state, reason, "", True,
                "wrong" if changed else "right", why, time.monotonic() - start, line.held_back, fault,
            )  # fmt: skip


def _outputs(target: str, folder: Path, names: list[str], golden: list[Case]) -> list[list[Array]]:
    runner = opened(target, folder, names)
    found = []
    for case in golden:
        result = runner(case)
        found.append(list(result.values()) if isinstance(result, dict) else result)
    return found


def _changed(
    target: str, folder: Path, names: list[str], golden: list[Case], right: list[list[Array]]
) -> tuple[bool, str]:
    """Whether the edited file computes something else by hand, and by how much."""
    try:
        got = _outputs(target, folder, names, golden)
    except Exception as error:  # whatever a runtime raises
        return True, f"does not run: {type(error).__name__}"
    if any(g.shape != r.shape for a, b in zip(got, right, strict=True) for g, r in zip(a, b, strict=True)):
        return True, "another shape"
    moved = max(
        relative([np.asarray(case[k]) for case in got], [np.asarray(case[k], np.float64) for case in right])
        for k in range(len(right[0]))
    )
    return moved > CHANGED, f"moved by {moved:.3g}"


def _suite(subject: seeded.Subject, rows: seeded.Rows, folder: Path, notes: Any) -> tuple[str, str]:
    """State and reason, as the suite has them for such a file."""
    reason = subject.judged(rows, folder, notes)
    return ("fail", reason) if reason else ("pass", "")
