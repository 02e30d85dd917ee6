"""What every test may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    """Networks that a test makes have the same random weights in every run."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data, or a skip that says why."""
    folder = Path(
        os.environ.get("MEDSEG_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data"
    ).resolve()
    if not folder.is_dir():
        pytest.skip("real data is absent: set MEDSEG_DATA to the folder that holds it")
    return folder
