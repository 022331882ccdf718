"""A single recording as .npz: what fits, and what is refused."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest

from sattn_edge.errors import RecordingError
from sattn_edge.recording_base import check_rate
from tests.helpers_data import (
    make_contract,
)
from tests.helpers_recording import read, refuses, save


def test_a_plain_recording(tmp_path, contract, signal):
    label = np.array([0] * 5 + [2] * 5 + [255] * 5 + [1] * 5, np.uint8)
    stamps = np.arange(20) / 50.0
    path = save(
        tmp_path,
        signal=signal,
        channels=["a", "b"],
        units=["g", "g"],
        rate_hz=50.5,
        timestamp_s=stamps,
        label=label,
        subject="p7",
    )
    (rec,) = read(path, contract)
    assert (rec.name, rec.subject, rec.notes) == ("rec", "p7", ())
    assert rec.samples.dtype == np.float32
    assert rec.samples.flags.c_contiguous
    np.testing.assert_array_equal(rec.samples, signal)
    np.testing.assert_array_equal(rec.labels, [0] * 5 + [2] * 5 + [-1] * 5 + [1] * 5)
    assert rec.labels is not None
    assert rec.labels.dtype == np.int16
    np.testing.assert_array_equal(rec.timestamp_s, stamps)


def test_channels_are_picked_and_ordered_by_name(tmp_path, contract, signal):
    wide = np.column_stack([signal[:, 1], np.full(20, 9.0), signal[:, 0]])
    (rec,) = read(save(tmp_path, signal=wide, channels=["b", "temp", "a"], units=["g", "C", "g"]), contract)
    np.testing.assert_array_equal(rec.samples, signal)
    assert rec.samples.flags.c_contiguous
    assert rec.notes == (f"{tmp_path / 'rec.npz'}: not in the contract and ignored: temp",)


def test_without_names_the_order_is_the_contracts_and_said(tmp_path, contract, signal):
    (rec,) = read(save(tmp_path, signal=signal), contract)
    np.testing.assert_array_equal(rec.samples, signal)
    assert rec.notes == (f"{tmp_path / 'rec.npz'}: no channel names, the order is taken as the contract's",)
    assert rec.labels is None
    assert rec.timestamp_s is None
    refuses(save(tmp_path, signal=signal[:, [0, 1, 1]]), contract, "3 channels without names", "2: a, b")


@pytest.mark.parametrize("dtype", [np.float64, ">f4", ">f8"])
def test_other_floats_become_float32(tmp_path, contract, signal, dtype):
    (rec,) = read(save(tmp_path, signal=signal.astype(dtype)), contract)
    assert rec.samples.dtype == np.float32
    np.testing.assert_array_equal(rec.samples, signal)


def test_a_saved_transpose_is_read(tmp_path, contract, signal):
    path = save(tmp_path, signal=np.ascontiguousarray(signal.T).T)
    with zipfile.ZipFile(path) as z:
        assert b"'fortran_order': True" in z.read("signal.npy")
    (rec,) = read(path, contract)
    np.testing.assert_array_equal(rec.samples, signal)
    assert rec.samples.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.int16, ">i2", np.int8, np.int32])
def test_integers_are_scaled_in_float32(tmp_path, contract, dtype):
    raw = np.arange(-20, 20).reshape(20, 2).astype(dtype)
    scale = np.array([0.1, 0.003], np.float32)
    (rec,) = read(save(tmp_path, signal=raw, scale=scale), contract)
    np.testing.assert_array_equal(rec.samples, raw.astype(np.float32) * scale)


def test_labels_are_mapped_by_name(tmp_path, contract, signal):
    label = np.repeat([0, 1, 2, -1], 5)
    names = ["run", "swim", "rest"]
    (rec,) = read(save(tmp_path, signal=signal, channels=["a", "b"], label=label, class_names=names), contract)
    np.testing.assert_array_equal(rec.labels, np.repeat([2, -1, 0, -1], 5))
    assert "no labels of the contract, so counted as unlabelled: swim" in rec.notes[0]


def test_labels_may_be_names(tmp_path, contract, signal):
    label = np.repeat(["walk", "", "swim", "rest"], 5)
    (rec,) = read(save(tmp_path, signal=signal, label=label), contract)
    np.testing.assert_array_equal(rec.labels, np.repeat([1, -1, -1, 0], 5))
    (rec,) = read(save(tmp_path, signal=signal, label=label.astype("S")), contract)
    np.testing.assert_array_equal(rec.labels, np.repeat([1, -1, -1, 0], 5))


def test_255_is_a_label_where_there_are_so_many(tmp_path, signal):
    many = make_contract(labels=tuple(f"l{i}" for i in range(300)))
    label = np.repeat([255, 299, -1, 0], 5).astype(np.int16)
    (rec,) = read(save(tmp_path, signal=signal, label=label), many)
    np.testing.assert_array_equal(rec.labels, label)


def test_a_few_missing_samples_pass(tmp_path, contract, signal):
    signal[3:6, 0] = np.nan
    signal[9] = np.inf
    (rec,) = read(save(tmp_path, signal=signal), contract)
    np.testing.assert_array_equal(rec.samples, signal)


def test_a_float64_beyond_float32_is_infinite(tmp_path, contract, signal):
    big = signal.astype(np.float64)
    big[2, 1] = 1e300
    (rec,) = read(save(tmp_path, signal=big), contract)
    assert np.isinf(rec.samples[2, 1])


PLAIN_ERRORS = {
    "missing": ({"channels": ["a", "bb"]}, "channel 'b' is missing; it has a, bb; did you mean 'bb'?"),
    "foreign": ({"channels": ["a", "temp"]}, "channel 'b' is missing; it has a, temp; rename"),
    "twice": ({"channels": ["a", "a"]}, "channel 'a' stands 2 times; once"),
    "names": ({"channels": ["a"]}, "channels has 1 entries for 2 channels"),
    "unit": ({"units": ["g", "m/s2"]}, "channel 'b' is in m/s2; the contract says g; convert"),
    "units": ({"units": ["g"]}, "units has 1 entries for 2 channels"),
    "rate": (
        {"rate_hz": 100.0},
        "sampled at 100 Hz (by its rate_hz); the contract says 50 Hz, give or take 2%; resample",
    ),
    "fs": ({"fs": 51.1}, "sampled at 51.1 Hz (by its fs)"),
    "rate nan": ({"rate_hz": np.nan}, "sampled at nan Hz"),
    "rate text": ({"rate_hz": "50"}, "'rate_hz': is <U2 []; one number"),
    "rates": ({"rate_hz": [50.0, 50.0]}, "'rate_hz': is float64 [2]; one number"),
    "label length": ({"label": [0] * 19}, "label is [19], signal has 20 samples; one entry per sample"),
    "label range": (
        {"label": [0] * 19 + [3]},
        "label 3 (at 19); the contract's labels are 0 to 2; negative or",
    ),
    "label by name": ({"label": [1] * 20, "class_names": ["run"]}, "label 1 (at 0); class_names are 0 to 0"),
    "label float": ({"label": [0.5] * 20}, "labels are float64; whole numbers or names"),
    "stamps length": ({"timestamp_s": [0.0, 1.0]}, "timestamp_s is [2], signal has 20 samples"),
    "stamps text": ({"timestamp_s": ["x"] * 20}, "timestamp_s is <U1; seconds, as numbers"),
    "stamps nan": ({"timestamp_s": [0.0, np.nan] * 10}, "timestamp_s[1] is nan; finite seconds"),
    "stamps ns": (
        {"timestamp_s": np.arange(20) + 17 * 10**17},
        "timestamp_s[0] is 1.7e+18; finite seconds below",
    ),
    "stamps still": ({"timestamp_s": [3.0] * 20}, "timestamp_s never increases"),
    "stamps back": ({"timestamp_s": np.arange(20)[::-1] / 50}, "timestamp_s never increases"),
    "stamps rate": (
        {"timestamp_s": np.arange(20) / 100},
        "sampled at 100 Hz (by its timestamp_s); the contract",
    ),
    "encoding": ({"encoding": "zip"}, "encoding is 'zip'; plain or delta"),
    "delta": ({"encoding": "delta"}, "encoding is delta, signal is float32; integers with 'scale'"),
    "scale": (
        {"scale": [1.0, 1.0]},
        "signal is float32 and there is a 'scale'; a float signal is in physical",
    ),
}


@pytest.mark.parametrize("case", PLAIN_ERRORS)
def test_what_does_not_fit_is_refused(tmp_path, contract, signal, case):
    keys, text = PLAIN_ERRORS[case]
    path = save(tmp_path, signal=signal, **keys)
    refuses(path, contract, f"{path}", text)


SIGNAL_ERRORS = {
    "int": (np.zeros((20, 2), np.int16), "signal is int16 without 'scale'; float32 in physical units, or"),
    "bool": (np.zeros((20, 2), bool), "signal is bool; float32, float64 or integers"),
    "half": (np.zeros((20, 2), np.float16), "signal is float16; float32"),
    "complex": (np.zeros((20, 2), np.complex64), "signal is complex64; float32"),
    "1-D": (np.zeros(20, np.float32), "signal is [20]; [samples, channels]"),
    "3-D": (np.zeros((1, 20, 2), np.float32), "signal is [1, 20, 2]; [samples, channels]"),
    "turned": (
        np.zeros((2, 20), np.float32),
        "signal is [2, 20]; [samples, 2]; it looks transposed: save signal.T",
    ),
    "short": (np.zeros((7, 2), np.float32), "has 7 samples; a window is 8"),
    "empty": (np.zeros((0, 2), np.float32), "has 0 samples; a window is 8"),
    "NaN": (np.full((20, 2), np.nan, np.float32), "has no finite value at all"),
    "dead": (np.array([[1, np.inf]] * 20, np.float32), "channel 'b' has no finite value"),
    "object": (np.array([[1, None]] * 20), "'signal': holds Python objects; plain numbers"),
}


@pytest.mark.parametrize("case", SIGNAL_ERRORS)
def test_an_unusable_signal_is_refused(tmp_path, contract, case):
    values, text = SIGNAL_ERRORS[case]
    refuses(save(tmp_path, signal=values), contract, text)


def test_a_transpose_is_noticed_with_names_too(tmp_path, contract, signal):
    refuses(save(tmp_path, signal=signal.T, channels=["a", "b"]), contract, "looks transposed: save signal.T")


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        ([1.0], "'scale': is float64 [1]; 2 numbers"),
        ([1.0, 0.0], "is [1.0, 0.0]; finite and not 0"),
        ([1.0, np.nan], "finite and not 0"),
    ],
)
def test_a_wrong_scale_is_refused(tmp_path, contract, scale, text):
    refuses(save(tmp_path, signal=np.zeros((20, 2), np.int16), scale=scale), contract, text)


def test_pickled_names_are_never_loaded(tmp_path, contract, signal):
    path = save(tmp_path, signal=signal, channels=np.array(["a", "b"], dtype=object))
    refuses(path, contract, "'channels': holds Python objects")


@pytest.mark.parametrize("rate_hz", [49.01, 50.99])
def test_a_rate_within_two_percent_passes(tmp_path, contract, signal, rate_hz):
    assert read(save(tmp_path, signal=signal, rate_hz=rate_hz), contract)
    assert read(save(tmp_path, signal=signal, timestamp_s=np.arange(20) / rate_hz), contract)


@pytest.mark.parametrize("rate_hz", [48.95, 51.05])
def test_a_rate_beyond_two_percent_does_not(tmp_path, contract, signal, rate_hz):
    refuses(save(tmp_path, signal=signal, rate_hz=rate_hz), contract, f"sampled at {rate_hz} Hz")
    stamps = np.arange(20) / rate_hz
    refuses(save(tmp_path, signal=signal, timestamp_s=stamps), contract, f"sampled at {rate_hz} Hz")


def test_the_rate_of_stamps_survives_rounding_gaps_and_packets(tmp_path):
    ecg = make_contract(rate_hz=360.0)
    values = np.random.default_rng(0).normal(size=(3600, 2)).astype(np.float32)
    exact = np.arange(3600) / 360
    rounded = np.round(exact, 3)
    assert 1 / np.median(np.diff(rounded)) < 340  # the median step alone would be refused
    gap = exact + np.where(np.arange(3600) > 1000, 5.0, 0.0)
    packets = np.floor(exact * 36) / 36
    assert np.median(np.diff(packets)) == 0
    for stamps in (rounded, gap, packets):
        assert len(read(save(tmp_path, signal=values, timestamp_s=stamps), ecg)) == 1
        refuses(save(tmp_path, signal=values, timestamp_s=stamps * 1.1), ecg, "sampled at 32")


@pytest.mark.parametrize(
    ("rate_hz", "said"),
    [
        (100.0, "resample the recording (sattn-run does it with --resample 100), or use a model for its rate"),
        (99.8734, "--resample 99.9)"),
        (1024.0, "--resample 1024)"),
        (float("nan"), "2%; resample the recording, or use a model"),
        (0.0, "2%; resample the recording, or use a model"),
        (float("inf"), "2%; resample the recording, or use a model"),
    ],
)
def test_another_rate_names_the_way_out(rate_hz, said):
    contract = make_contract(("a", "b"), rate_hz=50.0)
    with pytest.raises(RecordingError, match=re.escape(said)):
        check_rate(rate_hz, "fs", contract, "r")
