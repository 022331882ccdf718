from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import UsageError
from sattn_edge.statistics import QUANTILES, channel_statistics, longest_runs
from sattn_edge.windows import WindowSet, load_windows
from tests.helpers_data import WATCH_TINY, contract_of, make_contract


def window_set(x: np.ndarray) -> WindowSet:
    return WindowSet(x.astype(np.float32)[:, None], None, None, None, "test", "sha256:0")


def test_a_set_worked_by_hand():
    first = np.arange(1001.0)  # value = rank: a quantile q is 1000 q
    second = np.full(1001, 7.0)
    x = np.stack([first, second], axis=-1).reshape(7, 143, 2)
    found = channel_statistics(window_set(x), make_contract(window=143))
    assert found["windows"] == 7
    a, b = found["channels"]
    assert (a["name"], a["min"], a["max"], a["mean"]) == ("a", 0.0, 1000.0, 500.0)
    assert a["std"] == pytest.approx(math.sqrt((1001**2 - 1) / 12), rel=1e-12)
    assert a["quantiles"] == {"0.001": 1.0, "0.01": 10.0, "0.5": 500.0, "0.99": 990.0, "0.999": 999.0}
    assert (a["longest_equal_samples"], b["longest_equal_samples"]) == (1, 143)  # not across windows
    assert (b["std"], b["quantiles"]) == (0.0, {str(q): 7.0 for q in QUANTILES})


def test_real_windows_against_numpy():
    contract = contract_of(WATCH_TINY)
    windows = load_windows(str(WATCH_TINY), contract)
    found = channel_statistics(windows, contract)
    assert [c["name"] for c in found["channels"]] == list(contract.channel_names)
    for i, channel in enumerate(found["channels"]):
        values = windows.x[..., i].astype(np.float64).ravel()
        assert channel["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert channel["std"] == pytest.approx(values.std(), rel=1e-9)
        assert (channel["min"], channel["max"]) == (values.min(), values.max())
        for q in QUANTILES:
            around = [np.quantile(values, q, method=side) for side in ("lower", "higher")]
            assert channel["quantiles"][str(q)] in around
        assert 1 <= channel["longest_equal_samples"] < contract.window


def test_it_is_json_and_does_not_depend_on_the_order_of_windows():
    contract = contract_of(WATCH_TINY)
    windows = load_windows(str(WATCH_TINY), contract, limit=50)
    found = channel_statistics(windows, contract)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    turned = WindowSet(np.ascontiguousarray(windows.x[::-1]), None, None, None, "turned", "sha256:0")
    assert channel_statistics(turned, contract) == found
    fewer = load_windows(str(WATCH_TINY), contract, limit=49)
    assert channel_statistics(fewer, contract) != found


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=4))
def test_runs_equal_a_loop(rows):
    wanted = 0
    for row in rows:
        for a in range(6):
            for b in range(a, 6):
                if len(set(row[a : b + 1])) == 1:
                    wanted = max(wanted, b - a + 1)
    x = np.array(rows, np.float32)[..., None]
    assert longest_runs(x).tolist() == [wanted]
    both = np.concatenate([x, np.broadcast_to(np.arange(6, dtype=np.float32)[:, None], x.shape)], axis=-1)
    assert longest_runs(both).tolist() == [wanted, 1]


def test_another_number_of_channels_is_refused():
    with pytest.raises(UsageError, match="test: has 3 channels; the contract has 2"):
        channel_statistics(window_set(np.zeros((2, 8, 3))), make_contract())
