"""The part of a store that machines share: entries of the local cache as one archive each, on any fsspec URL.

The local folder stays the cache that is read; this only spares a machine a build that another has done. Nothing here
is trusted: an archive is unpacked beside the cache, with plain files inside its own folder only, and counts as present
when its manifest and every sha256 hold, as for a local entry. So half an upload, another entry under the key or a
store that fails in the middle cost a build and a notice, never a wrong file. Any number of machines may write the
same key at once: each archive that they write is whole, and whichever is last is as good as the others.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from parity.core.errors import ParityError

# Object stores have no folders, and their clients' makedirs would make the bucket that somebody mistyped.
_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss")
_MOST_FILES = 100_000  # members of an archive; an artefact has a few


class Remote:
    """Archives under `URL/objects/KEY.tar`. `notices` collects what did not work, one line a kind of failure."""

    def __init__(self, url: str):
        """Raises ParityError for a URL that no installed fsspec implementation serves."""
        self.url, self.notices = url.rstrip("/"), list[str]()
        protocol = url.partition("://")[0]
        try:
            import fsspec

            self._fs: Any = fsspec.filesystem(protocol)
        except ImportError as error:
            package = {"s3": "pytest-parity[s3]", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol, "fsspec")
            raise ParityError(f"cache {self.shown}: {error}; pip install '{package}'") from None
        except ValueError as error:
            raise ParityError(
                f"cache {self.shown}: {error}; use a folder, file://, s3://, gs:// or memory://"
            ) from None
        self._objects = f"{self.url}/objects"
        self._folders = protocol not in _BUCKETS

    @property
    def shown(self) -> str:
        """The URL without user name and password."""
        return re.sub(r"//[^/@]*@", "//***@", self.url)

    def fetch(self, key: str, folder: Path) -> bool:
        """Unpack the entry `key` into the empty `folder`; False when the store does not have it or cannot give it."""

        def load() -> bool:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{key}.got") as scratch:
                archive = Path(scratch, "entry.tar")
                try:
                    self._fs.get_file(self._path(key), str(archive))
                except FileNotFoundError:
                    return False
                _unpack(archive, folder)
            return True

        return bool(self._guarded("read", load))

    def push(self, key: str, folder: Path) -> None:
        """Store the entry in `folder` as one object."""

        def save() -> None:
            with tempfile.TemporaryDirectory(dir=folder.parent.parent / "tmp", prefix=f"{key}.put") as scratch:
                archive = Path(scratch, "entry.tar")
                with tarfile.open(archive, "w") as tar:
                    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                        tar.add(path, path.relative_to(folder).as_posix(), recursive=False)
                if self._folders:
                    self._fs.makedirs(self._objects, exist_ok=True)
                self._fs.put_file(str(archive), self._path(key))

        self._guarded("written", save)

    def _path(self, key: str) -> str:
        return f"{self._objects}/{key}.tar"

    def _guarded(self, what: str, act: Callable[[], Any]) -> Any:
        """`act()`; whatever the client or the archive raises becomes a notice: a shared cache is never needed."""
        try:
            return act()
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            notice = f"the shared cache {self.shown} could not be {what} ({reason}); this machine built for itself"
            if notice not in self.notices:
                self.notices.append(notice)
            return None


def _unpack(archive: Path, folder: Path) -> None:
    """Plain files of `archive` into `folder`, nowhere else, and no more bytes than it has. Raises ValueError for any
    other member: a link, a device, a sparse file that claims a terabyte. Compressed archives are none of ours."""
    folder.mkdir()
    left = archive.stat().st_size
    with tarfile.open(archive, "r:") as tar:
        for count, member in enumerate(tar):
            path, left = PurePosixPath(member.name), left - member.size
            plain = member.isreg() and not member.issparse() and not path.is_absolute() and ".." not in path.parts
            if not plain or left < 0 or count >= _MOST_FILES:
                raise ValueError(f"the archive holds {member.name[:60]!r}, which is no plain file of an entry")
            target = folder.joinpath(*path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            with source, target.open("xb") as file:
                while block := source.read(1 << 20):
                    file.write(block)
