"""MQTT: `mqtt://host:1883/topic?client=NAME&qos=1`, messages as `payload` says. Protocol 5.

| option | |
|---|---|
| client | the session's name at the broker; made of this machine's name, host and topic unless said otherwise |
| qos | 1: acknowledged, as below. 0: nothing is kept for us, and a slow loop loses the oldest samples |

A user's name may stand before the host (`mqtt://user@host/topic`); the password is in SATTN_MQTT_PASSWORD, since
anybody on this machine can read a command line.

The session is persistent: the broker keeps what comes while nobody is there, and all that was not acknowledged.
A message is acknowledged when the run is done with it, so a kill costs nothing: what was in hand comes again.
What comes again is told by the number in its payload (`numbering`) and dropped; without numbers a message is taken at
least once, and the run says so. A loop that is slow acknowledges late; beyond 16,384 messages the broker waits.
A message that is none, or does not fit the contract, is counted and left out; where the first 20 all are, the run ends.
A `t` that does not pass is no time: it is left out of account, so that no message of such a sender ends every run.

A broker that can't be reached or refuses ends the run at once. One that takes the connection and is slow to answer, as
where the machine has just started, may take as long as one that went away.
"""

from __future__ import annotations

import os
import socket
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, monotonic_ns
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, SourceLostError, UnavailableError
from sattn_runtime.sources.base import Chunk, SourceOptions, StreamStart
from sattn_runtime.sources.checks import NoTimeError, RateCheck
from sattn_runtime.sources.live import MOST_SAMPLES, LiveSource
from sattn_runtime.sources.mqtt_uri import MqttAddress, parse_address
from sattn_runtime.sources.numbering import Numbering, Verdict
from sattn_runtime.sources.optional import load_package
from sattn_runtime.sources.payload import Message, PayloadDecoder, PayloadError

_IN_FLIGHT = 16_384
_CONNECT_S = 5.0  # for the connection itself, and as long an open waits for the answer; the rest of it the thread does
_KEEPALIVE_S = 10
_WATCH_S = 0.1
_FOR_EVER = 0xFFFFFFFF
_TAKEN_OVER = 142
# Older brokers do not say that another client took the session: it is lost again as soon as it is won back.
_SHORT_S, _MOST_SHORT = 3.0, 5
# A sender that was away sends what it kept while new messages pass it by.
_PATIENCE_S = 5.0
_TRIES = 20  # messages without a good one, and it is told


class _Delivery(NamedTuple):
    """Which connection, the broker's number of the message there, and whether it says that it gave it before."""

    connection: int
    number: int
    repeated: bool


@dataclass(slots=True, eq=False)
class _Held:
    """A chunk that is not acknowledged yet, and how its message came: again on every connection, until it is."""

    chunk: Chunk
    key: tuple[int, int] | None
    deliveries: list[_Delivery]


class MqttSource(LiveSource):
    """One topic. Its messages are stamped by the client library's own thread; a second one watches the connection."""

    def __init__(self, address: MqttAddress, contract: Contract, options: SourceOptions) -> None:
        bound = None if address.qos else MOST_SAMPLES  # with QoS 1 what is not acknowledged bounds it
        super().__init__(address.topic, most_samples=bound, drop=True)
        self.only_stream = address.topic
        self.patience_s = _PATIENCE_S if address.qos else 0.0
        self._address, self._contract, self._reconnect_s = address, contract, options.reconnect_s
        self._subject = f"mqtt://{address.host}:{address.port}/{address.topic}"
        self._decoder = PayloadDecoder(contract, self._subject)
        self._rate = RateCheck(contract, self._subject, "t")
        self._numbering = Numbering(2 * _IN_FLIGHT, options.after_sequence.get(address.topic))
        self._started = self._failed = self._timeless = False
        self._next_seq: int | None = None
        self._tried = 0
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._by_key: dict[tuple[int, int], _Held] = {}
        self._connection, self._since = 0, 0.0
        self._short, self._short_since = 0, 0.0
        self._away_since: float | None = None
        self._refused = ""
        self._ready = threading.Event()
        self._begun = 0.0
        self._client: Any = self._make_client(load_package("paho.mqtt.client", "mqtt", self._subject))
        self._connect()
        self.start()

    # -------------------------------------------------------------- the connection

    def _make_client(self, mqtt: ModuleType) -> Any:
        version = mqtt.CallbackAPIVersion.VERSION2
        client = mqtt.Client(version, self._address.client, protocol=mqtt.MQTTv5, manual_ack=True)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_message = self._on_subscribe, self._on_message
        client.connect_timeout = _CONNECT_S
        client.reconnect_delay_set(1, 1)
        if self._address.user is not None:
            client.username_pw_set(self._address.user, os.environ.get("SATTN_MQTT_PASSWORD"))
        return client

    def _connect(self) -> None:
        packets = load_package("paho.mqtt.packettypes", "mqtt", self._subject)
        properties = load_package("paho.mqtt.properties", "mqtt", self._subject)
        wishes = properties.Properties(packets.PacketTypes.CONNECT)
        wishes.SessionExpiryInterval = _FOR_EVER if self._address.qos else 0
        wishes.ReceiveMaximum = _IN_FLIGHT
        address = self._address
        try:
            self._client.connect(address.host, address.port, _KEEPALIVE_S, clean_start=False, properties=wishes)
        except OSError as error:
            raise self._unavailable(f"can't be reached ({error})") from error
        self._begun = monotonic()
        self._client.loop_start()
        self._ready.wait(_CONNECT_S)
        try:
            self._check_answer()
        except UnavailableError:
            self._let_go()
            raise

    def _check_answer(self) -> None:
        """Raises UnavailableError where the broker refused, or has not answered for longer than it may."""
        if self._refused:
            raise self._unavailable(f"refuses ({self._refused})")
        patience_s = max(_CONNECT_S, self._reconnect_s)
        if not self._ready.is_set() and monotonic() - self._begun > patience_s:
            raise self._unavailable(f"gave no answer within {patience_s:g} s (--reconnect-s)")

    def _unavailable(self, found: str) -> UnavailableError:
        todo = "see that it runs, and that the address is right"
        return UnavailableError(self._subject, found, "a broker of MQTT 5", todo)

    def _on_connect(self, client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refuse(str(reason))
            return
        options = load_package("paho.mqtt.subscribeoptions", "mqtt", self._subject).SubscribeOptions
        with self._lock:
            self._connection += 1
            if self._connection > 1:
                self.counted["reconnects"] += 1
                if not flags.session_present:
                    self._lose_session()
            self._away_since, self._since = None, monotonic()
        # A retained message is an old one: nobody measured it now.
        client.subscribe(self._address.topic, options=options(self._address.qos, retainHandling=2))

    def _lose_session(self) -> None:
        """The broker knows nothing of us any more: what it held is lost, and what is not numbered can't show it."""
        self.counted["lost_sessions"] += 1
        if self._next_seq is None:
            self._started = False

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Sequence[Any], _properties: Any) -> None:
        bad = [str(reason) for reason in reasons if reason.is_failure]
        if bad:
            self._refuse(bad[0])
        self._ready.set()

    def _refuse(self, reason: str) -> None:
        if not self._ready.is_set():
            self._refused = reason
            self._ready.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        now = monotonic()
        if self._away_since is None:
            self._away_since = now
            self._short = self._short + 1 if now - self._since < _SHORT_S else 0
            self._short_since = self._since if self._short == 1 else self._short_since
        # A broker that is restarted again and again looks the same, and may do so for as long as it may be away.
        never_holds = self._short >= _MOST_SHORT and now - self._short_since > self._reconnect_s
        if reason.value == _TAKEN_OVER or never_holds:
            found = f"the session '{self._address.client}' is taken away, by another reader of that name it seems"
            todo = "name this one with ?client=NAME"
            self._fail(SourceLostError(self._subject, found, "one reader for each client name", todo))

    def _read_peer(self) -> None:
        """Watches how long the connection is away; messages come in the library's own thread."""
        while self.pause(_WATCH_S) and not self._failed:
            self._check_answer()
            since = self._away_since if self._ready.is_set() else None
            if since is not None and monotonic() - since > self._reconnect_s:
                allowed = f"--reconnect-s {self._reconnect_s:g}"
                raise SourceLostError(self._subject, "the connection was lost and did not come back", allowed)

    def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()
            client.on_connect = client.on_disconnect = client.on_subscribe = client.on_message = None

    # -------------------------------------------------------------- messages

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        arrival_ns = monotonic_ns()
        if self.stopping or self._failed:
            return  # not acknowledged: it comes again
        try:
            with self._lock:
                delivery = _Delivery(self._connection, message.mid, message.dup) if message.qos else None
                self._take(message.payload, delivery, arrival_ns)
        except Exception as error:  # noqa: BLE001 - the library would swallow it; `read` raises it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self.give(error)

    def _take(self, payload: bytes, delivery: _Delivery | None, arrival_ns: int) -> None:
        try:
            message = self._decoder.decode(payload)
        # One that does not fit the contract must not end the run: not acknowledged, it would end the next one too.
        except (PayloadError, RecordingError) as error:
            self._bad(error)
            self._send_acknowledgement([delivery] if delivery else [])  # or it would come for ever
            return
        self._tried = -1
        key = None if message.seq is None else (message.seq, zlib.crc32(payload))
        if key is not None:
            repeated = delivery is not None and delivery.repeated
            verdict = self._numbering.judge(key[0], len(message.samples), key[1], repeated=repeated)
            if verdict is Verdict.AGAIN:
                self._again(key, delivery)
                return
            if verdict is Verdict.RESTART:
                self.counted["restarts"] += 1
                self._started = False
        chunk = self._chunk(message, arrival_ns)
        if delivery is not None:
            self._hold(_Held(chunk, key, [delivery]))
        if not self._started:
            self._started = True
            self.give(StreamStart(self.name, None, self._notes(message)))
        self.give(chunk)

    def _bad(self, error: PayloadError | RecordingError) -> None:
        self.counted["bad_messages"] += 1
        if self._tried >= 0:
            self._tried += 1
        if self._tried >= _TRIES:
            if isinstance(error, RecordingError):
                raise error
            found = f"{self._tried} messages and no good one among them, the last: {error}"
            raise RecordingError(self._subject, found, 'JSON with "samples", or the binary form of it') from error

    def _again(self, key: tuple[int, int], delivery: _Delivery | None) -> None:
        self.counted["duplicates"] += 1
        if delivery is None:
            return
        held = self._by_key.get(key)
        if held is not None:
            held.deliveries.append(delivery)  # acknowledged when the first of them is done with
        else:
            self._send_acknowledgement([delivery])

    def _chunk(self, message: Message, arrival_ns: int) -> Chunk:
        joined = message.seq is not None and message.seq == self._next_seq
        self._next_seq = None if message.seq is None else message.seq + len(message.samples)
        if not self._timeless and message.time_s is not None and message.seq is not None:
            try:
                self._rate.add_block(message.time_s, len(message.samples), joined=joined)
            except NoTimeError:
                # Not acknowledged it would end every later run, and samples with numbers are of use without a time.
                self._timeless = True
        if self._timeless and message.time_s is not None:
            self.counted["useless_times"] += 1
        skip = 0 if message.seq is None else self._numbering.already_done(message.seq)
        stamps, numbers = None if self._timeless else message.stamps(self._contract.rate_hz), message.numbers()
        samples = message.samples[skip:]
        return Chunk(
            samples,
            arrival_ns,
            0,
            None if stamps is None else stamps[skip:],
            bool(np.isfinite(samples).all()),
            None if numbers is None else numbers[skip:],
        )

    def _notes(self, message: Message) -> tuple[str, ...]:
        if message.seq is not None or not self._address.qos:
            return self._decoder.notes
        note = f"{self.name}: messages have no seq, so one may be taken twice after a lost connection (at least once)"
        return (*self._decoder.notes, note)

    def _hold(self, held: _Held) -> None:
        self._held[id(held.chunk)] = held
        if held.key is not None:
            self._by_key[held.key] = held

    # -------------------------------------------------------------- what the loop calls

    def acknowledge(self, chunk: Chunk) -> None:
        """Tells the broker that the chunk's message is done with."""
        with self._lock:
            held = self._held.pop(id(chunk), None)
            if held is None:
                return
            if held.key is not None:
                self._by_key.pop(held.key, None)
            self._send_acknowledgement(held.deliveries)

    def _send_acknowledgement(self, deliveries: list[_Delivery]) -> None:
        """Those of the connection at hand. One of an earlier connection comes again, and is acknowledged then."""
        if self._client is None:
            return
        for delivery in deliveries:
            if delivery.connection == self._connection and self._away_since is None:
                self._client.ack(delivery.number, 1)

    def close(self) -> None:
        """Takes nothing more. The connection stays for what has to be acknowledged, until a second close.

        Not until END: whoever reads may be a thread, far ahead of the loop that acknowledges.
        """
        again = self.stopping
        super().close()
        if again or not self._held:
            self._let_go()


def open_source(rest: str, contract: Contract, options: SourceOptions) -> MqttSource:
    """Connects and subscribes.

    Raises:
        UsageError: the address can't be read.
        UnavailableError: no broker answers there, it refuses, or paho-mqtt is missing.
    """
    return MqttSource(parse_address(rest, socket.gethostname()), contract, options)
