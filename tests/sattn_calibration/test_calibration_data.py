"""Each refusal with its text, and real recordings pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_calibration.data_checks import MINIMUM_WINDOWS, check_data, portmanteau
from sattn_calibration.data_report import data_report
from sattn_edge.contract import Channel, Contract, contract_from_dict
from sattn_edge.errors import RecordingError
from sattn_edge.windows import WindowSet, load_windows
from tests.helpers_data import WATCH_TINY, contract_of, make_contract
from tests.helpers_nets import CALIBRATION, NETS, SHARED, load_net
from tests.sattn_calibration.helpers_windows import cut, walk, window_set

WINDOW = 32


def with_channels(contract: Contract, **values: float) -> Contract:
    """The contract with these values in every channel."""
    rows = tuple(msgspec.structs.replace(c, **values) for c in contract.channel)
    return msgspec.structs.replace(contract, channel=rows)


@pytest.fixture
def contract() -> Contract:
    return with_channels(make_contract(window=WINDOW, hop=16, units=("g", "g")), mean=0.0, std=1.0)


@pytest.fixture
def windows() -> WindowSet:
    return cut([32 + 16 * 99], WINDOW, 16).windows


@pytest.fixture(scope="module")
def watch() -> tuple[WindowSet, Contract]:
    """Real recordings of two shoulders, 200 x 6, with the mean and std they have."""
    contract = contract_of(WATCH_TINY, window=200, hop=50)
    found = load_windows(str(WATCH_TINY), contract)
    mean, std = found.x.mean((0, 1, 2)), found.x.std((0, 1, 2))
    rows = tuple(
        Channel(c.name, c.unit, float(m), float(s)) for c, m, s in zip(contract.channel, mean, std, strict=True)
    )
    return found, msgspec.structs.replace(contract, channel=rows)


def like(windows: WindowSet, x: np.ndarray) -> WindowSet:
    return replace(windows, x=np.ascontiguousarray(x, np.float32))


def refusal(windows: WindowSet, contract: Contract) -> str:
    with pytest.raises(RecordingError) as found:
        check_data(windows, contract)
    assert found.value.exit_code == 3
    return str(found.value)


def test_sensible_windows_pass(windows, contract):
    check_data(windows, contract)


def test_real_recordings_pass(watch):
    check_data(*watch)


def test_real_recordings_of_either_subject_pass(watch):
    windows, contract = watch
    assert windows.group is not None
    for name in np.unique(windows.group):
        own = windows.group == name
        part = replace(windows, x=windows.x[own], y=None, group=windows.group[own], start=windows.start[own])
        check_data(part, contract)


def test_no_windows(windows, contract):
    assert "holds no windows; 32 or more; real windows, recorded as" in refusal(like(windows, windows.x[:0]), contract)


def test_another_shape(windows, contract):
    text = refusal(like(windows, windows.x[:, :, :-1]), contract)
    assert "windows are [1, 31, 2]; the contract: [1, 32, 2]" in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(windows, contract, value):
    x = windows.x.copy()
    x[3, 0, 4, 1] = value
    assert "1 of 6400 values are not finite, the first in channel 'b'" in refusal(like(windows, x), contract)


def test_zeros(windows, contract):
    assert "holds only zeros; a placeholder gives no ranges" in refusal(like(windows, 0 * windows.x), contract)


def test_constants(windows, contract):
    each = np.arange(100).reshape(-1, 1, 1, 1) + 0 * windows.x
    for x in (0 * windows.x + 1, each):
        assert "never changes within a window, in any channel" in refusal(like(windows, x), contract)


def test_one_window_again_and_again(windows, contract):
    x = windows.x[[*range(8), *[5] * 92]]
    plain = replace(like(windows, x), start=None)
    text = refusal(plain, contract)
    assert "92 of 100 windows are the same as an earlier one; at most 90%; a placeholder" in text
    some = replace(plain, x=windows.x[[*range(50), *range(50)]])
    with pytest.raises(RecordingError, match="holds 100 windows, as many samples as"):  # half of them: too few remain
        check_data(some, contract)


NOISE = {
    "rand": lambda rng, shape: rng.random(shape),
    "randn": lambda rng, shape: rng.normal(size=shape),
    "randint": lambda rng, shape: rng.integers(-100, 100, shape),
    "as the contract": lambda rng, shape: rng.normal(size=shape) * 0.3 + 0.7,
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape),
}


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("shape", [(40, 1, 100, 6), (64, 1, 32, 1), (400, 1, 128, 9)])
def test_random_numbers(kind, shape):
    rng = np.random.default_rng(0)
    made = window_set(NOISE[kind](rng, shape)[:, 0])
    contract = make_contract(tuple(f"c{i}" for i in range(shape[3])), window=shape[2], hop=shape[2])
    text = refusal(made, with_channels(contract, mean=0.7, std=0.3))
    assert "looks like random numbers: in no channel does any sample depend on those before it" in text
    assert "4 or more; recordings have hundreds; random data give no ranges" in text


def test_random_numbers_cut_with_an_overlap():
    signal = np.random.default_rng(0).normal(size=(2000, 3))
    x = np.stack([signal[s : s + 64] for s in range(0, 1900, 16)])
    contract = make_contract(("a", "b", "c"), window=64, hop=16)
    assert "looks like random numbers" in refusal(window_set(x), contract)


def test_noise_that_comes_and_goes_is_no_noise():
    """White as EMG and vibration can be: what makes it real is its strength, and so does any memory."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=(200, 100, 2))
    contract = make_contract(window=100, hop=100)
    bursts = white * (1 + rng.random((200, 1, 1)))
    memory = white[:, 1:] + 0.1 * white[:, :-1]
    assert portmanteau(window_set(white), contract) < 2.5
    assert portmanteau(window_set(bursts), contract) > 4
    assert portmanteau(window_set(memory), contract) > 4


def test_one_noisy_channel_among_real_ones_passes(windows, contract):
    x = windows.x.copy()
    x[..., 1] = np.random.default_rng(0).normal(size=x[..., 1].shape)
    check_data(replace(like(windows, x), start=np.arange(100) * WINDOW), contract)


def test_values_outside_the_valid_range(windows, contract):
    x = windows.x.clip(-3, 3)
    x[..., 1].reshape(-1)[:33] = 20
    limited = with_channels(contract, min=-16.0, max=16.0)
    text = refusal(like(windows, x), limited)
    assert text.startswith(
        "windows.npz, channel 'b': 1.0% of the samples are outside its valid range, the worst is 20 g"
    )
    assert "; -16 to 16 g, but for 1%; bring the data to the contract's unit" in text
    x[..., 1].reshape(-1)[:2] = 0
    check_data(like(windows, x), limited)  # one sample in a hundred and no more


@pytest.mark.parametrize(
    ("limits", "text"),
    [({"min": -0.5}, "from -0.5 g, but for"), ({"max": 0.5}, "up to 0.5 g, but for")],
)
def test_a_range_open_at_one_end(windows, contract, limits, text):
    x = windows.x / np.abs(windows.x).max() * 4
    found = refusal(like(windows, x), with_channels(contract, **limits))
    assert text in found
    assert f"the worst is {(x[..., 0].min() if 'min' in limits else x[..., 0].max()):.4g} g" in found


UNITS = [
    (9.80665, "g", "9.8", "are they in g? g and m/s2 differ by 9.81."),
    (1 / 9.80665, "g", "0.10", "g and m/s2 differ by 9.81. Or do they lack the activity it was trained on?"),
    (180 / np.pi, "rad/s", "57", "are they in rad/s? radians and degrees differ by 57.3."),
    (1000, "g", "1e+03", "a prefix of milli is a factor of 1000."),
]


@pytest.mark.parametrize(("factor", "unit", "times", "hint"), UNITS)
def test_real_recordings_in_another_unit(watch, factor, unit, times, hint):
    windows, contract = watch
    own = np.array([c.unit == unit for c in contract.channel])
    x = np.where(own, windows.x * np.float32(factor), windows.x)
    text = refusal(like(windows, x), contract)
    assert f"values are {times}" in text
    assert "times as large as the contract's mean and std say; within a factor of 5" in text
    assert text.endswith(hint)
    assert "channels 'ax', 'ay', 'az':" in text if unit == "g" else "channels 'wx', 'wy', 'wz':" in text


def test_gravity_counts_whichever_way_the_sensor_lies(watch):
    """A resting accelerometer reads 1 g in one axis: no other unit, though each std is near 0 and each mean moved."""
    windows, contract = watch
    x = windows.x.copy()
    x[..., :3] = 0.02 * x[..., :3] + np.float32([0, 0, -1])
    check_data(like(windows, x), contract)


def test_one_channel_out_of_scale(contract):
    contract = with_channels(make_contract(("a", "b", "c"), window=WINDOW, hop=16), mean=0.0, std=1.0)
    contract = msgspec.structs.replace(
        contract, channel=(*contract.channel[:2], Channel("c", "", 0.0, 0.01), *contract.channel[3:])
    )
    rows = cut([32 + 16 * 99], WINDOW, 16).windows.x
    x = np.concatenate([rows, 0.5 * rows[..., :1]], axis=3)
    made = window_set(x[:, 0], start=np.arange(100) * 16)
    text = refusal(made, contract)
    assert "windows.npz, channel 'c': its standard deviation is" in text
    assert "times the contract's; up to 20 times 0.01; is it in the unit the network was trained on?" in text
    check_data(like(made, x * np.float32([1, 1, 0.2])), contract)


def test_a_mean_far_away(windows, contract):
    contract = with_channels(contract, mean=20.0)
    check_data(like(windows, windows.x + 20), contract)
    check_data(like(windows, windows.x + 29), contract)
    text = refusal(like(windows, windows.x + 31), contract)
    assert "channel 'a': its mean is 30.94 g, 10.9 standard deviations from" in text
    assert (
        "standard deviations from the contract's; 20 g within 10 times 1 g; is it in g, and the sensor mounted" in text
    )


def test_without_mean_and_std_no_scale_is_checked(windows):
    check_data(like(windows, windows.x * 1e4), make_contract(window=WINDOW, hop=16))


@pytest.mark.parametrize(("count", "hop"), [(31, 32), (61, 16)])
def test_too_few_windows(contract, count, hop):
    made = cut([32 + hop * (count - 1)], WINDOW, hop).windows
    text = refusal(made, contract)
    less = ", as many samples as 31 without overlap" if hop < WINDOW else ""
    assert f"holds {count} windows{less}; 32 or more without overlap: half give the ranges, half judge them" in text
    check_data(cut([32 + hop * (2 * count)], WINDOW, hop).windows, contract)


@pytest.mark.parametrize("name", NETS)
def test_the_foreign_networks_own_recordings_pass(name):
    """And neither noise of the same shape nor the same recordings in another unit."""
    if not Path(SHARED / f"{name}_net.pt").exists():
        pytest.skip(f"no {name} in {SHARED}")
    net = load_net(name, CALIBRATION)
    contract = contract_from_dict(_toml(net.contract), name)
    some = slice(None, None, -(-len(net.x) // 400))
    x, group = net.x[some], net.group[some]
    made = window_set(x[:, 0], net.y[some], group.astype(str))
    check_data(made, contract)
    assert portmanteau(made, contract) > 400
    for one in np.unique(group):
        assert portmanteau(replace(made, x=x[group == one], group=None, y=None), contract) > 40
    for factor in (9.80665, 1 / 9.80665):
        assert "times as large as" in refusal(like(made, made.x * np.float32(factor)), contract)
    noise = np.random.default_rng(0).normal(size=made.x.shape)
    assert "looks like random numbers" in refusal(like(made, noise), contract)


def _toml(text: str) -> object:
    return msgspec.toml.decode(text)


def test_the_report_of_real_recordings(watch):
    windows, contract = watch
    found = data_report(windows, contract)
    assert found.windows == len(windows.x)
    assert sum(found.groups.values()) == sum(found.classes.values()) == found.windows
    assert (found.duplicates, found.order_from, found.dead, found.saturated) == (0, "start", (), ())
    assert found.overlapping == 1.0
    assert found.effective_windows == pytest.approx(found.windows / 4, rel=0.05)
    assert found.exceedance == pytest.approx(1 / (found.effective_windows + 1), rel=0.01)
    for i, row in enumerate(found.channels):
        values = windows.x[..., i].astype(np.float64)
        assert row.minimum == values.min()
        assert row.mean == pytest.approx(values.mean(), abs=1e-9)
        assert row.std == pytest.approx(values.std(), rel=1e-9)
        assert row.std_ratio == pytest.approx(1, abs=1e-4)
        assert row.mean_offset == pytest.approx(0, abs=1e-4)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["channels"][0]["name"] == "ax"


def test_the_report_names_what_is_wrong(windows, contract):
    x = windows.x.clip(-1.5, 1.5)
    x[..., 1] = 0.5
    made = like(windows, x)
    y = np.zeros(100, np.int16)
    y[:10] = -1
    found = data_report(replace(made, y=y), with_channels(contract, min=-1.0, max=2.0))
    assert found.dead == ("b",)
    assert found.saturated == ("a",)
    a, b = found.channels
    assert a.at_maximum == pytest.approx((x[..., 0] == 1.5).mean(), rel=0.2)
    assert a.at_minimum > 0
    assert a.outside == pytest.approx((x[..., 0] < -1).mean())
    assert (b.at_maximum, b.outside) == (0, 0)
    assert found.classes == {"rest": 90, "walk": 0, "run": 0, "(unscored)": 10}
    assert found.missing_classes == ("walk", "run")
    assert found.groups == {}


def test_an_extreme_that_is_met_once_is_no_limit(windows, contract):
    found = data_report(windows, contract)
    assert all(c.at_maximum == c.at_minimum == 0 for c in found.channels)
    assert found.saturated == ()


def test_the_report_counts_duplicates_and_overlap():
    x = np.stack([walk(32, seed=i) for i in range(4)])[[0, 1, 1, 2, 3, 3]]
    found = data_report(window_set(x), make_contract(window=32, hop=32))
    assert (found.duplicates, found.effective_windows, found.overlapping) == (2, 4.0, 0.0)
    assert found.channels[0].std_ratio is None
    assert data_report(cut([64], 32, 8).windows, make_contract(window=32, hop=8)).overlapping == 1.0


def test_the_least_number_of_windows_bounds_what_it_says():
    """A value beyond the largest of 16 independent ones comes once in 17; no flip in 16 leaves 17 % open."""
    half = MINIMUM_WINDOWS // 2
    drawn = np.random.default_rng(0).normal(size=(40_000, half + 1))
    assert (drawn.argmax(axis=1) == half).mean() == pytest.approx(1 / 17, abs=0.005)
    assert 1 - 0.05 ** (1 / half) == pytest.approx(0.17, abs=0.005)
