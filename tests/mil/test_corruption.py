"""Damaged packages: refused in words, or computed; never a crash, a hang, or another exception."""

import json
import shutil
import struct
import time

import numpy as np
import pytest
import torch

import parity.mil
from parity.core.errors import ParityError
from parity.mil import CorruptPackage, InputError, UnsupportedOperator
from parity.mil.blob import BlobFile
from tests.mil import zoo
from tests.mil.build import Builder

X = {"x": torch.rand(zoo.IMAGE, generator=torch.Generator().manual_seed(3)).numpy()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return zoo.convert(zoo.model("plain_cnn"), torch.rand(zoo.IMAGE), tmp_path_factory.mktemp("whole") / "m.mlpackage")


@pytest.fixture
def package(original, tmp_path):
    shutil.copytree(original, tmp_path / "m.mlpackage")
    return tmp_path / "m.mlpackage"


def files(package):
    """Specification and weight file of a package."""
    data = package / "Data" / "com.apple.CoreML"
    return data / "model.mlmodel", data / "weights" / "weight.bin"


def refused(package, message):
    with pytest.raises(CorruptPackage, match=message):
        parity.mil.load(package).run(X)


def test_truncated_weights_are_refused(package):
    _, weights = files(package)
    whole = weights.read_bytes()
    for length in (0, 1, 63, 64, 100, 128, len(whole) // 2, len(whole) - 64):
        weights.write_bytes(whole[:length])
        refused(package, "truncated|cannot be read")
    weights.write_bytes(whole)
    last = list(BlobFile(weights).blobs.values())[-1]
    weights.write_bytes(whole[: last.data + last.size - 1])
    refused(package, "truncated: weight at offset")


def test_every_truncation_of_the_specification_is_refused(package):
    specification, _ = files(package)
    whole = specification.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        specification.write_bytes(whole[:length])
        with pytest.raises(ParityError):
            parity.mil.load(package).run(X)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (0, 0xDEADBEE0, "no weight at offset 64"),
        (1, 3, "stored as uint8"),
        (1, 99, "type number 99"),
        (2, 4, "4 bytes are stored|no weight at offset"),
        (2, 1 << 40, "truncated"),
        (3, 64, "overlap"),
        (3, 1 << 40, "truncated"),
    ],
)
def test_damaged_weight_record(package, field, value, message):
    _, weights = files(package)
    raw = bytearray(weights.read_bytes())
    record = list(struct.unpack_from("<IIQQQ", raw, 64))
    record[field] = value
    struct.pack_into("<IIQQQ", raw, 64, *record)
    weights.write_bytes(raw)
    refused(package, message)


def test_packages_of_coremltools_before_its_types_below_a_byte_are_read(package):
    """It wrote records without clearing what it did not use: memory of that process stands where the unused bits are
    counted since. Only types below a byte have such bits."""
    expected = parity.mil.load(package).run(X)
    _, weights = files(package)
    raw = bytearray(weights.read_bytes())
    for record in BlobFile(weights).blobs:
        struct.pack_into("<QQ", raw, record + 24, 0x2BC7189F0, 0x16B394090)
    weights.write_bytes(raw)
    got = parity.mil.load(package).run(X)
    assert {name: value.tolist() for name, value in got.items()} == {n: v.tolist() for n, v in expected.items()}


def test_weight_file_header(package):
    _, weights = files(package)
    raw = bytearray(weights.read_bytes())
    struct.pack_into("<II", raw, 0, 1, 1)
    weights.write_bytes(raw)
    refused(package, "version 1")
    struct.pack_into("<II", raw, 0, 1, 2)
    weights.write_bytes(raw)
    refused(package, "no weight at offset")
    struct.pack_into("<II", raw, 0, 1 << 31, 2)
    weights.write_bytes(raw)
    refused(package, "truncated|no weight at offset")


def test_missing_files(package, tmp_path):
    specification, weights = files(package)
    refused(tmp_path / "none.mlpackage", "no such file")
    weights.unlink()
    refused(package, "weight.bin is missing")
    specification.unlink()
    refused(package, "model.mlmodel is missing")
    (package / "Manifest.json").write_text("[]")
    refused(package, "not a manifest")
    (package / "Manifest.json").unlink()
    refused(package, "not a manifest")


def test_paths_do_not_leave_the_package(package, tmp_path):
    specification, _ = files(package)
    shutil.copy(specification, tmp_path / "outside.mlmodel")
    manifest = json.loads((package / "Manifest.json").read_text())
    for path in ("../../outside.mlmodel", str(tmp_path / "outside.mlmodel")):
        manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
        (package / "Manifest.json").write_text(json.dumps(manifest))
        refused(package, "outside the package")


def test_links_and_weight_names_do_not_leave_the_package(package, tmp_path):
    specification, weights = files(package)
    shutil.move(weights, tmp_path / "weight.bin")
    weights.symlink_to(tmp_path / "weight.bin")
    refused(package, "outside the package")
    raw = specification.read_bytes()
    weights.unlink()
    shutil.copy(tmp_path / "weight.bin", weights)
    name = b"@model_path/weights/weight.bin"
    specification.write_bytes(raw.replace(name, b"@model_path/../../../weight.bin"[: len(name)].ljust(len(name), b"x")))
    refused(package, "outside the package|is missing")
    specification.write_bytes(raw.replace(name, b"/" * len(name)))
    refused(package, "not inside the package")


def outcome(package):
    """What a damaged package comes to: an output, or the name of the error; anything else fails the test."""
    started = time.monotonic()
    try:
        result = parity.mil.load(package).run(X)
    except ParityError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        assert time.monotonic() - started < 10
    return next(iter(result.values()), None)


def test_random_damage_to_the_specification(package):
    """Refused in words, or computed; and what computes the same on one input to 100 dB does so on another."""
    specification, _ = files(package)
    whole = specification.read_bytes()
    clean, other = outcome(package), {"x": torch.rand(zoo.IMAGE, generator=torch.Generator().manual_seed(9)).numpy()}
    elsewhere = next(iter(parity.mil.load(package).run(other).values()))
    rng = np.random.default_rng(0)
    errors, passes = 0, 0
    for _ in range(250):
        raw = bytearray(whole)
        for position in rng.integers(0, len(raw), rng.integers(1, 4)):
            raw[position] = rng.integers(256)
        if rng.random() < 0.3:
            start = rng.integers(0, len(raw))
            del raw[start : start + rng.integers(1, 40)]
        specification.write_bytes(raw)
        found = outcome(package)
        if isinstance(found, str):
            errors += 1
        elif found is not None and found.shape == clean.shape and zoo.decibels(found, clean) >= 100:
            passes += 1
            again = next(iter(parity.mil.load(package).run(other).values()))
            assert zoo.decibels(again, elsewhere) >= 100
    assert errors > 120  # most damage is noticed
    assert passes > 5  # the rest is in names and metadata, of which the package holds little


def test_damage_to_a_weight_changes_the_result(package):
    _, weights = files(package)
    clean = outcome(package)
    raw = bytearray(weights.read_bytes())
    first = next(iter(BlobFile(weights).blobs.values()))
    raw[first.data + 1] ^= 0x40
    weights.write_bytes(raw)
    assert not np.array_equal(outcome(package), clean)


def test_unreasonable_sizes_are_refused_before_memory_is_asked_for():
    for kind, arguments in {
        "fill": {"shape": np.int32([50_000, 50_000]), "value": np.float32(0)},
        "tile": {"x": "x", "reps": np.int32([2_000_000_000])},
        "range_1d": {"start": np.float32(0), "end": np.float32(3e9), "step": np.float32(1)},
        "pad": {"x": "x", "pad": np.int32([2_000_000_000, 0])},
    }.items():
        builder = Builder(x=np.float32([1.0]))
        builder.op(kind, ("y", "fp32", None), **arguments)
        with pytest.raises(ParityError, match="not reasonable"):
            builder.load("y").run({"x": np.float32([1.0])})


def test_names_that_nothing_gives():
    builder = Builder(x=np.float32([1.0]))
    operation = builder.op("relu", ("y", "fp32", (1,)), x="x")
    operation.inputs["x"].arguments[0].name = "ghost"
    with pytest.raises(CorruptPackage, match="'ghost' is used before anything gives it"):
        builder.load("y").run({"x": np.float32([1.0])})
    operation.inputs["x"].arguments[0].name = "x"
    with pytest.raises(CorruptPackage, match="'absent' is used before"):
        builder.load("absent").run({"x": np.float32([1.0])})


def test_other_kinds_of_model_are_refused_by_name(tmp_path):
    from parity.mil.proto import schema

    spec = schema("Model_pb2").Model()
    spec.treeEnsembleRegressor.SetInParent()
    (tmp_path / "tree.mlmodel").write_bytes(spec.SerializeToString())
    with pytest.raises(UnsupportedOperator, match="treeEnsembleRegressor"):
        parity.mil.load(tmp_path / "tree.mlmodel")


def test_state_of_another_program_is_refused(package):
    program = parity.mil.load(package)
    with pytest.raises(InputError, match="another program"):
        program.run(X, state=parity.mil.State({"cache": torch.zeros(1)}))
