"""``serve``: a read-only registry over what is installed, for clusters that have none. No copy is made of anything.

Rules: on this machine's loopback network it may be plain and open; on any other it speaks TLS and wants a token, or does
not start. It serves bundles of the store only, which were proven when they were installed; it follows the store when another
generation becomes the current one. The code that opens a port is loaded here, by name, and nowhere else.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap_images.oci import Digest
from airgap_images.serving.catalog import Catalog
from airgap_images.serving.distribution import Answer, Asked, Guard, answer
from audit.install import generations, images, receipts
from audit.install.store import Store
from manifests.errors import AirgapError, UsageError
from manifests.lock import read_bounded
from manifests.paths import printable

MAX_TOKEN = 4096  # bytes of the token's file
MIN_TOKEN = 16  # characters; guessing is not slowed down otherwise
STOPS = (signal.SIGTERM, signal.SIGINT)

_LISTEN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """Where to listen, for whom, and with which certificate; ``every`` serves every bundle of the store, not only the current one."""

    listen: str = "127.0.0.1:5000"
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    every: bool = False

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port; raises UsageError if ``listen`` is no address."""
        found = _LISTEN.fullmatch(self.listen)
        if found is None or int(found[2]) > 65535:  # noqa: PLR2004 - the largest port
            raise UsageError(f"--listen {printable(self.listen)!r}: not HOST:PORT", hint="for example 127.0.0.1:5000 or [::1]:5000")
        return found[1].strip("[]"), int(found[2])

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """Return certificate and key; raises UsageError if one is there without the other."""
        if self.certificate and self.key:
            return self.certificate, self.key
        if self.certificate or self.key:
            raise UsageError("--tls-cert and --tls-key go together", hint="name both, or neither")
        return None


class Shelf:
    """What is served: the catalog of the store as it stands, made anew when another generation becomes current."""

    def __init__(self, store: Store, *, every: bool, say: Say) -> None:
        self._store, self._every, self._say = store, every, say
        self._lock = threading.Lock()
        self._told = ""
        self._shown = self._state()
        self.catalog = self._made()

    def answer(self, asked: Asked, guard: Guard | None) -> Answer:
        """Answer a request from what the store holds now."""
        self._follow()
        return answer(self.catalog, asked, guard)

    def _follow(self) -> None:
        try:
            if self._state() == self._shown:
                return
            with self._lock:
                state = self._state()
                if state != self._shown:
                    self.catalog, self._shown = self._made(), state
                    self._tell(f"now serving {_counted(self.catalog)}")
        except (AirgapError, OSError) as error:  # a generation on its way out; what was served still is
            self._tell(f"still serving what was served before: {error}")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)

    def _state(self) -> tuple[object, ...]:
        """Return what changes when there is something else to serve; asked for at every request."""
        return (self._store.current(), *(self._store.bundles() if self._every else ()))

    def _made(self) -> Catalog:
        parts = [images.cargoes(generations.components_of(self._store, digest)) for digest in self._bundles()]
        return Catalog(self._store.layout, parts)

    def _bundles(self) -> tuple[Digest, ...]:
        """Return the bundles to serve: the current one, then the others in the order of their generations, the latest first."""
        current = receipts.current(self._store).digest
        if not self._every:
            return (current,)
        earlier = [receipts.read(self._store, at).digest for at in reversed(self._store.generations())]
        return tuple(dict.fromkeys((current, *earlier, *self._store.bundles())))


def serve(store: Store, options: Options, say: Say) -> None:
    """Serve until SIGTERM or SIGINT; ``say`` is told one line when it is ready, and whatever goes wrong.

    Raises UsageError if it would be open to a network, SiteError if it cannot listen or nothing is installed.
    """
    (host, _), tls = options.address, options.tls
    guard = _guard(options.token_file)
    _check_closed(host, tls=tls is not None, guarded=guard is not None)
    shelf = Shelf(store, every=options.every, say=say)
    listener = _listener(store, options, lambda asked: shelf.answer(asked, guard), say)
    try:
        _check_closed(listener.bound[0], tls=tls is not None, guarded=guard is not None)  # where the name led
        with _until_stopped() as stop:
            say(f"serving {_counted(shelf.catalog)} of {store.root} at {_url(listener)}; stop with Ctrl-C or SIGTERM")
            listener.run(stop)
    finally:
        listener.server_close()


def _listener(store: Store, options: Options, respond: Callable[[Asked], Answer], say: Say) -> Any:
    module = importlib.import_module("airgap_images.serving.listener")
    return module.Listener(options.address, respond, store.layout, tls=options.tls, failed=say)


def _check_closed(host: str, *, tls: bool, guarded: bool) -> None:
    if _is_loopback(host) or (tls and guarded):
        return
    lacking = " and ".join(name for name, there in (("--tls-cert with --tls-key", tls), ("--token-file", guarded)) if not there)
    raise UsageError(
        f"{printable(host)} can be reached by others: {lacking} needed",
        hint="or listen on 127.0.0.1, which only this machine reaches",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _guard(file: Path | None) -> Guard | None:
    if file is None:
        return None
    try:
        token = read_bounded(file, MAX_TOKEN).decode().strip()
    except UnicodeDecodeError:
        token = ""
    if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
        raise UsageError(
            f"{file}: not a token of at least {MIN_TOKEN} characters in one line",
            hint=f"make one: openssl rand -hex 32 > {file}",
        )
    return Guard(token)


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set while the block runs; a second one does what it always did."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in STOPS}

    def asked(_number: int, _frame: object) -> None:
        stop.set()
        _restore(before)

    for number in STOPS:
        signal.signal(number, asked)
    try:
        yield stop
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _url(listener: Any) -> str:
    host, port = listener.bound
    return f"{'https' if listener.secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _counted(catalog: Catalog) -> str:
    return f"{catalog.images} images and {catalog.trees} trees"
