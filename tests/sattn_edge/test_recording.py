from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.recording import Recording, open_recordings
from tests.helpers_data import (
    ROOT,
    WATCH_TINY,
    contract_of,
    make_contract,
    reference_reader,
    save_bundle,
    shared_data,
)

BUNDLES = {
    "watch_tiny": 2,
    "motionsense_tiny": 2,
    "watch_dev": 112,
    "hapt_dev": 51,
    "motionsense_dev": 285,
    "emg_dev": 52,
    "cwru_dev": 67,
    "mitdb_dev": 37,
}


def read(path: Path | str, contract: Contract) -> list[Recording]:
    return list(open_recordings(str(path), contract))


def refuses(path: Path | str, contract: Contract, *texts: str) -> None:
    """Reading raises one message that has all the texts, in this order."""
    with pytest.raises(RecordingError, match=".*".join(re.escape(t) for t in texts)) as caught:
        read(path, contract)
    assert caught.value.exit_code == 3


@pytest.fixture
def contract() -> Contract:
    return make_contract(units=("g", "g"))


@pytest.fixture
def signal() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)


def save(folder: Path, **keys: object) -> Path:
    path = folder / "rec.npz"
    np.savez(path, **{k: np.asarray(v) for k, v in keys.items()})  # type: ignore[arg-type]
    return path


# ------------------------------------------------------------------ a single recording


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


# ------------------------------------------------------------------ files


def test_what_is_no_recording_file(tmp_path, contract, signal):
    refuses(tmp_path / "no.npz", contract, "no.npz: does not exist; a recording is a file")
    refuses(f"{tmp_path / 'no.npz'}#x", contract, "no.npz: does not exist")
    refuses(tmp_path, contract, f"{tmp_path}: is a folder")
    (tmp_path / "rec.wav").write_bytes(b"RIFF")
    refuses(tmp_path / "rec.wav", contract, "has the suffix '.wav'; .npz or .csv")
    (tmp_path / "empty.npz").touch()
    refuses(tmp_path / "empty.npz", contract, "empty.npz: is empty (0 bytes)")
    np.save(tmp_path / "rec.npy", signal)
    (tmp_path / "rec.npy").rename(tmp_path / "bare.npz")
    refuses(tmp_path / "bare.npz", contract, "bare.npz: is truncated or corrupt (File is not a zip file)")
    refuses("/dev/null", contract, "/dev/null: is no ordinary file")
    refuses("x" * 5000, contract, "File name too long")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as z:
        z.writestr("readme.txt", "hello")
    refuses(tmp_path / "other.npz", contract, "there is no 'signal' (it has none)")


def test_a_missing_file_is_an_error_at_once(tmp_path, contract):
    with pytest.raises(RecordingError, match="does not exist"):
        open_recordings(str(tmp_path / "no.npz"), contract)


def test_other_keys(tmp_path, contract, signal):
    refuses(
        save(tmp_path, data=signal, fs=50.0),
        contract,
        "there is no 'signal' (it has data, fs); signal [samples",
    )
    refuses(save(tmp_path, x=signal[None]), contract, "there is no 'signal' (it has x); it holds windows")


def test_a_name_for_a_single_recording(tmp_path, contract, signal):
    path = save(tmp_path, signal=signal)
    assert read(f"{path}#rec", contract)[0].name == "rec"
    refuses(f"{path}#other", contract, "there is no recording 'other'; it has rec")


def test_a_hash_in_the_path(tmp_path, contract, signal):
    folder = tmp_path / "take#2"
    folder.mkdir()
    path = save(folder, signal=signal)
    assert read(path, contract)[0].name == "rec"
    assert read(f"{path}#rec", contract)[0].name == "rec"
    whole = path.rename(folder / "rec#1.npz")
    assert read(whole, contract)[0].name == "rec#1"


def test_every_truncation_and_every_flipped_byte_is_an_error_or_harmless(tmp_path, contract, signal):
    """No other error than ours, and never other samples than were saved."""
    good = save(tmp_path, signal=signal, channels=["a", "b"], label=np.zeros(20, np.uint8)).read_bytes()
    bad = tmp_path / "bad.npz"
    refused = 0
    rng = np.random.default_rng(0)
    changed = [good[:n] for n in range(0, len(good), 7)]
    for at in rng.integers(0, len(good), 400).tolist():
        changed.append(good[:at] + bytes([good[at] ^ int(rng.integers(1, 256))]) + good[at + 1 :])
    for data in changed:
        bad.write_bytes(data)
        try:
            recordings = read(bad, contract)
        except RecordingError:
            refused += 1
        else:
            np.testing.assert_array_equal(recordings[0].samples, signal)
    assert refused > 300


def test_altered_heads_under_right_checksums(tmp_path, contract, signal):
    """What the zip's checksums can't notice: no other error than ours."""
    with zipfile.ZipFile(save(tmp_path, signal=signal, channels=["a", "b"], fs=50.0)) as z:
        members = {name: z.read(name) for name in z.namelist()}
    rng = np.random.default_rng(0)
    bad, read_well = tmp_path / "bad.npz", 0
    for _ in range(400):
        name = str(rng.choice(list(members)))
        data = bytearray(members[name])
        data[int(rng.integers(0, len(data)))] = int(rng.choice(list(b"0123456789(),'<>|UOSfi{}\x00\xff")))
        with zipfile.ZipFile(bad, "w") as z:
            for other, content in members.items():
                z.writestr(other, bytes(data) if other == name else content)
        try:
            read_well += len(read(bad, contract))
        except RecordingError:
            continue
    assert 20 < read_well < 380


def forge(path: Path, samples: int) -> bytes:
    """An npz whose signal says [samples, 1] int16 and has no data."""
    text = f"{{'descr': '<i2', 'fortran_order': False, 'shape': ({samples}, 1)}}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("signal.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    return path.read_bytes()


def test_a_few_bytes_that_ask_for_all_memory(tmp_path):
    """Sizes that are only claimed are refused before anything is allocated."""
    path, one = tmp_path / "rec.npz", make_contract(("a",))
    data = forge(path, 2_000_000_000)
    refuses(path, one, "'signal': is corrupt ([2000000000, 1] int16 does not fit 128 bytes)")
    # The zip's own directory claims as much: more than deflate can hold in so few bytes.
    at = data.index(b"PK\x01\x02") + 24
    assert data[at : at + 4] == (128).to_bytes(4, "little")
    path.write_bytes(data[:at] + (4_000_000_128).to_bytes(4, "little") + data[at + 4 :])
    refuses(path, one, "'signal': is corrupt (128 bytes can't hold 4000000128)")
    forge(path, 0)
    refuses(path, one, "signal is int16 without 'scale'")  # the forgery itself is sound


# ------------------------------------------------------------------ bundles


def int_parts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    lengths = {"one": 12, "two": 9, "three": 30}
    return {k: rng.integers(-32768, 32768, (n, 2), dtype=np.int16) for k, n in lengths.items()}


@pytest.mark.parametrize("encoding", ["plain", "delta"])
def test_a_bundle(tmp_path, contract, encoding):
    parts = int_parts()
    label = np.concatenate([np.full(len(p), i, np.uint8) for i, p in enumerate(parts.values())])
    path = save_bundle(
        tmp_path / "b.npz", parts, encoding=encoding, label=label, rec_subject=[4, 5, 6], channels=["b", "a"]
    )
    found = read(path, contract)
    assert [(r.name, r.subject) for r in found] == [("one", "4"), ("two", "5"), ("three", "6")]
    for i, (rec, part) in enumerate(zip(found, parts.values(), strict=True)):
        np.testing.assert_array_equal(rec.samples, part[:, ::-1].astype(np.float32) * np.float32(0.5))
        np.testing.assert_array_equal(rec.labels, np.full(len(part), i))


def test_a_bundle_without_names_counts_them(tmp_path, contract):
    path = save_bundle(tmp_path / "b.npz", int_parts(), rec_name=None)
    assert [r.name for r in read(path, contract)] == ["0", "1", "2"]
    assert read(f"{path}#1", contract)[0].samples.shape == (9, 2)


def test_notes_stand_on_the_first_recording_only(tmp_path, contract):
    first, *others = read(save_bundle(tmp_path / "b.npz", int_parts()), contract)
    assert len(first.notes) == 1
    assert all(not r.notes for r in others)


def test_picking_by_name(tmp_path, contract):
    parts = int_parts()
    path = save_bundle(tmp_path / "b.npz", parts, encoding="delta")
    (rec,) = read(f"{path}#two", contract)
    np.testing.assert_array_equal(rec.samples, parts["two"].astype(np.float32) * np.float32(0.5))
    assert len(rec.notes) == 1  # the first that is read carries them
    again = save_bundle(tmp_path / "c.npz", parts, rec_name=["x", "y", "x"])
    assert [len(r.samples) for r in read(f"{again}#x", contract)] == [12, 30]
    refuses(f"{path}#twoo", contract, "there is no recording 'twoo'; did you mean 'two'?")
    refuses(f"{path}#zebra", contract, "there is no recording 'zebra'; it has one, two, three")


def test_tables_in_another_order_and_holes_between(tmp_path, contract):
    parts = int_parts()
    path = save_bundle(tmp_path / "b.npz", parts, rec_start=[21, 0], rec_len=[30, 12], rec_name=["three", "one"])
    found = read(path, contract)
    assert [r.name for r in found] == ["one", "three"]
    np.testing.assert_array_equal(found[1].samples, parts["three"].astype(np.float32) * np.float32(0.5))


def test_time_stamps_in_a_bundle(tmp_path, contract):
    stamps = np.concatenate([np.arange(n) / 50 for n in (12, 9, 30)])
    found = read(save_bundle(tmp_path / "b.npz", int_parts(), timestamp_s=stamps), contract)
    np.testing.assert_array_equal(found[2].timestamp_s, np.arange(30) / 50)
    stamps[12:21] *= 2
    refuses(
        save_bundle(tmp_path / "b.npz", int_parts(), timestamp_s=stamps),
        contract,
        "b.npz#two: sampled at 25 Hz",
    )


def test_a_short_recording_is_left_out_and_told(tmp_path):
    long = make_contract(window=10)
    path = save_bundle(tmp_path / "b.npz", int_parts())
    found = read(path, long)
    assert [r.name for r in found] == ["one", "three"]
    assert "1 of 3 recordings are shorter than a window (10 samples) and left out: two" in found[0].notes[1]
    assert len(read(path, make_contract(window=9))) == 3
    refuses(f"{path}#two", long, "b.npz: has 9 samples; a window is 10")
    refuses(path, make_contract(window=31), "the longest of 3 recordings: has 30 samples; a window is 31")


BUNDLE_ERRORS = {
    "overlap": ({"rec_start": [0, 11, 21]}, "recordings 'one' and 'two' overlap"),
    "beyond": ({"rec_len": [12, 9, 31]}, "b.npz#three: samples 21 to 51; the signal has 51"),
    "negative": ({"rec_start": [-1, 12, 21]}, "b.npz#one: samples -1 to 10"),
    "no length": ({"rec_len": None}, "there is rec_start but no 'rec_len'"),
    "lengths": ({"rec_len": [12, 9]}, "'rec_len': is int64 [2]; whole numbers, one per recording"),
    "float": ({"rec_start": [0.0, 12.0, 21.0]}, "'rec_start': is float64 [3]"),
    "names": ({"rec_name": ["x"]}, "rec_name has 1 entries for 3 recordings"),
    "none": (
        {"rec_start": np.zeros(0, int), "rec_len": np.zeros(0, int), "rec_name": None},
        "holds no recording",
    ),
    "label": (
        {"label": np.full(51, 9, np.uint8)},
        "b.npz#one: label 9 (at 0); the contract's labels are 0 to 2",
    ),
}


@pytest.mark.parametrize("case", BUNDLE_ERRORS)
def test_a_bundle_that_does_not_hold_together(tmp_path, contract, case):
    keys, text = BUNDLE_ERRORS[case]
    refuses(save_bundle(tmp_path / "b.npz", int_parts(), **keys), contract, text)


def test_damage_behind_the_picked_recording_is_noticed(tmp_path, contract):
    path = save_bundle(tmp_path / "b.npz", {**int_parts(), "noise": int_parts()["three"]})
    data = bytearray(path.read_bytes())
    assert read(f"{path}#one", contract)
    data[data.index(b"signal.npy") + 300] ^= 0x10
    path.write_bytes(bytes(data))
    refuses(f"{path}#one", contract, "'signal': is truncated or corrupt")


# ------------------------------------------------------------------ real data


@pytest.mark.parametrize("name", BUNDLES)
def test_real_bundles_as_their_own_reader_decodes_them(name):
    path = shared_data(f"{name}.npz")
    reference = reference_reader()
    data = reference.load(path)
    wanted = reference.recordings(data)
    for rec, (rec_name, subject, x, label) in zip(open_recordings(str(path), contract_of(path)), wanted, strict=True):
        assert (rec.name, rec.subject) == (rec_name, str(subject))
        assert np.array_equal(rec.samples, x)
        assert np.array_equal(rec.labels, np.where(label == 255, -1, label.astype(np.int16)))
    assert len(data["rec_start"]) == BUNDLES[name]


def test_the_recording_that_ships(contract):
    with np.load(WATCH_TINY) as z:
        assert str(z["encoding"]) == "delta"
        first = np.cumsum(z["signal"][:10305], axis=0, dtype=np.int16).astype(np.float32) * z["scale"]
    found = read(WATCH_TINY, contract_of(WATCH_TINY))
    assert [(r.name, r.subject, len(r.samples), r.notes) for r in found] == [
        ("session_sub07", "7", 10305, ()),
        ("session_sub08", "8", 10441, ()),
    ]
    np.testing.assert_array_equal(found[0].samples, first)
    refuses(WATCH_TINY, contract, "channel 'a' is missing; it has ax, ay, az, wx, wy, wz; did you mean 'a")


def peak_mb(body: str) -> float:
    """Peak resident memory of a process that runs `body`."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{body}\n"
    # VmHWM and not ru_maxrss, which begins with what the parent had when it forked.
    code += "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return int(out.stdout.split()[-1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_stays_small_on_a_long_bundle():
    path = shared_data("mitdb_dev.npz")
    body = """
from sattn_edge.contract import Channel, Contract
from sattn_edge.recording import open_recordings
contract = Contract(360.0, 1024, 512, ("normal",), (Channel("ecg_MLII"), Channel("ecg_second")))
"""
    stream = peak_mb(
        f"{body}\nassert sum(len(r.samples) for r in open_recordings({str(path)!r}, contract)) == 24050000"
    )
    assert stream < 110
    assert peak_mb(f"import numpy\nnumpy.load({str(path)!r})['signal']") > 110  # what the streams are for
