"""TorchScript and ExportedProgram files in a failing input's script: run by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

from parity.formats.snippet import Failing


def script_lines(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    return _run(f"torch.jit.load({a.path()!r})", a, fed, output)


def program_lines(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    return _run(f"torch.export.load({a.path()!r}).module()", a, fed, output)


def _run(loaded: str, a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    """Inputs go in by position; a dict of outputs is in the order of the contract too."""
    names = [entry["name"] for entry in a.notes["outputs"].values()]
    values = ", ".join(f"torch.from_numpy({fed[entry['name']]})" for entry in a.notes["inputs"].values())
    lines = ["import torch", f"got = {loaded}({values})"]
    if len(names) > 1:
        lines.append(f"got = list(got.values() if isinstance(got, dict) else got)[{names.index(output)}]")
    return [*lines, "got = got.detach().numpy()"]
