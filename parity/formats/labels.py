"""The classes that a file names in its metadata, by which an app shows what the model answers. Reads text only."""

from __future__ import annotations

import ast
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KEYS = ("names", "classes")  # of Ultralytics' exporters; of Create ML and of older exporters of detectors
_LONGEST = 1 << 20  # bytes of one text beside a model
_MOST_FILES = 32  # in an archive
_BACKGROUND = "???"  # the first line of TensorFlow's label maps, which detectors do not count


def of_metadata(metadata: Mapping[str, Any]) -> list[str]:
    """The classes that `names` or `classes` of a file's metadata lists, in their order; empty where neither does.

    Read are a Python or JSON list or dictionary by index, `{0: 'cat', 1: 'dog'}`, as text or as such, and of `classes`
    words between commas, `cat,dog`.
    """
    for key in _KEYS:
        names = _parsed(metadata.get(key, ""))
        if labels := _in_order(names):
            return labels
        if key == "classes" and isinstance(names, str) and "," in names:
            return [name.strip() for name in names.split(",")]
    return []


def appended(path: Path) -> list[str]:
    """The classes in the archive at the end of a file, as TensorFlow Lite's metadata writer and Ultralytics' exporter
    append one: a dictionary of metadata, or else a text of a label a line. Empty where there is none, or it is broken.
    """
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            texts = {
                entry.filename: archive.read(entry).decode("utf-8")
                for entry in archive.infolist()[:_MOST_FILES]
                if entry.file_size <= _LONGEST and entry.filename.endswith((".json", ".txt"))
            }
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, UnicodeDecodeError, OSError):
        return []
    for text in texts.values():
        metadata = _parsed(text)
        if isinstance(metadata, dict) and (labels := of_metadata(metadata)):
            return labels
    lists = (text for name, text in texts.items() if "label" in name.lower() and name.endswith(".txt"))
    lines = next(lists, "").splitlines()
    labels = [line.strip() for line in lines if line.strip()]
    return labels[1:] if labels[:1] == [_BACKGROUND] else labels


def _parsed(text: Any) -> Any:
    """The Python or JSON literal of a text; the text itself where it is neither."""
    if not isinstance(text, str):
        return text
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _in_order(names: Any) -> list[str]:
    """A list, or a dictionary by index, as a list of labels; empty for anything else."""
    if isinstance(names, dict):
        by_index = {str(index): name for index, name in names.items()}
        order = [str(index) for index in range(len(names))]
        return [str(by_index[index]) for index in order] if by_index.keys() == set(order) else []
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []
