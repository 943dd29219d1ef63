"""Video clips: every output of every frame against the oracle, from the encoded frame on."""

from __future__ import annotations

from parity.core.case import Case
from parity.core.executors import HOST
from parity.core.kinds import VIDEO
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.session.planning import Data
from parity.session.session import Runtime
from parity.suite.check_kind import CheckContext, SuiteKind, measures
from parity.suite.comparing import compare_cases
from parity.suite.preparing import compare_resizers, name_worst_frames
from parity.suite.recorder import Recorder


def planned(model: ModelConfig, target: Target, data: Data) -> bool:
    """Where the project has clips."""
    return data.clips > 0


def run(check: CheckContext) -> None:
    """Judge all frames of all clips; name the worst, and say what another resizer would cost."""
    runtime, parity = check.runtime, check.recorder
    cell, session = runtime.cell, runtime.session
    frames = [case for _, cases in check.clips for case in cases]
    oracle = session.reference(session.config.models[cell.model], frames)
    compare_cases("video", cell, frames, oracle, runtime, parity)
    if runtime.executor != HOST:
        return
    name_worst_frames(parity)
    compare_resizers(runtime, parity)


@measures(VIDEO)
def test_video(
    parity_cell: Cell,
    parity_video: list[tuple[str, list[Case]]],
    parity_runtime: Runtime,
    parity: Recorder,
) -> None:
    """On every frame of every clip, in order, every output is the float64 oracle's within its limits."""
    run(CheckContext(parity_runtime, parity, clips=parity_video))


KIND = SuiteKind(VIDEO, planned, run, test_video)
