"""An NCNN file that is not given all of its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.core.errors import ParityError
from tests.faults import formats


def test_an_input_that_nothing_is_given_to_is_refused_in_words(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    from parity.formats.ncnn.runtime import NcnnSession

    session = NcnnSession(str(tmp_path), formats.ncnn(tmp_path))
    with pytest.raises(ParityError, match="nothing is given to the file's input"):
        session.run({"other": np.ones((1, 6), np.float32)})
