"""The cases of a session's models: golden data, frames of clips, calibration data, the example."""

from __future__ import annotations

from pathlib import Path

from parity.cases import draw, golden, own, video
from parity.cases.files import clips, golden_files
from parity.cases.fit import fitted
from parity.cases.video import Decoded, DecodeRequest
from parity.core.case import Array, Case
from parity.core.errors import ParityError
from parity.core.settings import ModelConfig
from parity.session.memo import remembered
from parity.session.resources import Part


class Cases(Part):
    """What a project's models are run on, read once a session."""

    @remembered
    def golden(self, model: ModelConfig) -> list[Case]:
        """The golden cases: files, then what the project's own function makes.

        Raises ParityError when there are none: nothing measured is not a pass.
        """
        if model.golden is None and model.cases is None:
            missing = 'no golden data; set golden = "folder" in its table'
            raise ParityError(f"model {model.name}: {missing}")
        files: list[Case] = []
        if model.golden:
            files = golden.load(model.golden, model.contract, classes=True)
        made: list[Case] = []
        if model.cases:
            made = own.cases(model.cases, model.contract, self.resources.config.root)
        if model.golden and not files and not made:
            empty = f"golden folder {model.golden.name!r} holds no picture and no .npz"
            raise ParityError(f"model {model.name}: {empty}")
        if twice := {c.id for c in files} & {c.id for c in made}:
            clash = f"cases {model.cases!r} names {min(twice)!r}, a golden file does too"
            raise ParityError(f"model {model.name}: {clash}")
        return [*files, *made]

    def golden_if_any(self, model: ModelConfig) -> list[Case]:
        """The golden cases; none where the model has neither golden files (a clip is none) nor a
        function for cases."""
        has_files = model.golden is not None and bool(golden_files(model.golden))
        return self.golden(model) if model.cases or has_files else []

    @remembered
    def video(self, model: ModelConfig, maximum: int | None) -> list[tuple[str, list[Case]]]:
        """(clip name, its frames as cases) of every clip; at most `maximum` frames a clip.

        Raises ChildFailure where a clip cannot be decoded.
        """
        playing = model.playing
        bounds = [bound for bound in (maximum, playing.maximum) if bound is not None]
        films = []
        for path in clips(model):
            self.resources.progress(model.name, f"decoding {path.name}")
            decoded = self._decode(path, playing.stride, min(bounds, default=None))
            cases = video.cases(path.name, decoded, model.contract, playing.rotate, playing.crop)
            films.append((path.name, cases))
        return films

    def first_frame(self, model: ModelConfig) -> tuple[Array, str]:
        """The first frame of the model's first clip, turned and cropped as declared, and the
        clip's name: uint8 of (height, width, 3)."""
        path = clips(model)[0]
        frame = self._decode(path, 1, 1).frames[0]
        return video.upright(frame, model.playing.rotate, model.playing.crop), path.name

    def _decode(self, path: Path, stride: int, maximum: int | None) -> Decoded:
        request = DecodeRequest(str(path), stride, maximum)
        decode = "parity.cases.video:decode"
        children = self.resources.children
        return children.call("video", decode, request, Decoded, stage="decode", confined=True)

    @remembered
    def calibration(self, model: ModelConfig) -> list[Case]:
        """The calibration cases, at the sizes of the export's example: a quantiser runs the file
        that it makes. Raises ParityError when there are none."""
        if model.calibration is None:
            missing = 'int8 needs calibration data; set calibration = "folder"'
            raise ParityError(f"model {model.name}: {missing}")
        cases = golden.load(model.calibration, model.contract)
        if not cases:
            folder = model.calibration.name
            raise ParityError(f"model {model.name}: calibration folder {folder!r} is empty")
        return fitted(cases, model.contract)

    def quantising(self, model: ModelConfig, precision: str) -> list[Case] | None:
        """The calibration cases that a twin of `precision` needs; None where it needs none, or the
        model has none."""
        if precision != "int8" or model.calibration is None:
            return None
        return self.calibration(model)

    def example(self, model: ModelConfig) -> dict[str, Array]:
        """The inputs that a module is exported with."""
        contract = model.contract
        return draw.inputs(contract, contract.example(), self.resources.config.seed)
