"""A Core ML file on disk: an ``.mlpackage`` folder or a bare ``.mlmodel``, opened without trusting it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from parity.mil.blob import BlobFile
from parity.mil.errors import CorruptPackage
from parity.mil.proto import schema

WEIGHT_PREFIX = "@model_path/"


class Package:
    """The specification (``Model`` protobuf) of a file, and the weight files that it refers to.

    A package is a folder with ``Manifest.json``, which names the specification under ``Data/``. No path in
    the manifest or in the program, nor any symbolic link, may lead out of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise CorruptPackage(f"{self.path.name}: no such file")
        self._root = self.path.resolve() if self.path.is_dir() else self.path.resolve().parent
        self._specification = self._find_specification() if self.path.is_dir() else self.path
        self._weights: dict[str, BlobFile] = {}
        self.spec: Any = self._parse()

    def _find_specification(self) -> Path:
        try:
            manifest = json.loads((self.path / "Manifest.json").read_text())
            entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise CorruptPackage(f"{self.path.name}: Manifest.json is missing or not a manifest") from error
        return self._inside(self.path / "Data" / str(entry))

    def _inside(self, path: Path) -> Path:
        try:
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise CorruptPackage(f"{self.path.name}: {str(path)!r} is not a path") from error
        if not resolved.is_relative_to(self._root):
            raise CorruptPackage(f"{self.path.name}: {path.name} lies outside the package")
        if not resolved.is_file():
            raise CorruptPackage(f"{self.path.name}: {path.name} is missing")
        return resolved

    def _parse(self) -> Any:
        spec = schema("Model_pb2").Model()
        try:
            spec.ParseFromString(self._specification.read_bytes())
        except Exception as error:  # protobuf raises DecodeError, which moves between its releases
            raise CorruptPackage(f"{self.path.name}: the specification cannot be decoded") from error
        if spec.WhichOneof("Type") is None:
            raise CorruptPackage(f"{self.path.name}: the specification holds no model")
        return spec

    def weight_file(self, name: str) -> BlobFile:
        """The weight file that a program calls ``@model_path/weights/weight.bin``."""
        if name not in self._weights:
            if not name.startswith(WEIGHT_PREFIX):
                raise CorruptPackage(f"{self.path.name}: weight file {name!r} is not inside the package")
            beside = self._specification.parent / name.removeprefix(WEIGHT_PREFIX)
            self._weights[name] = BlobFile(self._inside(beside))
        return self._weights[name]
