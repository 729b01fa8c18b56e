"""A large body over plain TCP, received from the socket itself once libcurl has asked for it and its header is judged.

libcurl hands a body over in pieces of 16 KiB. Each costs a call into Python under the one lock that all threads share,
and in a local network that is what a transfer then waits for. Here a block of any size is one system call.

Rules: it begins only when the kernel says that libcurl has read from this connection exactly what it has handed over, so
no byte can be lost or come twice (over TLS or through a tunnel that is never so); a body's length must be known; the
connection is not used again; what is cancelled ends within a second, what stalls ends as it would with libcurl.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time
from collections.abc import Callable

import pycurl

from airgap_images.remote.web import Receiver, TransferError

MAX_LOOKS = 128  # at whether libcurl has read ahead; it is so for at most BUFFER / 16 KiB pieces in a row
WORTHWHILE = 1 << 20  # bytes; below that, keeping the connection for the next request is worth more
SLOWEST = 64  # bytes/s below which a transfer counts as stalled
MOMENT = 0.2  # seconds one system call may wait for its block to fill
BYTES_RECEIVED = 128  # where tcpi_bytes_received stands in struct tcp_info (linux/tcp.h), 64 bits
_NUMBER = struct.Struct("=Q")


class Tap:
    """The connections libcurl opens for one request; ``stall`` is in seconds, ``ended`` raises when the transfer is to end."""

    def __init__(self, name: str, stall: float, ended: Callable[[], None]) -> None:
        self._name = name
        self._stall = stall
        self._ended = ended
        self._sockets: list[socket.socket] = []
        self._looks = 0

    def options(self) -> dict[int, object]:
        """Return the options that make libcurl open a connection of its own for this request, by this object."""
        return {pycurl.FRESH_CONNECT: True, pycurl.OPENSOCKETFUNCTION: self._open}

    def in_step(self, count: int) -> bool:
        """Say whether libcurl has read ``count`` bytes of the one connection and no more, with certainty."""
        self._looks += 1
        connection = self._connection() if self._looks <= MAX_LOOKS else None
        return connection is not None and _read(connection) == count

    def receive(self, count: int, receiver: Receiver) -> None:
        """Receive exactly ``count`` bytes; raises TransferError if they do not come."""
        connection = self._connection()
        if connection is None:
            raise TransferError(f"{self._name}: the connection was closed, {count} bytes missing", retryable=True)
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, round(MOMENT * 1_000_000)))
        since, fresh = time.monotonic(), 0
        while count:
            self._ended()
            got = self._some(connection, receiver.room()[:count], count)
            receiver.took(got)
            count, fresh, lasted = count - got, fresh + got, time.monotonic() - since
            if lasted >= 1 and fresh >= SLOWEST * lasted:
                since, fresh = since + lasted, 0
            elif lasted >= self._stall:
                raise TransferError(f"{self._name}: less than {SLOWEST} bytes/s for {self._stall:.0f} seconds", retryable=True)

    def close(self) -> None:
        """Let go of the connections; those of libcurl are its own."""
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def _connection(self) -> socket.socket | None:
        """Return the connection in use; None unless it is clear which: where a name has several addresses, all are tried."""
        connected = [one for one in self._sockets if _is_connected(one)]
        return connected[0] if len(connected) == 1 else None

    def _some(self, connection: socket.socket, room: memoryview, missing: int) -> int:
        try:
            got = connection.recv_into(room, len(room), socket.MSG_WAITALL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise TransferError(f"{self._name}: {error.strerror}, {missing} bytes missing", retryable=True) from None
        if not got:
            raise TransferError(f"{self._name}: the connection was closed, {missing} bytes missing", retryable=True)
        return got

    def _open(self, _purpose: int, address: tuple[int, int, int, object]) -> socket.socket | int:
        family, kind, protocol, _ = address
        try:
            made = socket.socket(family, kind, protocol)
        except OSError:  # a family this machine does not have; libcurl tries the next address
            return pycurl.SOCKET_BAD
        self._sockets.append(made)
        return made


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True


def _read(connection: socket.socket) -> int:
    """Return how many bytes of a connection were read, or more if some arrive just now; -1 if that cannot be known."""
    waiting = int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), "little")  # first, so that the result is never too small
    known = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED + _NUMBER.size)
    if len(known) < BYTES_RECEIVED + _NUMBER.size:
        return -1
    return int(_NUMBER.unpack_from(known, BYTES_RECEIVED)[0]) - waiting
