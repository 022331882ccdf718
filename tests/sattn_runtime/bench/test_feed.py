"""What is fed to engines: windows behind one another, again and again."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_edge.model_file import load_model_file
from sattn_runtime.bench.feed import Feed, load_samples
from tests.helpers_data import WATCH_TINY
from tests.helpers_model import save_watch_model


def test_windows_lie_behind_one_another(model):
    loaded = load_model_file(model)
    samples, source = load_samples(loaded, None)
    np.testing.assert_array_equal(samples, np.concatenate(list(loaded.golden.x[:, 0])))
    assert source == "6 golden windows"


def test_a_recording_and_windows_of_ones_own(tmp_path):
    loaded = load_model_file(save_watch_model(tmp_path))
    samples, source = load_samples(loaded, str(WATCH_TINY))
    assert samples.shape[1] == 6
    assert len(samples) > 1000
    assert source == str(WATCH_TINY)
    x = np.random.default_rng(0).normal(size=(3, 200, 6)).astype(np.float32)
    np.savez(tmp_path / "w.npz", x=x)
    np.testing.assert_array_equal(load_samples(loaded, str(tmp_path / "w.npz"))[0], x.reshape(-1, 6))


@pytest.mark.parametrize(("length", "size"), [(10, 3), (10, 10), (3, 10), (1, 7)])
def test_a_feed_goes_round(length, size):
    feed = Feed(np.arange(length, dtype=np.float32)[:, None], size)
    for _ in range(20):
        piece = feed.take(size)
        assert piece.shape == (size, 1)
        steps = np.diff(piece[:, 0])
        assert set(steps.tolist()) <= {1.0, 1.0 - length}
