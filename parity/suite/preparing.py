"""What the choice of a resizer costs: the same frame by Pillow (declared), by OpenCV, and inside the model's framework.

Apps rarely resize with the library that training used. The oracle itself is fed each version, so that what is measured
is the choice and nothing of the artefact. Described; a project that sets a limit gates it.
"""

from __future__ import annotations

import numpy as np

from parity.cases import video as videos
from parity.core.case import Array, Case
from parity.core.errors import ParityError
from parity.judging import judge
from parity.judging.single import distance, rms, size_of
from parity.session.session import Runtime
from parity.suite.recorder import Recorder

PATHS = {  # metric -> (child, function, whether it filters, in words)
    "resize_opencv": ("video", "parity.cases.video:resize_opencv", False, "OpenCV's bilinear"),
    "resize_area": ("video", "parity.cases.video:resize_opencv", True, "OpenCV's area"),
    "resize_torch": ("torch", "parity.reference.resizing:resize", False, "torch's bilinear"),
    "resize_filtered": ("torch", "parity.reference.resizing:resize", True, "torch's filtered bilinear"),
}


WORST = 3


def name_worst_frames(parity: Recorder) -> None:
    """Note the frames where the artefact is furthest from the oracle, and how its error moves over each clip."""
    curves: dict[tuple[str, str, str], list[tuple[str, float]]] = {}
    for c in parity.checks:
        if c.metric in ("noise_ratio_case", "rel_rms") and c.case != "all" and c.value is not None:
            curves.setdefault((c.output, c.case.rpartition("#")[0], c.metric), []).append((c.case, c.value))
    chosen = {(output, clip): metric for output, clip, metric in curves}  # noise_ratio_case follows rel_rms
    for (output, clip), metric in chosen.items():
        curve = curves[output, clip, metric]
        worst = sorted(curve, key=lambda point: -point[1])[:WORST]
        half = len(curve) // 2
        early, late = (float(np.median([v for _, v in part])) if part else 0.0 for part in (curve[:half], curve[half:]))
        said = ", ".join(f"#{case.rpartition('#')[2]} ({value:.3g})" for case, value in worst)
        parity.find(f"{clip}, {output}: worst frames by {metric}: {said}; median {early:.3g} in the first half of "
                    f"{len(curve)} frames, {late:.3g} in the second")  # fmt: skip


def compare_resizers(runtime: Runtime, parity: Recorder) -> None:
    """For the first frame of the model's first clip, how far each resizer moves the input and every output."""
    session = runtime.session
    model = session.config.models[runtime.cell.model]
    spec = model.contract.picture_input()
    how = model.contract.preprocess
    size = (how.size if how and how.size else None) or spec.shape[-2:]
    height, width = (int(n) for n in size)
    frame, name = session.first_frame(model)
    declared = videos.as_case(f"{name}: declared", frame, model.contract)
    cases, words = [declared], []
    for metric, (family, function, filtered, said) in PATHS.items():
        request = videos.ResizeRequest([frame], height, width, filtered)
        resized = session.children.call(family, function, request, list[Array], stage="resize")[0]
        cases.append(videos.already_resized(Case(f"{name}: {metric}", declared.inputs), resized, model.contract))
        words.append(said)
    rows = session.evaluated(model, cases, "oracle", True)
    for output in model.contract.outputs:
        moves = []
        for metric, case, row, said in zip(PATHS, cases[1:], rows[1:], words, strict=True):
            if row[output.name].shape != rows[0][output.name].shape:
                raise ParityError(f"output {output.name} changes its shape with the resizer")
            moved = distance(row[output.name], rows[0][output.name]) / (size_of(rows[0][output.name]) or 1.0)
            into = rms(case.inputs[spec.name].astype(np.float64) - declared.inputs[spec.name])
            flips = output.decides and not np.array_equal(row[output.name].argmax(-1), rows[0][output.name].argmax(-1))
            detail = f"{said} resize instead of the declared one moves the input by {into:.3g} rms"
            parity.add(judge.described("video", output, metric, moved, parity.limits(output.name), detail))
            moves.append(f"{said} {moved:.2g}" + (" and another decision" if flips else ""))
        parity.find(f"resizing {name}'s first frame otherwise moves {output.name} by (share of its rms): "
                    + ", ".join(moves))  # fmt: skip
