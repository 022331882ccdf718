"""Addresses of topics."""

from __future__ import annotations

import pytest

from sattn_edge.errors import UsageError
from sattn_runtime.sources.mqtt_uri import parse_address

REFUSED = {
    "": "names no host; mqtt://HOST:PORT/TOPIC",
    "//host": "names no topic",
    "//host/": "names no topic",
    "//host/a/+": "is a pattern of topics; one topic; a sensor is a stream of its own",
    "//host/#": "is a pattern of topics",
    "//host:x/t": "is no address",
    "//host/t?qos=2": "qos is '2'; 0 or 1",
    "//host/t?clinet=2": "unknown option 'clinet'; did you mean 'client'",
    "//u:pw@host/t": r"source 'mqtt://u:\*\*\*@host/t': has a password; .*; put it into SATTN_MQTT_PASSWORD",
}


@pytest.mark.parametrize("rest", REFUSED)
def test_what_is_refused(rest):
    with pytest.raises(UsageError, match=REFUSED[rest]):
        parse_address(rest, "here")
