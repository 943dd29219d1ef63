"""A store that machines share: filled once, read by the others, and never able to spoil a result."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.store.cache import MANIFEST, Store, key_of
from parity.store.remote import Remote

fsspec = pytest.importorskip("fsspec")

SPEC = {"step": "onnx", "options": {"opset": 17}}
KEY = key_of(SPEC)


class Builder:
    calls = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "model.bin").write_bytes(b"weights" * 1000)
        return {"entry": "sub/model.bin"}


@pytest.fixture
def memory() -> Iterator[str]:
    url = "memory://shared"
    yield url
    fs = fsspec.filesystem("memory")
    if fs.exists(url):
        fs.rm(url, recursive=True)


def machine(tmp_path: Path, name: str, url: str) -> Store:
    return Store(tmp_path / name, Remote(url))


def archive(url: str, key: str = KEY) -> str:
    return f"{url}/objects/{key}.tar"


def test_what_one_machine_built_another_does_not(tmp_path: Path, memory: str) -> None:
    builder = Builder()
    one, two = machine(tmp_path, "one", memory), machine(tmp_path, "two", memory)
    first, second = one.build(SPEC, "n", builder), two.build(SPEC, "n", builder)
    assert builder.calls == 1 and first.built and not second.built
    assert second.files == first.files and second.notes == first.notes and second.folder != first.folder
    assert two.get(KEY) and not one.remote.notices and not two.remote.notices  # type: ignore[union-attr]
    assert not list((tmp_path / "two" / "tmp").iterdir())


def test_a_forced_rebuild_does_not_fetch(tmp_path: Path, memory: str) -> None:
    builder = Builder()
    machine(tmp_path, "one", memory).build(SPEC, "n", builder)
    machine(tmp_path, "two", memory).build(SPEC, "n", builder, rebuild_since=0.0)
    assert builder.calls == 2


def packed(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data) if kind == tarfile.REGTYPE else 0, "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "spoilt",
    [
        b"",
        b"not a tar",
        packed({"../../escaped": b"x"}),
        packed({"/absolute": b"x"}),
        packed({"link": b""}, tarfile.SYMTYPE),
        packed({"device": b""}, tarfile.CHRTYPE),
        packed({MANIFEST: b"{}"}),
        packed({"sub/model.bin": b"weights"}),
    ],
    ids=["empty", "no archive", "outside", "absolute", "link", "device", "no manifest", "no seal"],
)
def test_a_spoilt_archive_costs_a_build_and_is_replaced(tmp_path: Path, memory: str, spoilt: bytes) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file(archive(memory), spoilt)
    builder = Builder()
    entry = machine(tmp_path, "one", memory).build(SPEC, "n", builder)
    assert builder.calls == 1 and entry.built and not (tmp_path / "escaped").exists()
    machine(tmp_path, "two", memory).build(SPEC, "n", builder)
    assert builder.calls == 1


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_half_an_upload_is_no_entry(tmp_path: Path, memory: str, share: float) -> None:
    builder = Builder()
    machine(tmp_path, "one", memory).build(SPEC, "n", builder)
    fs = fsspec.filesystem("memory")
    whole = fs.cat_file(archive(memory))
    fs.pipe_file(archive(memory), whole[: int(len(whole) * share)])
    assert machine(tmp_path, "two", memory).build(SPEC, "n", builder).built


def test_an_entry_under_anothers_key_is_no_entry(tmp_path: Path, memory: str) -> None:
    builder, other = Builder(), {"step": "other"}
    machine(tmp_path, "one", memory).build(other, "n", builder)
    fs = fsspec.filesystem("memory")
    fs.pipe_file(archive(memory), fs.cat_file(archive(memory, key_of(other))))
    assert machine(tmp_path, "two", memory).build(SPEC, "n", builder).built


@pytest.mark.parametrize("method", ["get_file", "put_file", "makedirs"])
def test_a_store_that_fails_is_a_notice_and_no_failure(
    tmp_path: Path, memory: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path, "one", memory)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionResetError("connection reset by peer\nand much more")

    monkeypatch.setattr(type(store.remote._fs), method, fail)  # type: ignore[union-attr]
    entry = store.build(SPEC, "n", Builder())
    assert entry.built and store.get(KEY)
    what = "read" if method == "get_file" else "written"
    notice = f"the shared cache {memory} could not be {what} (connection reset by peer); this machine built for itself"
    assert store.remote.notices == [notice]  # type: ignore[union-attr]


def test_many_writers_leave_one_good_entry(tmp_path: Path, memory: str) -> None:
    builder = Builder()
    stores = [machine(tmp_path, str(i), memory) for i in range(8)]
    threads = [threading.Thread(target=s.build, args=(SPEC, "n", builder)) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(s.get(KEY) for s in stores)
    calls = builder.calls
    machine(tmp_path, "late", memory).build(SPEC, "n", builder)
    assert builder.calls == calls


@pytest.mark.parametrize(
    ("url", "message"),
    [("nothing://x", "Protocol not known"), ("gs://bucket", "pip install 'gcsfs'")],
)
def test_a_url_that_nothing_here_serves_is_told(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=message):
        Store.at(url, tmp_path)


def test_a_notice_shows_no_password() -> None:
    assert Remote("memory://user:secret@host/x").shown == "memory://***@host/x"


# A real S3 protocol: moto's server on loopback, each machine a process of its own.


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    server = pytest.importorskip("moto.server", reason="moto[s3] is not installed: pip install -e '.[dev]'")
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'pytest-parity[s3]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "no_proxy": "*",
    }
    yield {**os.environ, **env}
    running.stop()


MACHINE = """
import sys
from pathlib import Path
from parity.store.cache import Store
def builder(folder):
    (folder / "model.bin").write_bytes(b"weights" * 200_000)
    return {"entry": "model.bin"}
store = Store.at(sys.argv[1], Path("."))
entry = store.build({"spec": 1}, "n", builder)
print(entry.built, len(store.remote.notices), *store.remote.notices)
"""


def elsewhere(env: dict[str, str], home: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MACHINE, url],
        env={**env, "XDG_CACHE_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_s3(s3: dict[str, str], tmp_path: Path) -> None:
    make = "import s3fs; s3fs.S3FileSystem().mkdir('bucket')"
    subprocess.run([sys.executable, "-c", make], env=s3, check=True, capture_output=True)
    writers = [elsewhere(s3, tmp_path / str(i), "s3://bucket/parity") for i in range(3)]
    assert {said(w).split()[1] for w in writers} == {"0"}
    assert said(elsewhere(s3, tmp_path / "late", "s3://bucket/parity")).split() == ["False", "0"]
    lost = said(elsewhere(s3, tmp_path / "lost", "s3://no-such-bucket-here/parity"))
    assert lost.startswith("True 1 the shared cache s3://no-such-bucket-here/parity could not be written (")
