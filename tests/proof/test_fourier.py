"""Fourier transforms in files without complex numbers: products with tables, which converters compute in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parity import formats as targets
from parity.core.errors import ParityError
from parity.core.proof import Proof
from parity.core.settings import ModelSpec
from parity.proof import prove, source
from parity.proof.messages import Placement, PlacementRequest, ProofRequest
from parity.proof.placement import evaluate
from parity.reference import oracle
from parity.reference.messages import OracleRequest
from tests.mil import zoo
from tests.proof.seeded import ROOT

SIZE = 128


class Spectrum(nn.Module):
    """Logarithms of a power spectrum, weighed."""

    def __init__(self, periodic: bool):
        super().__init__()
        self.periodic = periodic
        self.head = nn.Linear(SIZE // 2 + 1, 6)

    def forward(self, wave: Tensor) -> Tensor:
        window = torch.hann_window(SIZE, self.periodic, dtype=wave.dtype)
        spectrum = torch.stft(wave, SIZE, SIZE // 2, window=window, return_complex=True)
        return self.head((spectrum.abs() ** 2 + 1e-6).log().transpose(1, 2)).mean(1)


def made(periodic: bool) -> nn.Module:
    torch.manual_seed(0)
    return Spectrum(periodic).eval()


def cases(seed: int, count: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    time = np.arange(512)
    waves = [np.sin(time * rng.uniform(0.02, 0.4)) + 0.1 * rng.standard_normal(512) for _ in range(count)]
    return [{"wave": wave[None].astype(np.float32)} for wave in waves]


STILL = {"wave": np.full((1, 512), -1, np.float32)}  # nothing but the table's own error leaks out of its first row


SPEC = ModelSpec(str(ROOT), "tests.proof.test_fourier:made", {"periodic": True})


Package = tuple[Path, dict[str, Any]]  # its folder and its notes


def saved(folder: Path, periodic: bool) -> Package:
    """A package of the module, whose window is periodic or not, by the target's own code."""
    from parity.formats.coreml.convert import convert
    from parity.formats.torch.convert import SCRIPT_FILE

    example = cases(1, 1)[0]
    (folder / "traced").mkdir(parents=True)
    with zoo.quiet(), torch.no_grad():
        traced = torch.jit.trace(made(periodic), (torch.from_numpy(example["wave"]),))
        traced.save(str(folder / "traced" / SCRIPT_FILE))
        contract = {"inputs": [{"name": "wave", "shape": [1, 512], "dtype": "float32"}], "outputs": [{"name": "y"}]}
        options = {"precision": "fp32", "backend": "mlprogram"}
        return folder, convert(str(folder), str(folder / "traced"), options, contract, example)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return saved(tmp_path_factory.mktemp("fourier") / "right", True)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return saved(tmp_path_factory.mktemp("fourier") / "wrong", False)


def asked(package: Package) -> ProofRequest:
    """The proof of a file against the module with a periodic window."""
    folder, notes = package
    reader = targets.get("coreml").graph
    return ProofRequest(SPEC, reader, "fp32", str(folder), notes, cases(2), ["y"], [])


def proof(package: Package) -> Proof:
    return prove(asked(package))


def placed(package: Package, some: list[dict[str, Any]]) -> Placement:
    held = ("local", "range", "copies", "operators")
    return evaluate(PlacementRequest(replace(asked(package), whole=False, held=held), some))


def test_the_tables_of_a_transform_are_matched_and_sound(right: Package) -> None:
    found = proof(right)
    assert found.state == "proved", found.summary
    figures = found.link("match").figures
    assert not [name for name in figures["unmatched"] if "expand_dims" in name]
    assert not [name for name in figures["unused"] if "stft" in name]
    assert not figures["unexplained"]


def test_tables_of_another_window_are_found(wrong: Package) -> None:
    found = proof(wrong)
    assert found.link("audit").state == "failed"
    assert {culprit.name for culprit in found.link("audit").culprits} == {"cos of stft", "-sin of stft"}


def test_what_float32_tables_cost_is_what_a_right_file_is_off_by(right: Package) -> None:
    some = [*cases(3), STILL]
    want = [row["y"] for row in oracle.evaluate(OracleRequest(SPEC, some, ["y"])).outputs]
    twin = [row["y"] for row in placed(right, some).outputs]
    single = [made(True)(torch.from_numpy(case["wave"])).detach().numpy() for case in some]
    cost = [float(np.abs(t - w).max()) for t, w in zip(twin, want, strict=True)]
    eager = [float(np.abs(s - w).max()) for s, w in zip(single, want, strict=True)]
    assert cost[-1] > 5 * eager[-1]  # which no twin in float32 shows
    assert max(cost[:-1]) < 1e-3


def test_a_file_that_is_not_the_module_has_no_such_twin(wrong: Package) -> None:
    with pytest.raises(ParityError, match="is not proved"):
        placed(wrong, cases(3))


def test_a_window_of_the_input_gives_no_table() -> None:
    class Own(nn.Module):
        def forward(self, wave: Tensor) -> Tensor:
            return torch.stft(wave, SIZE, window=wave[0, :SIZE], return_complex=True).abs()

    assert source.export(Own(), [torch.randn(1, 512)]).weights == []
