"""Exports shared by all tests of a session, and by sessions where PARITY_PROOF_EXPORTS names a folder to keep them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("PARITY_PROOF_EXPORTS")
    return Path(kept) if kept else tmp_path_factory.mktemp("exports")
