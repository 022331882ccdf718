"""MCAP recordings written by the package's own writer: topics, encodings, compression, and files that are cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import RecordingError, UnavailableError, UsageError
from sattn_runtime.run import RunOptions, run
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, Signal, SourceOptions, StreamStart
from sattn_runtime.stop import Stop
from tests.helpers_data import make_contract
from tests.helpers_model import save_model
from tests.helpers_run import lines_of

writer_module = pytest.importorskip("mcap.writer")

CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, units=("g", "g"))
OPTIONS = SourceOptions(None, 8, 4)
N = 3000  # several of the blocks that a compressor gives one by one


def message(seq: int, **extra: Any) -> bytes:
    return json.dumps({"seq": seq, "t": seq / 50, "samples": [[seq, -seq]], **extra}).encode()


def write(path: Path, topics: dict[str, list[bytes]], encoding: str = "json", **options: Any) -> Path:
    """Messages of 50 Hz on each topic, one after another."""
    metadata = options.pop("metadata", {})
    with path.open("wb") as file:
        writer = writer_module.Writer(file, **options)
        writer.start()
        for topic, messages in topics.items():
            channel = writer.register_channel(topic, encoding, 0, metadata=metadata)
            for i, data in enumerate(messages):
                writer.add_message(channel, 10**12 + i * 20_000_000, data, 10**12 + i * 20_000_000)
        writer.finish()
    return path


def read(rest: str | Path) -> tuple[StreamStart, np.ndarray, list[Chunk]]:
    source = open_source(f"mcap:{rest}", CONTRACT, OPTIONS)
    start, chunks = source.read(1), []
    assert isinstance(start, StreamStart)
    while (item := source.read(1)) is not Signal.END:
        assert isinstance(item, Chunk)
        chunks.append(item)
    source.close()
    return start, np.concatenate([chunk.samples for chunk in chunks]), chunks


PACKINGS = {
    "zstd": writer_module.CompressionType.ZSTD,
    "lz4": writer_module.CompressionType.LZ4,
    "none": writer_module.CompressionType.NONE,
}


@pytest.fixture(params=PACKINGS)
def packed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """One chunk with all of it; incompressible, so that a cut leaves the same part of the messages."""
    junk = np.random.default_rng(1).integers(33, 90, (N, 200)).astype(np.uint8)
    messages = [message(i, note=junk[i].tobytes().decode().replace('"', "x")) for i in range(N)]
    return write(tmp_path / "rec.mcap", {"/imu": messages}, compression=PACKINGS[request.param])


def test_every_compression(packed):
    start, samples, _ = read(packed)
    assert (start.name, start.notes) == ("/imu", ())
    assert samples[:, 0].tolist() == list(range(N))


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(packed, part):
    """Within its only chunk: the package's own reader gives nothing of it."""
    whole = packed.read_bytes()
    packed.write_bytes(whole[: int(len(whole) * part)])
    start, samples, _ = read(packed)
    found = len(samples)
    assert samples[:, 0].tolist() == list(range(found))
    assert (part - 0.35) * N <= found < N
    assert start.notes == (f"{packed}: was cut off; {found:,} messages are whole, and read",)


def test_cut_at_any_byte_it_gives_whole_messages_or_says_that_there_are_none(tmp_path):
    path = write(tmp_path / "rec.mcap", {"/imu": [message(i) for i in range(12)]}, compression=PACKINGS["none"])
    whole, most = path.read_bytes(), 0
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        try:
            start, samples, _ = read(path)
        except RecordingError as error:
            assert any(text in str(error) for text in ("no topic has samples", "is no MCAP file", "a window is 8"))  # noqa: PT017
            assert not most
            continue
        assert samples[:, 0].tolist() == list(range(len(samples)))
        assert len(samples) >= most
        most = len(samples)
        assert any("was cut off" in note for note in start.notes)
    assert most == 12


def test_a_damaged_chunk_is_refused(packed):
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    packed.write_bytes(data)
    with pytest.raises(
        RecordingError, match=r"rec.mcap: has a damaged chunk \(.*\); record it again, or repair"
    ) as caught:
        read(packed)
    assert caught.value.exit_code == 3


def test_a_topic_is_chosen(tmp_path):
    topics = {"/a": [message(i) for i in range(20)], "/b": [message(i + 100) for i in range(30)]}
    path = write(tmp_path / "two.mcap", topics)
    with pytest.raises(RecordingError, match=r"2 topics have samples: /a, /b; one; name it with .topic=NAME"):
        read(path)
    start, samples, chunks = read(f"{path}?topic=/b")
    assert (start.name, samples[0, 0]) == ("/b", 100)
    assert chunks[0].sequence is not None
    assert chunks[0].sequence[0] == 100
    text = "topic '/c' has no samples; messages encoded as json or x-float32"
    with pytest.raises(RecordingError, match=text):
        read(f"{path}?topic=/c")


def test_a_topic_that_fits_nothing_is_named(tmp_path):
    path = write(tmp_path / "r.mcap", {"/gps": [b'{"samples": [[1, 2, 3]]}']})
    with pytest.raises(RecordingError, match=r"r.mcap, topic /gps: messages have 3 channels without names"):
        read(path)


def test_other_topics_are_nobodys_business(tmp_path):
    path = write(tmp_path / "ros.mcap", {"/tf": [b"\0\1"] * 9}, encoding="cdr")
    text = r"no topic has samples \(/tf is encoded as 'cdr'\); messages encoded as json or x-float32"
    with pytest.raises(RecordingError, match=text):
        read(path)
    with pytest.raises(RecordingError, match=r"topic '/tf' has no samples \(/tf is encoded as 'cdr'\)"):
        read(f"{path}?topic=/tf")
    with pytest.raises(RecordingError, match=r"topic '/imu' has no samples; .*; other topics: /tf"):
        read(f"{path}?topic=/imu")


def test_a_record_that_is_damaged_within(tmp_path):
    """Without chunks nothing has a checksum; a length within a record may point behind it."""
    path = write(tmp_path / "r.mcap", {"/imu": [message(i) for i in range(20)]}, use_chunking=False)
    data = bytearray(path.read_bytes())
    data[data.index(b"/imu") - 1] = 0x7F  # the highest byte of the length of the topic's name
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=r"r.mcap: has a damaged record \(.*\); record it again"):
        read(path)


def test_bad_messages_are_left_out_and_told(tmp_path):
    messages = [message(i) for i in range(20)]
    messages[7] = b"{}"
    start, samples, _ = read(write(tmp_path / "r.mcap", {"/imu": messages}))
    assert (7 in samples[:, 0], len(samples)) == (False, 19)
    assert start.notes[0].endswith("topic /imu: 1 messages hold no samples and were left out")


def test_times_when_published_without_any_of_their_own(tmp_path):
    rows = [np.float32([[i, 1], [i, 2]]).tobytes() for i in range(40)]
    with pytest.raises(RecordingError, match=r"sampled at 100 Hz .by its messages"):
        read(write(tmp_path / "r.mcap", {"/imu": rows}, encoding="x-float32"))
    rows = [np.float32([[i, -i]]).tobytes() for i in range(60)]
    _, samples, chunks = read(write(tmp_path / "r.mcap", {"/imu": rows}, encoding="x-float32"))
    assert chunks[0].timestamp_s is not None
    np.testing.assert_allclose(np.diff(chunks[0].timestamp_s), 0.02, rtol=0, atol=1e-6)
    assert chunks[0].timestamp_s[0] == pytest.approx(1000.0)
    assert samples[:, 1].tolist() == [-i for i in range(60)]


def test_numbers_without_times_have_none(tmp_path):
    messages = [json.dumps({"seq": i, "samples": [[i, 0]]}).encode() for i in range(60)]
    _, _, chunks = read(write(tmp_path / "r.mcap", {"/imu": messages}))
    assert (chunks[0].timestamp_s, chunks[0].sequence is None) == (None, False)


REFUSED = {
    "": (UsageError, "names no file; mcap:FILE.topic=NAME"),
    "nowhere.mcap": (RecordingError, "nowhere.mcap: does not exist; an MCAP file"),
    ".": (RecordingError, "is a folder"),
    "x.mcap?topik=a": (UsageError, "unknown option 'topik'; did you mean 'topic'"),
}


@pytest.mark.parametrize("rest", REFUSED)
def test_what_is_refused(rest):
    kind, text = REFUSED[rest]
    with pytest.raises(kind, match=text):
        open_source(f"mcap:{rest}", CONTRACT, OPTIONS)


def test_something_else(tmp_path):
    (tmp_path / "x.mcap").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(RecordingError, match=r"x.mcap: is no MCAP file; its first bytes are \\x89MCAP0"):
        read(tmp_path / "x.mcap")


def test_without_the_package(tmp_path, monkeypatch):
    path = write(tmp_path / "r.mcap", {"/imu": [message(0)]})
    monkeypatch.setitem(__import__("sys").modules, "mcap", None)
    text = r"source 'mcap:.*': needs the package mcap .*; install it: pip install 'sattn-edge\[mcap\]'"
    with pytest.raises(UnavailableError, match=text) as caught:
        read(path)
    assert caught.value.exit_code == 6


def test_a_run_over_a_file_that_was_cut_off(tmp_path):
    path = write(tmp_path / "r.mcap", {"/imu": [message(i) for i in range(64)]}, compression=PACKINGS["none"])
    path.write_bytes(path.read_bytes()[: 64 * 45])
    model, journal, told = save_model(tmp_path), tmp_path / "j.jsonl", []
    result = run(
        RunOptions(model=str(model), source=f"mcap:{path}", journal=str(journal)), tell=told.append, stop=Stop()
    )
    assert result.windows == len(lines_of(journal, "window")) > 1
    assert [line for line in told if "was cut off" in line]
