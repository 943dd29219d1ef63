"""An ONNX file, opened by ONNX Runtime on the CPU. In the child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.files.onnx_external import external_files
from parity.formats.labels import every_list, of_metadata
from parity.formats.onnx.convert import opset_of
from parity.formats.pictures import of_onnx
from parity.formats.target import THREADS, Array
from parity.process import processor


class OrtSession:
    """ONNX Runtime on the CPU with one thread, so that workers do not fight for cores, unless the notes say more.

    `kernels` of the notes: "optimised", the default, or "as written", with no operators merged or laid out anew.
    """

    def __init__(self, folder: str, notes: Mapping[str, Any]) -> None:
        import onnxruntime

        self.path, self.notes = Path(folder, notes["entry"]), notes
        self.scatters = False  # until `describe` has read the graph
        external_files(self.path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = int(notes.get("threads", 1)), 1
        options.log_severity_level = 3
        if notes.get("kernels") == "as written":
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    def describe(self) -> dict[str, Any]:
        import onnx

        def specs(nodes: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"name": n.name, "shape": list(n.shape), "dtype": _DTYPES.get(n.type, n.type)} for n in nodes]

        model = onnx.load(str(self.path), load_external_data=False)
        self.scatters = _scatters(model)
        return {
            "inputs": specs(self.session.get_inputs()),
            "outputs": specs(self.session.get_outputs()),
            "ops": dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
            "opset": opset_of(self.path),
            "positional": {
                "inputs": [n.name for n in self.session.get_inputs()],
                "outputs": [n.name for n in self.session.get_outputs()],
            },
            "labels": of_metadata({p.key: p.value for p in model.metadata_props}),
            "label_lists": every_list([{p.key: p.value for p in model.metadata_props}, {"": model.doc_string}]),
            "scatters": self.scatters,
            "picture": of_onnx({p.key: p.value for p in model.metadata_props}),
            "wrong_products": processor.multiplies_wrongly(),
            "without_amx": bool(processor.multiplies_wrongly()) and processor.without_amx(),
        }

    def otherwise(self) -> Iterator[tuple[str, Callable[[Mapping[str, Array]], dict[str, Array]]]]:
        """With several threads, as apps open a file, where it writes to places that it computes: to one place twice in
        an order that threads do not keep."""
        if self.scatters:
            threaded = OrtSession(str(self.path.parent), {**self.notes, "entry": self.path.name, "threads": THREADS})
            yield f"{THREADS} threads", threaded.run

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = [node.name for node in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))


def _scatters(model: Any) -> bool:
    """Whether one of its nodes writes to places that are computed, and what it writes last stays."""
    from parity.formats.onnx.rewriting import graphs

    parts = (part for holder in (model.graph, *model.functions) for part in graphs(holder))
    return any(node.op_type.startswith("Scatter") and not _reduces(node) for part in parts for node in part.node)


def _reduces(node: Any) -> bool:
    return any(a.name == "reduction" and a.s not in (b"", b"none") for a in node.attribute)


_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip
