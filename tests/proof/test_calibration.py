"""Grids against the calibration data that made them, on an artefact made here: no converter, no runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parity.core.proof import Culprit
from parity.formats.graph import Graph, Grid, Operator, Port
from parity.proof.calibration import calibrated

COUNT = 8
CASES = [{"a": np.random.default_rng(i).normal(0, 1, (1, 50)).astype(np.float32)} for i in range(6)]


def values(index: int, x: np.ndarray) -> np.ndarray:
    """The activation after `index` operators; odd ones are never negative."""
    y = (index + 1) * x + 0.1 * index
    return np.maximum(y, 0) if index % 2 else y


def min_max(low: float, high: float) -> Grid:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return Grid(np.array([scale]), np.array([np.rint(-128 - low / scale)]), 0, -128, 127)


class Chain:
    """A row of activations t0 ... t7, each on the grid that min-max calibration gives it."""

    def __init__(self, cases: Sequence[Mapping[str, np.ndarray]] = CASES):
        reached = [np.concatenate([values(i, c["a"]) for c in cases]) for i in range(COUNT)]
        grids = {f"t{i}": min_max(float(v.min()), float(v.max())) for i, v in enumerate(reached)}
        operators = tuple(Operator(i, "MUL", (f"t{i - 1}" if i else "a",), (f"t{i}",)) for i in range(COUNT))
        ports = (Port("a", "a"),), (Port("y", f"t{COUNT - 1}"),)
        self.graph = Graph(operators, {}, grids, *ports, channels_last=False, symmetric_weights=True)

    def lift(self, weights: Any, watch: Sequence[str] = ()) -> Any:
        return lambda case: {name: values(int(name[1:]), case["a"]) for name in watch}

    def edited(self, name: str, scale: float = 1.0, zero: float = 0.0) -> Chain:
        grid = self.graph.grids[name]
        changed = replace(grid, scale=grid.scale * scale, zero=grid.zero + zero)
        self.graph = replace(self.graph, grids={**self.graph.grids, name: changed})
        return self


def judged(chain: Chain, cases: Sequence[Mapping[str, np.ndarray]] = CASES) -> tuple[dict[str, Any], list[Culprit]]:
    return calibrated(chain.graph, chain.lift({}, list(chain.graph.grids)), cases)


def test_min_max_grids_fit() -> None:
    figures, culprits = judged(Chain())
    assert culprits == []
    assert figures == {"grids": COUNT, "calibrated_share": 1.0, "calibration_cases": len(CASES)}


@pytest.mark.parametrize(("scale", "zero"), [(1.02, 0), (0.95, 0), (0.5, 0), (1.0, 3), (1.0, -3)])
def test_a_grid_that_was_moved_is_named(scale: float, zero: float) -> None:
    _, culprits = judged(Chain().edited("t3", scale, zero))
    assert [c.name for c in culprits] == ["t3"]
    assert "calibration data" in culprits[0].what


@pytest.mark.parametrize(("scale", "zero"), [(1.001, 0), (1.0, 1)])
def test_float_rounding_of_a_range_is_no_fault(scale: float, zero: float) -> None:
    assert judged(Chain().edited("t3", scale, zero))[1] == []


@pytest.mark.parametrize(("kind", "faults"), [("AVERAGE_POOL_2D", []), ("MUL", ["t2"])])
def test_an_operator_that_keeps_a_grid_may_hand_its_results_to_what_it_reads(kind: str, faults: list[str]) -> None:
    """TFLite's quantiser clips the operand of a pool, or of a concatenation, at what the result reaches."""
    chain = Chain()
    operators = [replace(op, kind=kind) if op.index == 3 else op for op in chain.graph.operators]
    grids = {**chain.graph.grids, "t2": chain.graph.grids["t3"]}
    chain.graph = replace(chain.graph, operators=tuple(operators), grids=grids)
    assert [culprit.name for culprit in judged(chain)[1]] == faults


def test_of_a_file_calibrated_on_other_data_nothing_is_said() -> None:
    other = [{"a": 0.8 * c["a"]} for c in CASES]
    figures, culprits = judged(Chain(other))
    assert culprits == []
    assert figures["calibrated_share"] == 0.0


def test_tensors_that_share_a_grid_are_judged_together() -> None:
    """A concatenation gives its inputs the grid of its output, which holds the widest of them."""
    chain = Chain()
    widest = chain.graph.grids["t6"]
    chain.graph = replace(chain.graph, grids={**chain.graph.grids, "t2": widest})
    assert judged(chain)[1] == []


def test_a_product_may_have_the_grid_of_the_sum_that_reads_it() -> None:
    """TFLite's converter gives a residual branch the reach of its own values and of the sum together."""
    chain = Chain()
    operators = tuple(replace(op, kind="ADD") if op.index == 3 else op for op in chain.graph.operators)
    operators = tuple(replace(op, kind="CONV_2D") if op.index != 3 else op for op in operators)
    reached = [np.concatenate([values(i, c["a"]) for c in CASES]) for i in (2, 3)]
    low, high = min(float(v.min()) for v in reached), max(float(v.max()) for v in reached)
    grids = {**chain.graph.grids, "t2": min_max(low, high)}
    chain.graph = replace(chain.graph, operators=operators, grids=grids)
    assert judged(chain)[1] == []
    convolutions = tuple(replace(op, kind="CONV_2D") for op in operators)
    chain.graph = replace(chain.graph, operators=convolutions)
    assert [c.name for c in judged(chain)[1]] == ["t2"]


@pytest.mark.parametrize("scale", [1 / 256, 1 / 255])
def test_prescribed_grids_and_files_with_few_grids_are_left_alone(scale: float) -> None:
    chain = Chain()
    sigmoid = Grid(np.array([scale]), np.array([-128.0]), 0, -128, 127)
    chain.graph = replace(chain.graph, grids={**chain.graph.grids, "t2": sigmoid})
    figures, culprits = judged(chain)
    assert (figures["grids"], culprits) == (COUNT - 1, [])
    few = Chain().edited("t3", 0.5)
    few.graph = replace(few.graph, grids={n: few.graph.grids[n] for n in ("t1", "t3")})
    assert judged(few)[1] == []
    assert judged(Chain(), []) == ({}, [])


def test_what_follows_from_a_choice_is_left_alone() -> None:
    """Boxes that top-k selects: of nearly equal scores, calibration may have chosen another than is chosen here."""
    chain = Chain().edited("t5", 1.02)
    assert [c.name for c in judged(chain)[1]] == ["t5"]
    operators = tuple(replace(op, kind="TopK") if op.index == 4 else op for op in chain.graph.operators)
    chain.graph = replace(chain.graph, operators=operators)
    figures, culprits = judged(chain)
    assert (culprits, figures["grids"]) == ([], 4)


def test_a_quotient_in_float_between_grids_counts_for_the_grid_of_what_it_divides_by() -> None:
    """TFLite has no integer division: x -> DEQUANTIZE -> DIV -> QUANTIZE."""
    chain = Chain()
    operators = (
        *chain.graph.operators[:3],
        Operator(3, "DEQUANTIZE", ("t2",), ("real",)),
        Operator(4, "DIV", ("real",), ("by",)),
        Operator(5, "QUANTIZE", ("by",), ("t3",)),
        *(replace(op, index=op.index + 2) for op in chain.graph.operators[4:]),
    )  # fmt: skip
    reached = [np.concatenate([values(i, c["a"]) for c in CASES]) for i in (2, 3)]
    low, high = min(float(v.min()) for v in reached), max(float(v.max()) for v in reached)
    chain.graph = replace(chain.graph, operators=operators, grids={**chain.graph.grids, "t2": min_max(low, high)})
    assert judged(chain)[1] == []
    chain.graph = replace(chain.graph, grids={**chain.graph.grids, "t2": min_max(low, 1.05 * high)})
    assert [c.name for c in judged(chain)[1]] == ["t2"]
