"""The classes that a file names in its metadata, by which an app shows what the model answers. Reads text only."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

KEYS = ("names", "classes", "id2label", "labels", "class_names", "class_labels", "label_names", "categories")
"""Of Ultralytics, of Create ML and older exporters of detectors, of transformers, and as people write by hand."""
_INDICES = ("label2id", "label_map", "class_to_idx")  # from a class to its place
_WITHIN = ("config", "metadata", "preview.params")  # a dictionary that holds one of the above, and no list itself
_LONGEST = 1 << 20  # bytes of one text beside a model
_MOST_FILES = 32  # in an archive
_MOST_READ = 1024  # entries of an archive in which any list of texts is looked for
_MOST_LISTS = 256  # in one file
_DEEPEST = 8  # lists and dictionaries within each other
_BACKGROUND = "???"  # the first line of TensorFlow's label maps, which detectors do not count


def of_metadata(metadata: Mapping[str, Any]) -> list[str]:
    """The classes that a file's metadata lists, in their order; empty where it lists none.

    Read are a Python or JSON list or dictionary by index, `{0: 'cat', 1: 'dog'}`, as text or as such, and words between
    commas, `cat,dog`, under the usual keys in any case, and dictionaries from a class to its index.
    """
    entries = {str(key).lower(): _parsed(value) for key, value in metadata.items()}
    for key in KEYS:
        names = entries.get(key, "")
        if labels := _in_order(names):
            return labels
        if key != "names" and isinstance(names, str) and "," in names:
            return [name.strip() for name in names.split(",")]
    for key in _INDICES:
        places = entries.get(key)
        if isinstance(places, dict) and (labels := _in_order({index: name for name, index in places.items()})):
            return labels
    inner = (value for key, value in entries.items() if key.endswith(_WITHIN) and isinstance(value, dict))
    return next(filter(None, map(of_metadata, inner)), [])


def every_list(metadata: Any) -> list[list[str]]:
    """All lists of texts in a file's metadata, under whatever key and however deep: whoever knows the classes knows
    which of them names these, and an app may read any."""
    return list(islice(_lists(metadata, 0), _MOST_LISTS))


def _lists(value: Any, depth: int) -> Iterator[list[str]]:
    parsed = _parsed(value)
    if names := _in_order(parsed):
        yield names
    elif isinstance(parsed, str):
        parts = (parsed.split(separator) for separator in (",", ";", "\n"))
        yield from ([name.strip() for name in names if name.strip()] for names in parts if len(names) > 1)
    if isinstance(parsed, dict) and (names := _in_order({place: name for name, place in _hashable(parsed)})):
        yield names
    inner = parsed.values() if isinstance(parsed, dict) else parsed if isinstance(parsed, (list, tuple)) else ()
    if depth < _DEEPEST:
        for entry in inner:
            if isinstance(entry, (dict, list, tuple)) or isinstance(parsed, dict):
                yield from _lists(entry, depth + 1)


def _hashable(entries: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in entries.items() if isinstance(value, (int, str))]


def texts_in(path: Path) -> dict[str, str]:
    """The short texts in the archive that a file is, or that is appended to it, by name; empty where there is none, or
    it is broken."""
    texts: dict[str, str] = {}
    if not zipfile.is_zipfile(path):
        return texts
    try:
        with zipfile.ZipFile(path) as archive:
            short = [entry for entry in archive.infolist() if entry.file_size <= _LONGEST and not entry.is_dir()]
            held = {entry.filename: archive.read(entry) for entry in short[:_MOST_READ]}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError):
        return texts
    for name, content in held.items():
        with contextlib.suppress(UnicodeDecodeError):
            texts[name] = content.decode("utf-8")
    return texts


def appended(path: Path) -> list[str]:
    """The classes in the archive at the end of a file, as TensorFlow Lite's metadata writer and Ultralytics' exporter
    append one: a dictionary of metadata, or else a text of a label a line. Empty where there is none, or it is broken.
    """
    return _of_texts(_texts(path, "")) if zipfile.is_zipfile(path) else []


def in_extra_files(path: Path) -> list[str]:
    """The classes in the extra files of a TorchScript or ExportedProgram archive, where Ultralytics' exporter writes a
    `config.txt`. Empty where there are none, or they are broken."""
    if not zipfile.is_zipfile(path):
        return []
    # PyTorch 2.6 and 2.7 put those of an ExportedProgram into a folder of another name.
    return _of_texts(_texts(path, "/extra/") | _texts(path, "extra_files/"))


def _texts(path: Path, folder: str) -> dict[str, str]:
    """The short texts in an archive whose names have `folder` in them, by name; empty where it is broken."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if folder in entry.filename][:_MOST_FILES]
            short = [entry for entry in entries if entry.file_size <= _LONGEST]
            named = [entry for entry in short if folder or entry.filename.endswith((".json", ".txt"))]
            return {entry.filename: archive.read(entry).decode("utf-8") for entry in named}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, UnicodeDecodeError, OSError):
        return {}


def _of_texts(texts: Mapping[str, str]) -> list[str]:
    for text in texts.values():
        metadata = _parsed(text)
        if isinstance(metadata, dict) and (labels := of_metadata(metadata) or _in_order(metadata)):
            return labels
    named = {name: text for name, text in texts.items() if re.search("label|class|names", name.lower())}
    for text in named.values():
        if labels := of_metadata({"labels": text}) or _lines(text):
            return labels
    return []


def _lines(text: str) -> list[str]:
    """A label a line."""
    labels = [line.strip() for line in text.splitlines() if line.strip()]
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
    plain = isinstance(names, (list, tuple)) and all(isinstance(name, (str, int)) for name in names)
    return [str(name) for name in names] if plain else []
