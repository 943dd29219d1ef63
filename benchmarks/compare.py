"""How long does `parity.compare` take beside what people use instead? Exits 1 if a bar is missed.

    python benchmarks/compare.py [--elements N] [--runs N]

All candidates see the same two arrays in one process, in turns, so that a busy machine slows all alike.
torch and Polygraphy take part if they can be imported.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parity.judging.compare import compare

OURS = "parity.compare, all metrics"
BASE = "numpy max abs(got - want), once"
POLYGRAPHY = "Polygraphy simple()"
BARS = {POLYGRAPHY: 0.1, BASE: 10.0}
"""Our time divided by theirs may be this at most."""


def candidates(got: Any, want: Any) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {
        BASE: lambda: float(np.max(np.abs(got - want))),
        OURS: lambda: compare(got, want, max_abs=1.0, cosine=0.99, sqnr=20.0),
        "numpy allclose": lambda: np.allclose(got, want, atol=1.0),
    }
    try:
        import torch
    except ImportError:
        pass
    else:
        a, b = torch.from_numpy(got), torch.from_numpy(want)
        found["torch.testing.assert_close"] = lambda: torch.testing.assert_close(
            a, b, atol=1.0, rtol=0.0, check_dtype=False
        )
    try:
        from polygraphy.comparator import IterationResult, SimpleCompareFunc
        from polygraphy.logger import G_LOGGER
    except ImportError:
        pass
    else:
        G_LOGGER.module_severity = G_LOGGER.CRITICAL
        judge = SimpleCompareFunc(atol=1.0)
        left, right = (IterationResult({"y": x}, runner_name=n) for x, n in ((got, "got"), (want, "want")))
        found[POLYGRAPHY] = lambda: judge(left, right)
    return found


def medians(todo: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each, after one warm-up, all taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(runs + 1):
        for name, run in todo.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=20_000_000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    want = rng.standard_normal(args.elements, dtype=np.float32)
    got = want + np.float32(1e-3) * rng.standard_normal(args.elements, dtype=np.float32)
    variants = {
        "fp32 against fp32": (got, want),
        "fp32 against fp64": (got, want.astype(np.float64)),
        # Errors in proportion to the value: max_rel has to read every block twice.
        "fp32 against fp32, relative error": (want * np.float32(1.001), want),
    }
    missed = []
    print(f"{args.elements:,} elements, median of {args.runs} runs\n")
    for title, pair in variants.items():
        seconds = medians(candidates(*pair), args.runs)
        print(f"| {title} | ms | parity / this | bar |\n| --- | ---: | ---: | ---: |")
        for name, value in seconds.items():
            ratio, bar = seconds[OURS] / value, BARS.get(name)
            print(f"| {name} | {value * 1e3:.0f} | {ratio:.3g} | {'' if bar is None else f'<= {bar:g}'} |")
            if bar is not None and ratio > bar:
                missed.append(f"{title}: {OURS} takes {ratio:.3g} times {name}, over {bar:g}")
        missing = ", ".join(name for name in BARS if name not in seconds)
        print(f"\nnot importable, so not judged: {missing}\n" if missing else "")
    for line in missed:
        print(f"MISSED: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
