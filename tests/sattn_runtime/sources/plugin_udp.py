"""A source of somebody else, all of it: float32 datagrams on a UDP port, `udp:9000`."""

from __future__ import annotations

import socket
from time import monotonic_ns

import numpy as np

from sattn_edge.contract import Contract
from sattn_runtime.sources.base import Chunk, Source, SourceOptions, StreamStart
from sattn_runtime.sources.live import LiveSource


class UdpSource(LiveSource):
    def __init__(self, port: int, modal: int) -> None:
        super().__init__(f"udp-{port}", drop=True)
        self._modal = modal
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.start()

    def _read_peer(self) -> None:
        with self.socket:
            self.give(StreamStart(self.name))
            while self.wait_readable(self.socket):
                data, arrival_ns = self.socket.recv(65536), monotonic_ns()
                if len(data) % (4 * self._modal):
                    self.counted["bad_datagrams"] += 1
                else:
                    self.give(Chunk(np.frombuffer(data, np.float32).reshape(-1, self._modal), arrival_ns))


def open_source(rest: str, contract: Contract, options: SourceOptions) -> Source:
    return UdpSource(int(rest), contract.modal)
