"""An MQTT broker that stays away, refuses, is slow, or takes the session away."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from sattn_edge.errors import SourceLostError, UnavailableError
from sattn_runtime.sources import mqtt, open_source
from sattn_runtime.sources.base import Signal, SourceOptions
from tests.sattn_runtime.sources.helpers_mqtt import (
    CONTRACT,
    OPTIONS,
    Broker,
    SlowBroker,
    let_go,
    message,
    numbers,
    quiet,
    take,
)
from tests.sattn_runtime.sources.helpers_serial import wait_until

pytest.importorskip("paho.mqtt.client")


def test_a_broker_that_stays_away(broker, opened):
    source = opened("?client=test", SourceOptions(None, 8, 4, reconnect_s=0.3))
    quiet(source)
    broker.stop()
    text = (
        rf"mqtt://127.0.0.1:{broker.port}/site/imu: the connection was lost and did not come back; --reconnect-s 0\.3"
    )
    with pytest.raises(SourceLostError, match=text) as caught:
        take(source, 1)
    assert caught.value.exit_code == 8
    assert source.read(1) is Signal.END


def test_a_second_reader_of_the_same_name(opened):
    """Mosquitto 2.0.11 does not say why; each takes the session from the other, until one gives up."""
    options = SourceOptions(None, 8, 4, reconnect_s=2.0)
    first, second = opened("?client=test", options), opened("?client=test", options)
    failed: list[SourceLostError] = []
    deadline = time.monotonic() + 20
    while not failed and time.monotonic() < deadline:
        for source in (first, second):
            try:
                source.read(0.05)
            except SourceLostError as error:
                failed.append(error)
    (error,) = failed[:1]
    assert "the session 'test' is taken away, by another reader of that name it seems; one reader" in str(error)
    assert "?client=NAME" in str(error)


def test_a_broker_that_is_restarted_again_and_again(broker, opened, publisher):
    """No connection holds for long, as if another reader took the session; but it is not away for --reconnect-s."""
    source = opened("?client=test", SourceOptions(None, 8, 4, reconnect_s=600.0))
    for seq in range(6):
        publisher.send(message(seq))
        assert numbers(take(source, 1)) == [seq]
        publisher.flush()
        broker.stop()
        broker.start()
        wait_until("it is back", lambda at=seq: source.counters.get("reconnects") == at + 1)


def test_a_broker_that_says_that_the_session_was_taken(opened):
    source = opened()
    source._on_disconnect(None, None, None, SimpleNamespace(value=142), None)
    with pytest.raises(SourceLostError, match="the session 'test' is taken away"):
        source.read(1)


def test_nobody_there():
    with pytest.raises(
        UnavailableError, match=r"mqtt://127.0.0.1:1/t: can't be reached .*; a broker of MQTT 5"
    ) as caught:
        open_source("mqtt://127.0.0.1:1/t", CONTRACT, OPTIONS)
    assert caught.value.exit_code == 6


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[SlowBroker]:
    monkeypatch.setattr(mqtt, "_CONNECT_S", 0.1)
    made = SlowBroker(**getattr(request, "param", {}))
    yield made
    made.stop()


def test_a_broker_that_is_slow_to_answer_is_waited_for(slow, monkeypatch):
    """As one that has just been started, on a machine that has too."""
    source = open_source(slow.uri(), CONTRACT, OPTIONS)  # comes back, so that a stop is heard
    assert source.read(0.3) is Signal.NOTHING
    assert not source._ready.is_set()
    slow.answer()
    wait_until("it answers", lambda: source._ready.is_set())
    assert source.read(0.3) is Signal.NOTHING
    assert source.counters == {}
    let_go(source)


def test_a_broker_that_never_answers(slow):
    source = open_source(slow.uri(), CONTRACT, SourceOptions(None, 8, 4, reconnect_s=0.4))
    text = (
        rf"{slow.port}/site/imu: gave no answer within 0\.4 s \(--reconnect-s\); a broker of MQTT 5; see that it runs"
    )
    with pytest.raises(UnavailableError, match=text) as caught:
        take(source, 1)
    assert caught.value.exit_code == 6
    assert source.read(1) is Signal.END
    let_go(source)


REFUSES = r"refuses \(Not authorized\); a broker of MQTT 5"
PATIENT = SourceOptions(None, 8, 4, reconnect_s=600.0)


@pytest.mark.parametrize("slow", [{"refuse": True}], indirect=True)
def test_a_broker_that_refuses_is_not_asked_again(slow, monkeypatch):
    monkeypatch.setattr(mqtt, "_CONNECT_S", 30.0)
    slow.answer()
    with pytest.raises(UnavailableError, match=REFUSES):
        open_source(slow.uri(), CONTRACT, PATIENT)


@pytest.mark.parametrize("slow", [{"refuse": True}], indirect=True)
def test_a_broker_that_refuses_late_is_not_asked_again(slow):
    source = open_source(slow.uri(), CONTRACT, PATIENT)
    slow.answer()
    with pytest.raises(UnavailableError, match=REFUSES):
        take(source, 1, 20)
    let_go(source)


def test_a_broker_that_wants_a_password(tmp_path, monkeypatch):
    maker = shutil.which("mosquitto_passwd")
    if maker is None:
        pytest.skip("needs mosquitto_passwd")
    subprocess.run([maker, "-b", "-c", tmp_path / "users", "bob", "secret"], check=True, timeout=20)
    (tmp_path / "users").chmod(0o600)
    broker = Broker(tmp_path / "broker", f"password_file {tmp_path / 'users'}", anonymous=False)
    try:
        with pytest.raises(UnavailableError, match=r"refuses \(Not authorized\)"):
            open_source(broker.uri(), CONTRACT, OPTIONS)
        monkeypatch.setitem(os.environ, "SATTN_MQTT_PASSWORD", "secret")
        source = open_source(broker.uri().replace("//", "//bob@"), CONTRACT, OPTIONS)
        quiet(source)
        source.close()
    finally:
        broker.stop()
