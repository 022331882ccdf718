"""What the tests of recordings share: a contract of two channels, and a signal that fits it."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_edge.contract import Contract
from tests.helpers_data import make_contract


@pytest.fixture
def contract() -> Contract:
    return make_contract(units=("g", "g"))


@pytest.fixture
def signal() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
