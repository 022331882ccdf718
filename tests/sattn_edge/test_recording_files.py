"""Files that are no recordings, or damaged ones."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.errors import RecordingError
from sattn_edge.recording import open_recordings
from tests.helpers_data import (
    make_contract,
)
from tests.helpers_recording import read, refuses, save


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
