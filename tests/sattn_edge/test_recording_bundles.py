"""Bundles of recordings, made up and real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.recording import open_recordings
from tests.helpers_data import (
    ROOT,
    WATCH_TINY,
    contract_of,
    make_contract,
    reference_reader,
    save_bundle,
    shared_data,
)
from tests.helpers_recording import read, refuses

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
