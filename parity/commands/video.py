"""`parity video`: run a model and its exported file on the frames of a clip, and compare them frame by frame.

Frames go through the model's declared preprocessing. Without a choice the command compares; --validate-torch and
--coreml run one side alone and show what it decides.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from parity import formats as targets
from parity.cases import video as videos
from parity.commands import project
from parity.core.case import Array, Case
from parity.core.contract import OutputSpec
from parity.core.errors import ConfigError, ParityError
from parity.core.plan import PRECISIONS, Cell, choose
from parity.core.settings import ModelConfig
from parity.formats.target import version
from parity.judging.baseline import INSTRUMENTS
from parity.judging.check_cases import check_cases
from parity.judging.limits import fallback, resolve
from parity.judging.post_processing import post_process
from parity.session import project as project_config
from parity.session.session import Session
from parity.session.toolchains import unavailable


def add(commands: Any) -> None:
    command = commands.add_parser("video", help="compare a model with its file on a clip", description=__doc__)
    option = command.add_argument
    option("model", metavar="MODEL", help="a model of [tool.parity.models] that takes pictures")
    option("--video", type=Path, required=True, metavar="PATH", help="the clip")
    modes = command.add_mutually_exclusive_group()
    modes.add_argument("--compare", action="store_true", help="run both sides and compare every frame (default)")
    modes.add_argument("--validate-torch", action="store_true", help="run the PyTorch model only")
    modes.add_argument("--coreml", action="store_true", help="run the Core ML file only")
    option("--target", default="coreml", metavar="NAME", help="the file to compare with (default coreml)")
    option("--precision", default="fp16", choices=PRECISIONS, help="of that file (default fp16)")
    option("--max-frames", type=int, metavar="N", help="stop after N frames")
    option("--stride", type=int, default=1, metavar="N", help="take every Nth frame (default 1)")
    option("--rotate", type=int, default=0, choices=(-90, 0, 90, 180, 270), help="turn clockwise before cropping")
    option("--crop-from", choices=("top", "bottom", "center"), help="crop a square from there before resizing")
    option("--save-debug-frames", type=Path, metavar="DIR", help="save the worst and the first frames as PNG")
    option("--parity-cache", dest="cache", metavar="URL", help="the artefact cache to use, as for pytest")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config = project_config.here(factories=True)
    choose("model", options.model, config.models)
    model = config.models[options.model]
    if options.stride < 1 or (options.max_frames is not None and options.max_frames < 1):
        raise ConfigError("--stride and --max-frames must be at least 1")
    if options.coreml and not options.target.startswith("coreml"):
        raise ConfigError(f"--coreml runs the Core ML file alone, --target {options.target} is another: leave one out")
    if not options.video.is_file():
        raise ParityError(f"video {options.video}: no such file")
    versions = {name: version(name) for name in ("torch", *INSTRUMENTS, "coremltools")}
    packages = ", ".join(f"{name} {number}" for name, number in versions.items() if number != "absent")
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {packages}")
    cell = Cell(model.name, choose("target", options.target, targets.names()), options.precision)
    with project.session(config, options.cache) as session:
        decoded = _decode(session, options)
        height, width = decoded.frames[0].shape[:2]
        print(
            f"{options.video.name}: {len(decoded.frames)} of {decoded.total} frames, {width} x {height}, "
            f"{decoded.fps:g} a second"
        )
        cases = videos.cases(options.video.name, decoded, model.contract, options.rotate, options.crop_from)
        torch_rows = None
        if not options.coreml:
            torch_rows = session.reference(model, cases).outputs
        file_rows = None
        if not options.validate_torch:
            file_rows = _run_file(session, cell, model, cases)
        if torch_rows is None or file_rows is None:
            code = _alone(model, cases, torch_rows if file_rows is None else file_rows)
            order = list(range(len(cases)))
        else:
            code, order = _compare(session, cell, model, cases, torch_rows, file_rows)
            _resizing(session, model, cases, decoded, options)
    if options.save_debug_frames:
        _save(options, decoded, order[:4])
    return code


def _decode(session: Session, options: argparse.Namespace) -> videos.Decoded:
    path = str(options.video.resolve())
    request = videos.DecodeRequest(path, options.stride, options.max_frames)
    function = "parity.cases.video:decode"
    return session.children.call("video", function, request, videos.Decoded, stage="decode", confined=True)


def _run_file(session: Session, cell: Cell, model: ModelConfig, cases: Sequence[Case]) -> list[dict[str, Array]]:
    reason = unavailable(session.config, cell)
    if reason:
        raise ParityError(f"{cell}: {reason}")
    runtime = session.runtime(cell)
    rows = runtime.run([case.inputs for case in cases])
    record = runtime.record()
    print(f"{cell}: run by {record.name} {record.version}, {record.median_ms or 0:.2f} ms a frame")
    return rows


def _alone(model: ModelConfig, cases: Sequence[Case], rows: Sequence[Mapping[str, Array]] | None) -> int:
    assert rows is not None
    for case, row in zip(cases, rows, strict=True):
        for spec in model.contract.outputs:
            print(f"{case.id}: {spec.name} {_decision(spec, row[spec.name])}")
            if not np.isfinite(row[spec.name]).all():
                raise ParityError(f"{case.id}: {spec.name} is not finite")
    return 0


def _decision(spec: OutputSpec, value: Array) -> str:
    flat = value.reshape(-1)
    if not spec.decides:
        return f"mean {flat.mean():.6g}, from {flat.min():.6g} to {flat.max():.6g}"
    best = int(flat.argmax())
    name = spec.labels[best] if best < len(spec.labels) else f"class {best}"
    return f"{name} ({flat[best]:.4f})"


def _compare(
    session: Session,
    cell: Cell,
    model: ModelConfig,
    cases: Sequence[Case],
    torch_rows: Sequence[Mapping[str, Array]],
    file_rows: Sequence[Mapping[str, Array]],
) -> tuple[int, list[int]]:
    """Print every frame and the worst; the exit code, and the frames' positions, worst first."""
    specs = model.contract.outputs
    wants = [post_process(specs, row) for row in torch_rows]
    limits = {spec.name: resolve(session.config.rules, cell, spec.name) for spec in specs}
    ids = [case.id for case in cases]
    checks = check_cases("video", specs, ids, file_rows, wants, {}, limits, fallback(cell.precision)).checks
    broken = [c for c in checks if not c.passed]
    worst: list[float] = []
    for case, want, got in zip(cases, torch_rows, file_rows, strict=True):
        values = {c.metric: c.value for c in checks if c.case == case.id}
        bad = [c for c in broken if c.case == case.id]
        worst.append(values["max_abs"] if values["max_abs"] is not None else np.inf)
        spec = specs[0]
        same = "" if not bad else "  OUTSIDE: " + ", ".join(sorted({c.metric for c in bad}))
        print(f"{case.id}: {_decision(spec, want[spec.name])}, file {_decision(spec, got[spec.name])}, "
              f"max abs {worst[-1]:.3g}{same}")  # fmt: skip
    order = sorted(range(len(cases)), key=lambda i: -worst[i])
    print(f"worst frame: {cases[order[0]].id}, max abs {worst[order[0]]:.3g}")
    if broken:
        print(
            f"{len(broken)} checks outside their limits, first: {broken[0].metric} of {broken[0].case}, "
            f"limit from {broken[0].source}"
        )
    else:
        print(f"all {len(cases)} frames inside the limits of {cell}")
    return int(bool(broken)), order


def _resizing(
    session: Session, model: ModelConfig, cases: Sequence[Case], decoded: videos.Decoded, options: argparse.Namespace
) -> None:
    """Say what resizing by OpenCV instead of Pillow would change, on the first frame."""
    spec = model.contract.picture_input()
    height, width = (int(n) for n in spec.shape[-2:])
    frame = videos.upright(decoded.frames[0], options.rotate, options.crop_from)
    request = videos.ResizeRequest([frame], height, width)
    function = "parity.cases.video:resize_opencv"
    resized = session.children.call("video", function, request, list[Array], stage="resize")[0]
    other = videos.already_resized(cases[0], resized, model.contract)
    wants = session.reference(model, [cases[0], other]).outputs
    change = float(np.sqrt(np.mean((cases[0].inputs[spec.name] - other.inputs[spec.name]) ** 2)))
    output = model.contract.outputs[0].name
    moved = float(np.abs(wants[0][output] - wants[1][output]).max())
    print(f"resizing by OpenCV instead of Pillow would move the input by {change:.3g} rms and {output} by {moved:.3g}")


def _save(options: argparse.Namespace, decoded: videos.Decoded, chosen: Sequence[int]) -> None:
    folder: Path = options.save_debug_frames
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i in chosen:
            frame = videos.upright(decoded.frames[i], options.rotate, options.crop_from)
            Image.fromarray(frame).save(folder / f"{options.video.stem}_{decoded.indices[i]:05d}.png")
    except OSError as error:
        raise ParityError(f"{folder}: cannot be written: {error.strerror or error}") from None
    print(f"saved {len(chosen)} frames to {folder}/")
