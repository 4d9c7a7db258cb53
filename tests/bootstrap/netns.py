"""Ports of this computer, shown at an address inside another network namespace.

Linux gives each thread a network namespace, and a socket stays in the one that it was made in: a
thread goes in, listens, and comes to its end; connections out are made from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

_CLONE_NEWNET = 0x40000000


def listen_inside(pid: int, address: tuple[str, int]) -> socket.socket:
    """A listening socket in the network namespace of a process. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def listen() -> socket.socket:
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:  # noqa: PTH123 - a descriptor is what is wanted
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        return socket.create_server(address)

    with ThreadPoolExecutor(1) as pool:  # its thread must not be used for anything else
        return pool.submit(listen).result()


class Forwarder:
    """What connects to `address` inside reaches 127.0.0.1:`port` here, until it is closed."""

    def __init__(self, pid: int, address: tuple[str, int], port: int) -> None:
        self._port = port
        self._listener = listen_inside(pid, address)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(inner,), daemon=True).start()

    def _connect(self, inner: socket.socket) -> None:
        here = ("127.0.0.1", self._port)
        with contextlib.suppress(OSError), inner, socket.create_connection(here) as outer:
            back = threading.Thread(target=_pump, args=(outer, inner), daemon=True)
            back.start()
            _pump(inner, outer)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
