"""The address of a topic: `//user@host:port/topic?client=NAME&qos=1`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from sattn_edge.errors import UsageError
from sattn_runtime.sources.uri import one_of, parse_options

_OPTIONS = {"client": "", "qos": "1"}
_FORM = "mqtt://HOST:PORT/TOPIC?client=NAME&qos=1"
_PORT = 1883


@dataclass(frozen=True)
class MqttAddress:
    """Where a topic is, and the name of our session there."""

    host: str
    port: int
    topic: str
    client: str
    qos: int
    user: str | None


def parse_address(rest: str, machine: str) -> MqttAddress:
    """Reads what stands behind `mqtt:`.

    Raises:
        UsageError: no host, no topic, a pattern of topics, a password, or an option that is wrong.
    """
    subject = f"source 'mqtt:{rest}'"
    before, _, query = rest.partition("?")
    try:
        parts = urlsplit(before, allow_fragments=False)
        port = parts.port
    except ValueError as error:
        raise UsageError(subject, f"is no address ({error})", _FORM) from error
    topic = unquote(parts.path.removeprefix("/"))
    if not parts.hostname or not topic:
        raise UsageError(subject, f"names no {'topic' if parts.hostname else 'host'}", _FORM)
    if parts.password is not None:
        raise UsageError(
            subject.replace(parts.password, "***"), "has a password", _FORM, "put it into SATTN_MQTT_PASSWORD"
        )
    if "+" in topic or "#" in topic:
        raise UsageError(subject, "is a pattern of topics", "one topic", "a sensor is a stream of its own")
    options = parse_options(query, _OPTIONS, subject)
    qos = one_of(options["qos"], "qos", subject, ("0", "1"))
    # The same name in every run: the session is found by it.
    name = options["client"] or f"sattn-edge-{machine}-{zlib.crc32(before.encode()):08x}"
    return MqttAddress(parts.hostname, port or _PORT, topic, name, int(qos), parts.username)
