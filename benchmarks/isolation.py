"""What isolation costs: the same inference in this process, in a warm child, and in a fresh child each time.

Run: python benchmarks/isolation.py
Prints medians and ratios, measured side by side in one run on the example model's fp32 ONNX artefact.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from parity.commands import project
from parity.core.plan import Cell
from parity.formats.onnx.runtime import OrtSession
from parity.formats.serve import Opened, OpenRequest, Outputs, RunRequest
from parity.process.isolate import Child
from parity.session import project as project_config

ROUNDS = 200


def median_ms(call: Callable[[], object], rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    config = project_config.here()
    with project.session(config) as session:
        cell = Cell("skin", "onnx", "fp32")
        artifact, runtime = session.artifact(cell), session.runtime(cell).open()
        inputs = {"image": np.random.default_rng(0).random((1, 3, 96, 96), np.float32)}
        here = OrtSession(str(artifact.folder), artifact.notes)
        request = OpenRequest("parity.formats.onnx.runtime:OrtSession", str(artifact.folder), artifact.notes)

        def fresh() -> None:
            child = Child("fresh", root=config.root)
            opened = child.call("parity.formats.serve:open_session", request, Opened)
            child.call("parity.formats.serve:run", RunRequest(opened.handle, [inputs]), Outputs)
            child.close()

        rows = [
            ("in this process", median_ms(lambda: here.run(inputs), ROUNDS)),
            ("warm child, one case a call", median_ms(lambda: runtime.run([inputs]), ROUNDS)),
            ("warm child, 48 cases a call, each", median_ms(lambda: runtime.run([inputs] * 48), ROUNDS // 10) / 48),
            ("fresh child each time", median_ms(fresh, 5)),
        ]
    print("| inference of skin-onnx-fp32 | ms | against this process |\n| --- | ---: | ---: |")
    for name, value in rows:
        print(f"| {name} | {value:.3f} | {value / rows[0][1]:.2f} |")


if __name__ == "__main__":
    main()
