"""Refuses windows no integer range should come from: placeholders, noise, another unit, too few.

A range that comes from the wrong data is worse than none: the network still runs and is quietly wrong. So each check
asks for something real recordings have. How far real ones are from each limit was measured on nine sets (activity,
gestures, ECG, EMG, bearings; 40 to 3163 windows), and for each subject and each class of them alone.

| check | limit | the nine sets |
|---|---|---|
| one window again and again | 90 % equal to an earlier one | 0 % |
| white noise | portmanteau statistic below 4 | 425 to 935,000; numpy's noise about 1 |
| scale of one unit's channels | 1/5 to 5 of the contract's | 0.77 to 1.10; a subject 0.4 to 1.7; a class 0.06 to 1.8 |
| spread of one channel | up to 20 of the contract's | 0.70 to 1.32; a class up to 2.5 |
| mean of one channel | within 10 of the contract's std | within 0.35; a class within 2.0 |
| windows, overlap taken off | 32 | 40 to 3163 |

So a set of one resting class is refused too, as too quiet: ranges from it would clip everything else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sattn_calibration.data_report import outside_share
from sattn_calibration.overlap import duplicates, effective_windows, positions
from sattn_edge.contract import Channel, Contract
from sattn_edge.errors import RecordingError
from sattn_edge.windows import WindowSet

Array = NDArray[np.float64]

MINIMUM_WINDOWS = 32
"""Without overlap. Half of them give the ranges: another window then goes beyond all 16 in one quantity with a chance
of 1 in 17, and 16 windows that all agree bound the share that would not to 17 % (95 % sure). Fewer support neither."""
MOST_DUPLICATES = 0.9
LEAST_PORTMANTEAU = 4.0
LAGS = 8
_ENOUGH_VALUES = 10_000_000  # beyond so many, every second or third window tells as much
MOST_OUTSIDE = 0.01
SCALE_FACTOR = 5.0  # g and m/s2 are 9.81 apart, rad and degrees 57, V and mV 1000
STD_FACTOR = 20.0
MEAN_STDS = 10.0

_TRAINED = "the unit the network was trained on"
_REAL = "real windows, recorded as the network will see them"


def check_data(windows: WindowSet, contract: Contract) -> None:
    """Every check in turn, the plainest first, on windows x [n, 1, series, modal].

    Raises:
        RecordingError: the first that fails; exit code 3.
    """
    check_present(windows, contract)
    check_not_constant(windows)
    check_not_repeated(windows)
    check_not_noise(windows, contract)
    check_valid_range(windows, contract)
    check_scale(windows, contract)
    check_enough(windows, contract)


def check_present(windows: WindowSet, contract: Contract) -> None:
    """There are windows, of the contract's shape, and every value is finite."""
    shape = (1, contract.window, contract.modal)
    if not len(windows.x):
        raise RecordingError(windows.source, "holds no windows", f"{MINIMUM_WINDOWS} or more", _REAL)
    if windows.x.shape[1:] != shape:
        raise RecordingError(windows.source, f"windows are {list(windows.x.shape[1:])}", f"the contract: {list(shape)}")
    bad = ~np.isfinite(windows.x)
    if bad.any():
        channel = contract.channel_names[int(np.argwhere(bad)[0][3])]
        raise RecordingError(
            windows.source,
            f"{int(bad.sum())} of {bad.size} values are not finite, the first in channel '{channel}'",
            "finite values only",
            "leave those windows out, or fill them",
        )


def check_not_constant(windows: WindowSet) -> None:
    """Some channel changes within some window."""
    x = windows.x
    if (x == x[:, :, :1]).all():
        found = "holds only zeros" if not x.any() else "never changes within a window, in any channel"
        raise RecordingError(windows.source, found, f"a placeholder gives no ranges: {_REAL}")


def check_not_repeated(windows: WindowSet) -> None:
    """Not the same window again and again."""
    again = int(duplicates(windows.x).sum())
    if again > MOST_DUPLICATES * len(windows.x):
        raise RecordingError(
            windows.source,
            f"{again} of {len(windows.x)} windows are the same as an earlier one",
            f"at most {MOST_DUPLICATES:.0%}",
            f"a placeholder gives no ranges: {_REAL}",
        )


def check_not_noise(windows: WindowSet, contract: Contract) -> None:
    """Some sample tells something of a later one, by its value or by its size.

    Real signals do: they are limited in bandwidth, and where they are nearly white (vibration, EMG) their strength
    still comes and goes. Numbers drawn one by one do neither, whatever they were scaled by.
    """
    if (found := portmanteau(windows, contract)) < LEAST_PORTMANTEAU:
        raise RecordingError(
            windows.source,
            "looks like random numbers: in no channel does any sample depend on those before it "
            f"(portmanteau statistic {found:.2g} a degree of freedom)",
            f"{LEAST_PORTMANTEAU:g} or more; recordings have hundreds",
            f"random data give no ranges: {_REAL}",
        )


def portmanteau(windows: WindowSet, contract: Contract) -> float:
    """How much the samples depend on earlier ones: about 1 for independent ones, whatever their distribution.

    The mean of N r^2 over lags 1 to 8, all channels that change, and r of both the values and their distances from
    the mean; N is the number of samples without overlap (G. E. P. Box, D. A. Pierce, J. Am. Stat. Assoc. 65, 1970).
    Infinite where windows have no two samples.
    """
    x = windows.x[:: -(-windows.x.size // _ENOUGH_VALUES), 0].astype(np.float64)
    x = x[..., x.min(axis=(0, 1)) < x.max(axis=(0, 1))]
    lags = range(1, min(LAGS, x.shape[1] - 1) + 1)
    if not lags or not x.shape[-1]:
        return float("inf")
    x -= x.mean(axis=(0, 1))
    size = np.abs(x)
    size -= size.mean(axis=(0, 1))
    independent = effective_windows(windows, positions(windows, contract.hop)) / len(windows.x)
    rows = [_squared(s, lag) * len(x) * (x.shape[1] - lag) * independent for s in (x, size) for lag in lags]
    return float(np.mean(rows))


def _squared(x: Array, lag: int) -> Array:
    """Squared autocorrelation of x [n, series, modal], mean 0, within windows: [modal]. 0 for a size of one value."""
    product = np.einsum("ntm,ntm->m", x[:, lag:], x[:, :-lag]) / (len(x) * (x.shape[1] - lag))
    power = np.einsum("ntm,ntm->m", x, x) / (len(x) * x.shape[1])
    r: Array = product / np.maximum(power, 1e-300)
    return r**2


def check_valid_range(windows: WindowSet, contract: Contract) -> None:
    """Values lie between the contract's min and max, but for 1 % of each channel."""
    for i, channel in enumerate(contract.channel):
        values = windows.x[:, 0, :, i]
        share = outside_share(values, channel)
        if share > MOST_OUTSIDE:
            raise RecordingError(
                f"{windows.source}, channel '{channel.name}'",
                f"{share:.1%} of the samples are outside its valid range, the worst is {_worst(values, channel)}",
                f"{_limits(channel)}, but for {MOST_OUTSIDE:.0%}",
                "bring the data to the contract's unit, or correct the contract's min and max",
            )


def _worst(values: NDArray[np.float32], channel: Channel) -> str:
    low, high = float(values.min()), float(values.max())
    below = channel.min - low if channel.min is not None else -np.inf
    above = high - channel.max if channel.max is not None else -np.inf
    return _g(low if below > above else high, channel)


def check_scale(windows: WindowSet, contract: Contract) -> None:
    """Values are about as large as the contract's mean and std say, so most likely in its unit.

    Channels of one unit are compared together, by their root mean square: gravity then counts whichever way the sensor
    lies, and one still channel does not matter.
    """
    x = windows.x[:, 0]
    mean, std = x.mean(axis=(0, 1), dtype=np.float64), x.std(axis=(0, 1), dtype=np.float64)
    for unit in dict.fromkeys(c.unit for c in contract.channel):
        rows = [i for i, c in enumerate(contract.channel) if c.unit == unit and c.std is not None]
        if rows:
            _check_unit(windows.source, [contract.channel[i] for i in rows], mean[rows], std[rows])
    for i, channel in enumerate(contract.channel):
        if channel.mean is not None and channel.std is not None:
            _check_channel(windows.source, channel, float(mean[i]), float(std[i]))


def _check_unit(source: str, channels: list[Channel], mean: Array, std: Array) -> None:
    expected = np.sqrt(sum((c.mean or 0.0) ** 2 + (c.std or 0.0) ** 2 for c in channels))
    ratio = float(np.sqrt((mean**2 + std**2).sum()) / expected)
    if 1 / SCALE_FACTOR <= ratio <= SCALE_FACTOR:
        return
    names = ", ".join(f"'{c.name}'" for c in channels)
    raise RecordingError(
        f"{source}, channel{'s' if len(channels) > 1 else ''} {names}",
        f"values are {ratio:.3g} times as large as the contract's mean and std say",
        f"within a factor of {SCALE_FACTOR:g}",
        f"are they in {channels[0].unit or _TRAINED}?{_hint(ratio, channels[0].unit)}"
        + ("" if ratio > 1 else " Or do they lack the activity it was trained on?"),
    )


def _check_channel(source: str, channel: Channel, mean: float, std: float) -> None:
    expected_mean, expected_std = channel.mean or 0.0, channel.std or 1.0
    subject, unit = f"{source}, channel '{channel.name}'", channel.unit or _TRAINED
    if std > STD_FACTOR * expected_std:
        raise RecordingError(
            subject,
            f"its standard deviation is {_g(std, channel)}, {std / expected_std:.3g} times the contract's",
            f"up to {STD_FACTOR:g} times {_g(expected_std, channel)}",
            f"is it in {unit}?",
        )
    if abs(mean - expected_mean) > MEAN_STDS * expected_std:
        raise RecordingError(
            subject,
            f"its mean is {_g(mean, channel)}, {abs(mean - expected_mean) / expected_std:.3g} standard deviations "
            "from the contract's",
            f"{_g(expected_mean, channel)} within {MEAN_STDS:g} times {_g(expected_std, channel)}",
            f"is it in {unit}, and the sensor mounted as it was?",
        )


def check_enough(windows: WindowSet, contract: Contract) -> None:
    """Enough windows for ranges and for judging them, those an overlap repeats counted once."""
    effective = effective_windows(windows, positions(windows, contract.hop))
    if effective < MINIMUM_WINDOWS:
        alike = "" if effective >= len(windows.x) else f", as many samples as {effective:.3g} without overlap"
        raise RecordingError(
            windows.source,
            f"holds {len(windows.x)} windows{alike}",
            f"{MINIMUM_WINDOWS} or more without overlap: half give the ranges, half judge them",
            "record more, of everything the network is to tell apart",
        )


_FACTORS = (
    (9.80665, ("g", "m/s"), "g and m/s2 differ by 9.81"),
    (180 / np.pi, ("rad", "deg", "dps"), "radians and degrees differ by 57.3"),
    (1e3, ("",), "a prefix of milli is a factor of 1000"),
    (1e6, ("",), "a prefix of micro is a factor of 1,000,000"),
)


def _hint(ratio: float, unit: str) -> str:
    """The conversions of this unit whose factor is within 2 of the ratio found."""
    distance = abs(np.log(ratio)) if ratio > 0 else np.inf
    near = [
        text
        for factor, starts, text in _FACTORS
        if unit.lower().startswith(starts) and abs(distance - np.log(factor)) < np.log(2)
    ]
    return "".join(f" {text}." for text in near)


def _g(value: float, channel: Channel) -> str:
    return f"{value:.4g} {channel.unit}".rstrip()


def _limits(channel: Channel) -> str:
    if channel.min is None or channel.max is None:
        one, word = (channel.max, "up to") if channel.min is None else (channel.min, "from")
        return f"{word} {_g(one or 0.0, channel)}"
    return f"{channel.min:g} to {_g(channel.max, channel)}"
