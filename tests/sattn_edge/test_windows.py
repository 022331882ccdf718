from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.recording import Recording, open_recordings
from sattn_edge.windows import WindowSet, cut, gaps, load_windows
from tests.helpers_data import (
    ROOT,
    WATCH_TINY,
    contract_of,
    make_contract,
    reference_reader,
    save_bundle,
    shared_data,
)


@pytest.fixture
def contract() -> Contract:
    return make_contract(units=("g", "g"))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 8, 2)).astype(np.float32)


def save(folder: Path, **keys: object) -> Path:
    path = folder / "windows.npz"
    np.savez(path, **{k: np.asarray(v) for k, v in keys.items()})  # type: ignore[arg-type]
    return path


def refuses(path: Path | str, contract: Contract, text: str) -> None:
    with pytest.raises(RecordingError, match=re.escape(text)) as caught:
        load_windows(str(path), contract)
    assert caught.value.exit_code == 3


def make_recording(n: int, labels: list[int] | None = None, stamps: np.ndarray | None = None) -> Recording:
    samples = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    return Recording("r", samples, None if labels is None else np.array(labels, np.int16), stamps, None)


# ------------------------------------------------------------------ cut


def naive(recording: Recording, window: int, hop: int, breaks: set[int]) -> list[tuple[int, int]]:
    """(start, label) of each window, one sample after another."""
    n, found, a = len(recording.samples), [], 0
    while a + window <= n:
        inside = [b for b in breaks if a < b < a + window]
        if inside:
            a = min(inside)
        else:
            labels = set() if recording.labels is None else set(recording.labels[a : a + window].tolist())
            found.append((a, labels.pop() if len(labels) == 1 else -1))
            ahead = [b for b in breaks if a + window <= b <= a + hop]
            a = min(ahead) if ahead else a + hop
    return found


@settings(deadline=None, max_examples=150)
@given(data=st.data(), n=st.integers(1, 60), window=st.integers(1, 12), hop=st.integers(1, 20))
def test_cut_equals_a_loop(data, n, window, hop):
    contract = make_contract(window=window, hop=hop)
    runs = st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 15)), min_size=1, max_size=20)
    drawn = [label for label, length in data.draw(runs) for _ in range(length)]
    labels = (drawn * n)[:n]
    breaks = data.draw(st.sets(st.integers(1, max(1, n - 1)), max_size=4)) if n > 1 else set()
    steps = [5.0 if i in breaks else 0.02 for i in range(1, n)]
    recording = make_recording(n, labels, np.cumsum([0.0, *steps]))
    x, y, start = cut(recording, contract)
    wanted = naive(recording, window, hop, breaks)
    assert start.tolist() == [a for a, _ in wanted]
    assert y is not None
    assert y.tolist() == [label for _, label in wanted]
    assert x.shape == (len(wanted), 1, window, 2)
    for w, (a, _) in zip(x, wanted, strict=True):
        np.testing.assert_array_equal(w[0], recording.samples[a : a + window])


def test_the_types_of_a_cut(contract):
    x, y, start = cut(make_recording(20, [0] * 20), contract)
    assert y is not None
    assert (x.dtype, y.dtype, start.dtype) == (np.float32, np.int16, np.int64)
    assert start.tolist() == [0, 4, 8, 12]
    x, y, start = cut(make_recording(20), contract, hop=5)
    assert (start.tolist(), y) == ([0, 5, 10], None)
    x, y, start = cut(make_recording(7, [0] * 7), contract)
    assert y is not None
    assert (x.shape, y.shape, y.dtype, start.shape) == ((0, 1, 8, 2), (0,), np.int16, (0,))


def test_a_cut_without_gaps_copies_nothing(contract):
    recording = make_recording(20, stamps=np.arange(20) / 50)
    x, _, _ = cut(recording, contract, hop=1)
    assert np.shares_memory(x, recording.samples)
    assert not x.flags.writeable


def test_a_hop_below_one_is_a_usage_error(contract):
    with pytest.raises(UsageError, match="hop: is 0; a number of samples, 1 or more"):
        cut(make_recording(20), contract, hop=0)


def test_gaps():
    stamps = np.array([0.0, 0.02, 0.049, 0.07, 0.09, 5.0, 5.02, 2.0, 2.02, 2.02])
    found = gaps(stamps, 50.0)
    assert found.dtype == np.int64
    assert found.tolist() == [5, 7]  # forward, and a clock that was set back
    assert gaps(np.array([0.0, 0.0299]), 50.0).tolist() == []
    assert gaps(np.array([0.0, 0.0301]), 50.0).tolist() == [1]
    assert gaps(np.zeros(1), 50.0).tolist() == []


# ------------------------------------------------------------------ windows.npz


@pytest.mark.parametrize("key", ["x", "X"])
@pytest.mark.parametrize("plane", [False, True])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_a_window_file(tmp_path, contract, x, key, plane, dtype):
    values = (x[:, None] if plane else x).astype(dtype)
    path = save(tmp_path, **{key: values}, channels=["a", "b"], y=[0, 1, 2, 255, -1], group=[3, 3, 4, 4, 4])
    windows = load_windows(str(path), contract)
    assert (windows.x.shape, windows.x.dtype) == ((5, 1, 8, 2), np.float32)
    assert windows.x.flags.c_contiguous
    np.testing.assert_array_equal(windows.x[:, 0], x)
    assert windows.y is not None
    assert windows.group is not None
    assert (windows.y.dtype, windows.y.tolist()) == (np.int16, [0, 1, 2, -1, -1])
    assert windows.group.tolist() == ["3", "3", "4", "4", "4"]
    assert (windows.start, windows.source, windows.notes) == (None, str(path), ())


def test_window_channels_by_name_and_labels_by_name(tmp_path, contract, x):
    wide = np.stack([x[..., 1], x[..., 0] * 0, x[..., 0]], axis=-1)
    path = save(
        tmp_path,
        x=wide,
        channels=["b", "temp", "a"],
        units=["g", "C", "g"],
        fs=50.0,
        y=[0, 1, 2, 0, 0],
        class_names=["run", "swim", "rest"],
        start=[0, 4, 8, 12, 16],
    )
    windows = load_windows(str(path), contract)
    np.testing.assert_array_equal(windows.x[:, 0], x)
    assert windows.x.flags.c_contiguous
    assert windows.y is not None
    assert windows.start is not None
    assert windows.y.tolist() == [2, -1, 0, 2, 2]
    assert (windows.start.dtype, windows.start.tolist()) == (np.int64, [0, 4, 8, 12, 16])
    assert ["temp" in windows.notes[0], "swim" in windows.notes[1]] == [True, True]


def test_window_labels_as_text(tmp_path, contract, x):
    windows = load_windows(str(save(tmp_path, x=x, y=["walk", "rest", "", "swim", "run"])), contract)
    assert windows.y is not None
    assert windows.y.tolist() == [1, 0, -1, -1, 2]
    assert "the order is taken as the contract's" in windows.notes[0]
    assert windows.notes[1].endswith("counted as unlabelled: swim")


def test_the_digest_names_values_and_shape(tmp_path, contract, x):
    digest = load_windows(str(save(tmp_path, x=x)), contract).digest
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    again = load_windows(str(save(tmp_path, X=x[:, None].astype(np.float64), y=[0] * 5)), contract)
    assert again.digest == digest
    other = x.copy()
    other[4, 7, 1] = np.nextafter(other[4, 7, 1], np.float32(9))
    assert load_windows(str(save(tmp_path, x=other)), contract).digest != digest
    longer = make_contract(window=4)
    assert load_windows(str(save(tmp_path, x=x.reshape(10, 4, 2))), longer).digest != digest


NAN = np.zeros((5, 8, 2), np.float32)
NAN[3, 6, 1], NAN[4, 0, 0] = np.nan, np.inf

X_ERRORS = {
    "int": ({"x": np.zeros((5, 8, 2), np.int16)}, "x is int16; float32 in physical units; convert it first"),
    "object": ({"x": np.array([None] * 5)}, "'x': holds Python objects"),
    "2-D": ({"x": np.zeros((8, 2))}, "x is [8, 2]; [n, series, modal] or [n, 1, series, modal]"),
    "planes": ({"x": np.zeros((5, 2, 8, 2))}, "x is [5, 2, 8, 2]; [n, series"),
    "none": ({"x": np.zeros((0, 8, 2))}, "holds no windows; at least one"),
    "length": ({"X": np.zeros((5, 9, 2))}, "windows have 9 samples; the contract says 8; cut them anew"),
    "turned": (
        {"x": np.zeros((5, 2, 8))},
        "windows have 2 samples; the contract says 8; it looks transposed",
    ),
    "modal": ({"x": np.zeros((5, 8, 3))}, "has 3 channels without names; the contract has 2: a, b"),
    "NaN": (
        {"x": NAN},
        "2 of 80 values are not finite, the first in window 3, sample 6, channel 'b'; finite",
    ),
    "channels": ({"x": np.zeros((5, 8, 2)), "channels": ["a", "c"]}, "channel 'b' is missing; it has a, c"),
    "units": ({"x": np.zeros((5, 8, 2)), "units": ["g", "V"]}, "channel 'b' is in V; the contract says g"),
    "rate": ({"x": np.zeros((5, 8, 2)), "fs": 10.0}, "sampled at 10 Hz (by its fs); the contract says 50 Hz"),
    "y": ({"x": np.zeros((5, 8, 2)), "y": [0] * 4}, "y is [4] for 5 windows; one per window"),
    "y range": (
        {"x": np.zeros((5, 8, 2)), "y": [0, 0, 7, 0, 0]},
        "'y': label 7 (at 2); the contract's labels are",
    ),
    "y float": ({"x": np.zeros((5, 8, 2)), "y": [0.0] * 5}, "'y': labels are float64"),
    "group": ({"x": np.zeros((5, 8, 2)), "group": "p"}, "group is [] for 5 windows"),
    "start": ({"x": np.zeros((5, 8, 2)), "start": [0.5] * 5}, "start is float64; whole numbers"),
    "keys": (
        {"data": np.zeros(3), "fs": 50.0},
        "has neither 'x' nor 'signal' (it has data, fs); x [n, series",
    ),
}


@pytest.mark.parametrize("case", X_ERRORS)
def test_unusable_windows_are_refused(tmp_path, contract, case):
    keys, text = X_ERRORS[case]
    refuses(save(tmp_path, **keys), contract, text)


def test_other_wrong_specs(tmp_path, contract, x):
    refuses(f"{save(tmp_path, x=x)}#p1", contract, "holds windows, not a recording 'p1'; PATH without #NAME")
    refuses(tmp_path / "no.npz", contract, "does not exist")
    with pytest.raises(UsageError, match="limit: is 0; a number of windows, 1 or more"):
        load_windows(str(save(tmp_path, x=x)), contract, limit=0)


# ------------------------------------------------------------------ recordings, cut


def test_windows_of_a_bundle(tmp_path, contract):
    rng = np.random.default_rng(1)
    parts = {k: rng.integers(-99, 99, (n, 2), dtype=np.int16) for k, n in {"p": 20, "q": 5, "r": 13}.items()}
    label = np.array([0] * 10 + [1] * 10 + [2] * 18, np.uint8)
    path = save_bundle(tmp_path / "b.npz", parts, label=label, rec_subject=["s1", "s2", "subject3"])
    windows = load_windows(str(path), contract)
    assert windows.x.flags.c_contiguous
    assert windows.y is not None
    assert windows.group is not None
    assert windows.start is not None
    assert windows.start.tolist() == [0, 4, 8, 12, 0, 4]
    assert windows.y.tolist() == [0, -1, -1, 1, 2, 2]
    assert windows.group.tolist() == ["s1"] * 4 + ["subject3"] * 2
    np.testing.assert_array_equal(windows.x[5, 0], parts["r"][4:12].astype(np.float32) / 2)
    assert len(windows.notes) == 2
    assert load_windows(f"{path}#r", contract).x.shape == (2, 1, 8, 2)


def test_windows_of_a_csv_with_a_gap(tmp_path, contract):
    stamps = np.arange(30) / 50 + np.where(np.arange(30) >= 13, 1.0, 0.0)
    path = tmp_path / "rec.csv"
    path.write_text("timestamp_s,a,b\n" + "".join(f"{t!r},{i},0\n" for i, t in enumerate(stamps.tolist())))
    windows = load_windows(str(path), contract)
    assert windows.start is not None
    assert windows.start.tolist() == [0, 4, 13, 17, 21]
    assert (windows.y, windows.group) == (None, None)
    np.testing.assert_array_equal(windows.x[2, 0, :, 0], np.arange(13, 21))
    sparse = np.where(np.arange(30) % 5 == 0, 0.5, 0.02).cumsum()
    path.write_text("timestamp_s,a,b\n" + "".join(f"{t!r},{i},0\n" for i, t in enumerate(sparse.tolist())))
    refuses(path, contract, "holds no window; gaps in timestamp_s leave no stretch of 8 samples; check")


def test_missing_values_in_a_recording_are_refused_by_sample(tmp_path, contract):
    signal = np.zeros((30, 2), np.float32)
    path = tmp_path / "rec.npz"
    signal[29] = np.nan
    np.savez(path, signal=signal)
    assert len(load_windows(str(path), contract).x) == 6  # the last window ends at sample 28
    signal[17, 1] = np.nan
    np.savez(path, signal=signal)
    refuses(path, contract, "rec.npz#rec: 2 of 96 values are not finite, the first in sample 17, channel 'b'")


def select(windows: WindowSet, keep: list[int]) -> list[np.ndarray | None]:
    return [None if a is None else a[keep] for a in (windows.x, windows.y, windows.group, windows.start)]


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 321, 322, 400])
def test_a_limit_takes_evenly_from_all(tmp_path, limit):
    contract = contract_of(WATCH_TINY)
    everything = load_windows(str(WATCH_TINY), contract)
    n = len(everything.x)
    assert n == 322
    few = load_windows(str(WATCH_TINY), contract, limit=limit)
    kept = min(limit, n)
    keep = [n // 2] if limit == 1 else [i * (n - 1) // (kept - 1) for i in range(kept)]
    assert len(set(keep)) == kept
    assert limit == 1 or np.ptp(np.diff(keep)) <= 1
    for got, want in zip(select(few, list(range(kept))), select(everything, keep), strict=True):
        np.testing.assert_array_equal(got, want)
    assert (few.digest == everything.digest) == (kept == n)
    path = save(tmp_path, x=everything.x, y=everything.y, group=everything.group, start=everything.start)
    again = load_windows(str(path), contract, limit=limit)
    assert again.digest == few.digest
    np.testing.assert_array_equal(again.group, few.group)


@pytest.mark.parametrize("name", ["watch_dev", "hapt_dev"])
def test_pure_windows_as_the_datas_own_reader_cuts_them(name):
    path = shared_data(f"{name}.npz")
    reference = reference_reader()
    x, y, subject = reference.windows(reference.load(path), length=128, step=64)
    windows = load_windows(str(path), contract_of(path))
    assert windows.y is not None
    assert windows.group is not None
    scored = windows.y >= 0
    assert 0 < scored.sum() == len(x)
    np.testing.assert_array_equal(windows.x[scored], x)
    np.testing.assert_array_equal(windows.y[scored], y)
    assert windows.group[scored].tolist() == [str(s) for s in subject]


def test_basic_motions_is_a_window_file():
    path = shared_data("basicmotions.npz")
    contract = replace_labels(contract_of(path, window=100), ("Running", "Standing"))
    windows = load_windows(str(path), contract)
    with np.load(path) as z:
        np.testing.assert_array_equal(windows.x[:, 0], z["X"])
        np.testing.assert_array_equal(windows.y, np.array([1, 0, -1, -1])[z["y"]])


def replace_labels(contract: Contract, labels: tuple[str, ...]) -> Contract:
    return Contract(contract.rate_hz, contract.window, contract.hop, labels, contract.channel)


def test_notes_are_told_once(contract):
    tiny = replace_labels(contract_of(WATCH_TINY), ("PEN", "ABD"))
    windows = load_windows(str(WATCH_TINY), tiny, limit=4)
    assert len(windows.notes) == 1
    assert "FEL, IR, ER, TRAP, ROW" in windows.notes[0]
    first = next(open_recordings(str(WATCH_TINY), tiny))
    assert replace(first, notes=()).notes == ()


def test_importing_loads_numpy_and_nothing_heavier():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sattn_edge.statistics, sattn_edge.windows; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'numpy', 'onnx', 'onnxruntime', 'torch', 'typer', 'rich', 'scipy', 'pandas'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "['numpy']"
