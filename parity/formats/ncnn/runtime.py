"""An NCNN network, opened by the ncnn wheel on the CPU. In the child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from parity.formats.target import Array


def operators(param: Path) -> dict[str, int]:
    """Layer kinds of a .param file with their counts; the inputs are not operators."""
    lines = param.read_text(encoding="utf-8").splitlines()[2:]
    return dict(
        sorted(Counter(kind for line in lines if line.strip() and (kind := line.split()[0]) != "Input").items())
    )


def blobs(param: Path) -> tuple[list[str], list[str]]:
    """Names of the inputs and of the blobs that nothing consumes, in file order."""
    inputs: list[str] = []
    made: list[str] = []
    used: set[str] = set()
    for line in param.read_text(encoding="utf-8").splitlines()[2:]:
        words = line.split()
        if not words:
            continue
        tops, bottoms = int(words[3]), int(words[2])
        used |= set(words[4 : 4 + bottoms])
        names = words[4 + bottoms : 4 + bottoms + tops]
        (inputs if words[0] == "Input" else made).extend(names)
    return inputs, [name for name in made if name not in used]


def row(value: Array) -> Array:
    """The one row of a batch as ncnn reads it: layers take every integer for 32 bits wide, whatever the Mat says, so
    64-bit token ids would be read as id, 0, id, 0 ... Raises ParityError for ids that need more."""
    values = value[0]
    if values.dtype.kind in "iu":
        limits = np.iinfo(np.int32)
        if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
            raise ParityError(f"ncnn reads integers of 32 bits, and {int(np.abs(values).max())} needs more")
        values = values.astype(np.int32)
    return np.ascontiguousarray(values)


_FAST = ("use_winograd_convolution", "use_sgemm_convolution", "use_packing_layout")


class NcnnSession:
    """ncnn on the CPU with one thread unless the notes say more. A fresh extractor for every inference: an old one
    gives old results. `kernels` of the notes: "plain" does without Winograd, matrix products and packed layouts."""

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        import ncnn

        self.ncnn, self.notes, self.param = ncnn, notes, Path(folder, notes["entry"])
        self.net = ncnn.Net()
        self.choose(self.net.opt)
        weights = Path(folder, notes.get("weights", str(Path(notes["entry"]).with_suffix(".bin"))))
        if self.net.load_param(str(self.param)) != 0 or self.net.load_model(str(weights)) != 0:
            raise ParityError(f"ncnn cannot load {self.param.name} with {weights.name}")

    def choose(self, options: Any) -> None:
        """Set the network's options before it is loaded."""
        options.num_threads = int(self.notes.get("threads", 1))
        options.use_vulkan_compute = False
        for name in _FAST if self.notes.get("kernels") == "plain" else ():
            setattr(options, name, False)
        half = bool(self.notes.get("half"))
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(options, name, half and name != "use_bf16_storage")

    def describe(self) -> dict[str, Any]:
        inputs, outputs = blobs(self.param)
        return {
            "inputs": [{"name": n, "shape": None, "dtype": None} for n in inputs],
            "outputs": [{"name": n, "shape": None, "dtype": None} for n in outputs],
            "ops": operators(self.param),
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        extractor = self.net.create_extractor()
        missing = [name for name in blobs(self.param)[0] if name not in inputs]
        if missing:  # ncnn would compute with what is not there, and end with the process
            raise ParityError(
                f"nothing is given to the file's input {missing[0]!r}, only {', '.join(inputs) or 'none'}: say whose "
                "it is: inputs = { MINE = { name = THEIRS } } in a table of artifacts"
            )
        for name, value in inputs.items():
            if value.shape[0] != 1:
                raise ParityError(f"ncnn has no batch dimension: {name} has {value.shape[0]} rows")
            own = row(value)  # named, so that it lives until the clone: a Mat only borrows an array's memory
            extractor.input(name, self.ncnn.Mat(own).clone())
        results = {}
        for name in blobs(self.param)[1]:
            code, mat = extractor.extract(name)
            if code != 0:
                raise ParityError(f"ncnn could not compute {name!r} (code {code})")
            results[name] = np.array(mat)[None].copy()
        return results
