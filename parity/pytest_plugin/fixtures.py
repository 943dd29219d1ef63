"""The plugin's fixtures. What is built is session-scoped; only the recorder belongs to one test."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from parity.core.executors import HOST, execution_id

if TYPE_CHECKING:
    from parity.cases.drawing import Drawing
    from parity.core.case import Case
    from parity.core.kinds import Kind
    from parity.core.plan import Cell
    from parity.pytest_plugin.control import Control
    from parity.session.artefacts import Artifact
    from parity.session.evaluations import Reference
    from parity.session.session import Runtime
    from parity.suite.recorder import Recorder

CONTROL = pytest.StashKey["Control"]()
RECORDER = pytest.StashKey["Recorder"]()


@pytest.fixture(scope="session")
def parity_plan(request: pytest.FixtureRequest) -> Any:
    """The plan of this run: every cell that must be measured."""
    return _control(request).plan


@pytest.fixture(scope="session")
def parity_cell(request: pytest.FixtureRequest) -> Any:
    """The cell under test: model, target, precision. Requesting it runs the test once a cell of the plan."""
    return request.param


@pytest.fixture(scope="session")
def parity_executor(request: pytest.FixtureRequest) -> Any:
    """What runs the cell's file: `host`, or for tests of the suite another executor of the plan."""
    return getattr(request, "param", HOST)


@pytest.fixture(scope="session")
def parity_artifact(request: pytest.FixtureRequest, parity_cell: Any) -> Artifact:
    """The cell's exported artefact, built at most once by all workers together."""
    return _control(request).session.artifact(parity_cell)


@pytest.fixture(scope="session")
def parity_runtime(
    request: pytest.FixtureRequest, parity_cell: Any, parity_executor: str, parity_artifact: Artifact
) -> Iterator[Runtime]:
    """The artefact opened in a warm child process: `parity_runtime.run([{name: array}])`."""
    session = _control(request).session
    on_host = parity_executor == HOST
    runtime = session.runtime(parity_cell) if on_host else session.executed(parity_cell, parity_executor)
    yield runtime
    runtime.close()


@pytest.fixture(scope="session")
def parity_golden(request: pytest.FixtureRequest, parity_cell: Any) -> list[Case]:
    """The golden cases of the cell's model."""
    control = _control(request)
    return control.golden(control.config.models[parity_cell.model])


@pytest.fixture(scope="session")
def parity_power(request: pytest.FixtureRequest) -> bool:
    """Whether this run was asked for the power of its limits."""
    return bool(request.config.getoption("parity_power")) or "parity_power" in (request.config.option.markexpr or "")


@pytest.fixture(scope="session")
def parity_update(request: pytest.FixtureRequest) -> bool:
    """Whether stored references are to be written anew."""
    return bool(request.config.getoption("parity_update"))


@pytest.fixture(scope="session")
def parity_drawing(request: pytest.FixtureRequest) -> Drawing:
    """How many inputs property tests draw, and from which seed: the same for every target of a model."""
    return _control(request).drawing


@pytest.fixture(scope="session")
def parity_video(request: pytest.FixtureRequest, parity_cell: Any) -> list[tuple[str, list[Case]]]:
    """(clip name, its frames as cases) of every clip of the cell's model."""
    control = _control(request)
    return control.session.video(control.config.models[parity_cell.model], control.profile.frames)


@pytest.fixture(scope="session")
def parity_reference(request: pytest.FixtureRequest, parity_cell: Any, parity_golden: list[Case]) -> Reference:
    """The float64 oracle's outputs on the golden cases, in their order."""
    control = _control(request)
    return control.session.reference(control.config.models[parity_cell.model], parity_golden)


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Recorder:
    """The recorder: `parity.check(output, got, want, cosine=0.99)`. A test that recorded no check fails."""
    from parity.judging.gate import in_force
    from parity.session import proof as session_proof
    from parity.suite.recorder import Recorder

    control = _control(request)
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    cell, executor = params.get("parity_cell"), params.get("parity_executor", HOST)
    # A project's own tests measure beside the suite's, and never count as one of the planned golden cases.
    kind: Kind = getattr(request.function, "parity_kind", "property")
    waivers = in_force(control.config.waive, cell.id, datetime.date.today()) if cell else ()
    waivers = [waiver for waiver in waivers if cell and waiver.cell == execution_id(cell.id, executor)]

    def proved() -> bool:
        if cell is None or executor != HOST:
            return False
        return session_proof.proved(control.session, cell, _golden_if_any(control, cell))

    def decides() -> Mapping[str, Any]:
        return session_proof.decides(control.session, cell, _golden_if_any(control, cell)) if cell else {}

    def unaudited() -> dict[str, int]:
        return session_proof.unaudited(control.session, cell, _golden_if_any(control, cell)) if cell else {}

    recorder = Recorder(cell, kind, control.config.rules, waivers, proved, decides, unaudited, executor)
    request.node.stash[RECORDER] = recorder
    return recorder


def _golden_if_any(control: Control, cell: Cell) -> list[Case]:
    """The golden cases that the chain of proof of a cell is made on."""
    return control.profile.golden(control.session.golden_if_any(control.config.models[cell.model]))


def _control(request: pytest.FixtureRequest) -> Control:
    control = request.config.stash.get(CONTROL, None)
    if control is None:
        raise pytest.UsageError(
            f"no pyproject.toml with a [tool.parity] table in {request.config.rootpath}: parity init"
        )
    return control
