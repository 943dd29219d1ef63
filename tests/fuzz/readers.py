"""What reads each kind of file, for the child that fuzzing reads them in: `READERS[kind](file)` returns or refuses.

A reader returns something when it takes the file, and raises ParityError with one line when it does not. Any other
exception is a finding, and so are a crash, a hang and much memory, which the child's budget turns into failures.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity import formats
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.core.errors import ParityError

TENSORS = Contract(
    (InputSpec("x", ("batch", 3), "float32", (-1.0, 1.0)), InputSpec("m", ("batch", "n"), "int32", (0, 5))),
    (OutputSpec("y", "logits", ("a", "b", "c")),),
)
PICTURES = Contract((InputSpec("image", (1, 3, 8, 8)),), (OutputSpec("y"),), Preprocess())
NAMES = {"inputs": {"x": {"name": "x"}}, "outputs": {"y": {"name": "y"}}}
ROWS = [{"x": np.linspace(-1, 1, 3, dtype=np.float32)[None] * np.float32(k)} for k in (1, 2)]


def _configuration(file: Path) -> Any:
    from parity import config
    from parity.judging.limits import resolve

    loaded = config.load(file, formats.facts(), checkpoints=False)
    return [resolve(loaded.rules, cell, o.name) for cell in loaded.cells
            for o in loaded.models[cell.model].contract.outputs]  # fmt: skip


def _record(file: Path) -> Any:
    """Everything that a stored record is used for: judged, shown, compared with itself."""
    from parity.core import record
    from parity.judging import baseline, gate
    from parity.report import markdown, render

    read = record.read(file)
    judged = gate.judge(record.build(record.RunRecord, record.plain(read) | {
        "cells": [record.plain(gate.rejudge(c, ())) for c in read.cells]
    }))  # fmt: skip
    baseline.attach(baseline.load(baseline.save(judged)), judged)
    return gate.exit_code(judged), len(markdown(judged)), len(render(judged))


def _shard(file: Path) -> Any:
    from parity.core import record
    from parity.judging import shards

    other = record.read(file.parent / "other.json") if (file.parent / "other.json").exists() else None
    read = record.read(file)
    return shards.merge([("a.json", read)] + ([("b.json", other)] if other else [])).verdict


def _ledger(file: Path) -> Any:
    from parity.judging import baseline

    return baseline.costs(baseline.read(file))


def _manifest(file: Path) -> Any:
    """The manifest of a cache entry: damage is no error, the entry just is not there."""
    from parity.store.cache import Store

    with tempfile.TemporaryDirectory() as folder:
        key = "cc1e27c1cb6e2c0bd9d2b1b6b9a2fb0d31a3e8a3b7e6ef6a6de2b1b6b9a2fb0d"
        entry = Path(folder, "objects", key)
        entry.mkdir(parents=True)
        (entry / "weights.bin").write_bytes(b"weights")
        shutil.copyfile(file, entry / "manifest.json")
        Path(folder, "last").mkdir()
        shutil.copyfile(file, Path(folder, "last", "a.json"))
        store = Store(Path(folder))
        found, _ = store.get(key), store.last("a")
        if found is None:
            raise ParityError("no such entry")
        return found.notes


def _archive(file: Path) -> Any:
    """An entry of a shared cache."""
    from parity.store.remote import Remote

    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder, "shared", "objects")
        shared.mkdir(parents=True)
        shutil.copyfile(file, shared / "key.tar")
        remote, here = Remote(f"file://{folder}/shared"), Path(folder, "here", "key")
        here.parent.mkdir()
        fetched = remote.fetch("key", here)
        outside = [p for p in Path(folder).rglob("*") if p.is_file() and not p.is_relative_to(here)]
        if outside != [shared / "key.tar"]:
            raise AssertionError(f"wrote outside its folder: {outside}")
        if any(p.is_symlink() for p in here.rglob("*")):
            raise AssertionError("unpacked a link")
        if not fetched:
            raise ParityError(remote.notices[0])
        return sorted(p.name for p in here.rglob("*"))


def _recipe(file: Path) -> Any:
    from parity.cases import kept
    from parity.cases.recipes import Recipe

    try:
        recipe = Recipe.parse(file.read_text(encoding="utf-8", errors="replace"), TENSORS)
    finally:
        with tempfile.TemporaryDirectory() as root:
            folder = kept.folder(Path(root), "tiny")
            folder.mkdir(parents=True)
            shutil.copyfile(file, folder / "a.json")
            kept.load(Path(root), _named("tiny"))  # a file that is odd is told, and stops nothing
    return str(recipe.id), [v.shape for v in recipe.arrays(TENSORS).values()], recipe.weight(TENSORS)


def _named(name: str) -> Any:
    from parity.core.settings import ModelConfig

    return ModelConfig(name, "a:b", TENSORS, ())


def _contract(file: Path) -> Any:
    from parity.exporting import contracts

    contract, axes, _ = contracts.read(file, Path("tiny.fp16.onnx"))
    return contract.sizes(), axes


def _references(file: Path) -> Any:
    """The arrays of stored references, or their index: the other one is made to fit, as somebody hostile would."""
    import hashlib
    import json

    from parity.cases import references

    with tempfile.TemporaryDirectory() as folder:
        data = file.read_bytes()
        if data.lstrip()[:1] == b"{":
            Path(folder, references.INDEX).write_bytes(data)
            shutil.copyfile(file.parent / "arrays.npz", Path(folder, references.ARRAYS))
        else:
            Path(folder, references.ARRAYS).write_bytes(data)
            index = {"schema": references.SCHEMA, "made_from": {}, "cases": {"a": "0", "b": "1"},
                     "arrays": hashlib.sha256(data).hexdigest()}  # fmt: skip
            Path(folder, references.INDEX).write_text(json.dumps(index))
        stored = references.read(Path(folder))
        assert stored is not None
        return sorted(stored.outputs)


def _golden(file: Path) -> Any:
    from parity.cases import golden

    (case,) = golden.load(file, TENSORS)
    return {n: (v.shape, str(v.dtype)) for n, v in case.inputs.items()}


def _picture(file: Path) -> Any:
    from parity.cases import golden

    return golden.picture(file, Preprocess(), (1, 3, 8, 8)).shape


def _video(file: Path) -> Any:
    from parity.cases import video

    decoded = video.decode(video.DecodeRequest(str(file), maximum=4))
    return [c.id for c in video.cases(file.name, decoded, PICTURES)]


def _checkpoint(file: Path) -> Any:
    from parity.reference.modelling import read_checkpoint

    return {n: list(v.shape) for n, v in read_checkpoint(file).items()}


def _capsule(file: Path) -> Any:
    from parity.capsule.archive import Archive
    from parity.capsule.contents import load_array, load_plan

    with Archive(file, "capsule") as archive, tempfile.TemporaryDirectory() as folder:
        plan = load_plan(archive)
        for name in archive:
            archive.extract(name, Path(folder, name))
            if name.endswith(".npy"):
                load_array(archive, name)
        return [c.id for c in plan.cells]


def _param(file: Path) -> Any:
    from parity.files import ncnn as ncnn_files

    layers = ncnn_files.layers(file.read_text(encoding="utf-8", errors="replace"))
    return len(ncnn_files.blobs(layers, (file.parent / "weights.bin").read_bytes()))


def _package(part: str) -> Callable[[Path], Any]:
    """One file of a Core ML package, in the place of the good one."""

    def read(file: Path) -> Any:
        import parity.mil

        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder, "m.mlpackage")
            shutil.copytree(file.parent / "m.mlpackage", package)
            shutil.copyfile(file, package / part)
            program = parity.mil.load(package)
            return sorted(program.run({"x": ROWS[0]["x"]}))

    return read


def _artefact(target: str) -> Callable[[Path], Any]:
    """A file that a native runtime runs, read as a cell reads it: opened, run, and its graph taken in for the proof.

    Where the runtime takes the file, the reader of its graph must either read it or say why it cannot.
    """

    def read(file: Path) -> Any:
        from parity import formats as targets
        from parity.formats import serve
        from parity.formats.graph import NotPossible
        from parity.formats.target import load_part

        notes = {"entry": file.name, **NAMES}
        try:
            request = serve.OpenRequest(targets.get(target).session, str(file.parent), notes)
            handle = serve.open_session(request).handle
            outputs = serve.run(serve.RunRequest(handle, ROWS)).outputs
            serve.close_session(handle)
        except Exception as error:  # the runtime's own words
            lines = str(error).strip().splitlines() or [""]
            raise ParityError(f"{type(error).__name__}: {lines[0]:.200}") from None
        try:
            graph = len(load_part(targets.get(target).graph)(str(file.parent), notes, ()).graph.operators)
        except NotPossible as obstacle:
            graph = f"{obstacle!s:.40}"
        return [{n: v.shape for n, v in row.items()} for row in outputs], graph

    return read


NATIVE = ("artefact.onnx", "artefact.tflite")
"""Kinds that native code reads: it may refuse, crash or run away in whatever way it likes, and the child names it."""

READERS: dict[str, Callable[[Path], Any]] = {
    "configuration.toml": _configuration,
    "record.json": _record,
    "shard.json": _shard,
    "ledger.json": _ledger,
    "manifest.json": _manifest,
    "recipe.json": _recipe,
    "contract.json": _contract,
    "references.json": _references,
    "references.npz": _references,
    "golden.npz": _golden,
    "picture.png": _picture,
    "picture.jpg": _picture,
    "video.mp4": _video,
    "video.avi": _video,
    "checkpoint.npz": _checkpoint,
    "checkpoint.safetensors": _checkpoint,
    "checkpoint.pt": _checkpoint,
    "capsule.parity": _capsule,
    "shared.tar": _archive,
    "net.param": _param,
    "artefact.onnx": _artefact("onnx"),
    "artefact.tflite": _artefact("tflite"),
    "package/model.mlmodel": _package("Data/com.apple.CoreML/model.mlmodel"),
    "package/weight.bin": _package("Data/com.apple.CoreML/weights/weight.bin"),
    "package/Manifest.json": _package("Manifest.json"),
}
"""What reads a kind of file, by the corpus folder and name of its seed."""


@dataclass(frozen=True)
class ReadRequest:
    kind: str
    file: str


def read(request: ReadRequest) -> dict[str, str]:
    """What became of a file: {"read": something} or {"refused": the line that a user sees}."""
    try:
        return {"read": repr(READERS[request.kind](Path(request.file)))[:200]}
    except ParityError as error:
        return {"refused": str(error)}
