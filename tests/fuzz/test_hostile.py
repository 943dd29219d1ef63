"""Samples that somebody hostile would make: archives that leave their folder or unpack to more than they are worth, and
files that name code to run. What damages by chance is in `test_fuzz`; capsules and packages are tested in their rooms.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from parity.cases import golden
from parity.core.errors import ParityError
from parity.files import npz
from parity.process import child
from parity.reference import modelling
from parity.store.remote import Remote, _unpack
from tests.fuzz.readers import TENSORS
from tests.fuzz.seeds import CORPUS


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=format) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return held.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def sparse(claimed: int) -> bytes:
    """A GNU sparse member: one block of data that claims to be a file of `claimed` bytes."""
    info = member("weights.bin", tarfile.GNUTYPE_SPARSE)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410] = b"00000000000\0", b"00000000000\0"  # one run of no bytes
    block[483:495] = f"{claimed:011o}\0".encode()
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + bytes(1024)


TARS = {
    "a link out": tar((member("a", tarfile.SYMTYPE, "../../escaped"), b"")),
    "a file through a link": tar((member("a", tarfile.SYMTYPE, ".."), b""), (member("a/escaped"), b"x")),
    "a hard link": tar((member("a", tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "absolute": tar((member("/tmp/escaped"), b"x")),
    "upwards": tar((member("a/../../escaped"), b"x")),
    "a device": tar((member("a", tarfile.CHRTYPE), b"")),
    "a pipe": tar((member("a", tarfile.FIFOTYPE), b"")),
    "a folder": tar((member("a", tarfile.DIRTYPE), b"")),
    "one name twice": tar((member("a"), b"x"), (member("a"), b"y")),
    "a file as folder": tar((member("a"), b"x"), (member("a/b"), b"y")),
    "a file of a terabyte, sparse": sparse(1 << 32),
    "a bomb": gzip.compress(tar((member("a"), bytes(50 << 20)))),
    "a long name": tar((member("a/" * 3000 + "b"), b"x"), format=tarfile.PAX_FORMAT),
}


@pytest.mark.parametrize("data", TARS.values(), ids=TARS)
def test_a_shared_archive_writes_nothing_but_its_own_files(tmp_path: Path, data: bytes) -> None:
    shared, here = tmp_path / "shared" / "objects", tmp_path / "cache" / "here"
    shared.mkdir(parents=True)
    here.mkdir(parents=True)
    (shared / "key.tar").write_bytes(data)
    remote = Remote(f"file://{tmp_path}/shared")
    assert not remote.fetch("key", here / "key")
    assert len(remote.notices) == 1 and "\n" not in remote.notices[0]
    written = [p for p in tmp_path.rglob("*") if not p.is_dir() and p != shared / "key.tar"]
    assert all(p.is_relative_to(here / "key") and not p.is_symlink() for p in written)
    assert sum(p.stat().st_size for p in written) <= len(data)
    assert not (Path("/tmp") / "escaped").exists()


def test_a_plain_archive_is_unpacked(tmp_path: Path) -> None:
    _unpack(CORPUS / "shared.tar", tmp_path / "here")
    assert (tmp_path / "here" / "deep" / "weights.bin").read_bytes() == b"weights"


def packed(method: int = zipfile.ZIP_STORED, **members: bytes) -> io.BytesIO:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    held.seek(0)
    return held


def npy(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + data


BAD_ARRAYS = {
    "more than it has": npy("(1099511627776,)", b"1234"),
    "a size below zero": npy("(-1,)", b""),
    "a shape that overflows": npy("(4294967296, 4294967296)", b""),
    "a pickle": npy("(1,)", b"cos\nsystem\n(S'true'\ntR.", "'|O'"),
    "text": npy("(1,)", b"abcd", "'|S4'"),
    "a record": npy("(1,)", b"abcd", "[('a', '<f4')]"),
    "code": npy("__import__('os').system('true')", b""),
    "another version": b"\x93NUMPY\x09\0" + b"\0" * 64,
    "nothing": b"",
}


@pytest.mark.parametrize("data", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_what_is_no_array_of_numbers_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a"):
        npz.load(packed(x=data))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(packed(zipfile.ZIP_DEFLATED, x=npy("(104857600,)", bytes(400 << 20))).getvalue())
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    with pytest.raises(ParityError, match=r"unpacks to 0.4 GiB, from 0.4 MiB"):
        golden.load(tmp_path, TENSORS)


@pytest.mark.parametrize("name", ["w.npz", "w.pt"])
def test_a_checkpoint_that_is_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(packed(zipfile.ZIP_DEFLATED, x=npy("(104857600,)", bytes(400 << 20))).getvalue())
    tracemalloc.start()
    with pytest.raises(ParityError, match=r"unpacks to 0.4 GiB, from 0.4 MiB"):
        modelling.read_checkpoint(tmp_path / name)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 << 20


def test_a_checkpoint_larger_than_half_of_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half: while the arrays become parameters, both are there."""
    np.savez(tmp_path / "w.npz", x=np.ones(3 << 20, np.float32))
    monkeypatch.setattr(child, "memory", 32 << 20)
    assert modelling.read_checkpoint(tmp_path / "w.npz")["x"].shape == (3 << 20,)
    monkeypatch.setattr(child, "memory", 20 << 20)
    with pytest.raises(ParityError, match=r"unpacks to .* GiB, more than the .* GiB that it may take"):
        modelling.read_checkpoint(tmp_path / "w.npz")


def test_a_header_is_checked_before_any_array_is_unpacked() -> None:
    """The second array is none; the first, of 64 MiB, is not unpacked to find that out."""
    held = packed(zipfile.ZIP_DEFLATED, a=npy("(16777216,)", bytes(64 << 20)), b=npy("(16777216,)", b"1234"))
    tracemalloc.start()
    with pytest.raises(ValueError, match="'b': not an array of numbers whose header fits it"):
        npz.load(held)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 << 20


@pytest.mark.parametrize("stated", [(0, 8), (0, 400), (8, 16), (0, 1 << 40)])
def test_safetensors_whose_header_and_bytes_differ_are_refused(tmp_path: Path, stated: tuple[int, int]) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": list(stated)}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ParityError, match=r"w\.safetensors: damaged, or not a \.safetensors checkpoint"):
        modelling.read_checkpoint(tmp_path / "w.safetensors")


def test_arrays_of_any_layout_are_read() -> None:
    made = {"x": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "m": np.array(7), "b": np.array([True, False]),
            "big": np.arange(3, dtype=">i4"), "none": np.zeros((0, 3), np.float16)}  # fmt: skip
    held = io.BytesIO()
    np.savez_compressed(held, **made)
    held.seek(0)
    found = npz.load(held)
    assert {n: (a.tolist(), a.dtype, a.shape) for n, a in found.items()} == {
        n: (a.tolist(), a.dtype, a.shape) for n, a in made.items()
    }


FACTORY = "open('ran', 'w').close()\nimport torch\n\ndef tiny():\n    return torch.nn.Linear(3, 4)\n"


def test_no_command_that_only_reads_runs_a_factory(tmp_path: Path) -> None:
    """Nor does collecting: a factory runs in a child, when a cell of this project's configuration is measured."""
    toml = (CORPUS / "configuration.toml").read_text().replace('nightly = ["onnx-fp32"]\n', "")
    (tmp_path / "pyproject.toml").write_text(toml)
    (tmp_path / "tinynet.py").write_text(FACTORY)
    (tmp_path / "test_parity.py").write_text("from parity.suite import *\n")
    (tmp_path / "record.json").write_bytes((CORPUS / "record.json").read_bytes())
    cli = [sys.executable, "-m", "parity.cli"]
    for command in (
        [*cli, "gate", "record.json"], [*cli, "report", "record.json"], [*cli, "diff", "record.json", "record.json"],
        [*cli, "cache", "info"], [sys.executable, "-m", "pytest", "--parity-show-plan"],
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "parity", "-p", "no:cacheprovider"],
    ):  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "ran").exists(), command
