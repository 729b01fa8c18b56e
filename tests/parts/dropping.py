"""A registry in a few lines that misbehaves on order: it cuts uploads, goes on where they stopped, and sends them elsewhere.

    with dropping.Registry(cut_after=1_000_000) as registry:
        ...
        assert registry.received[digest] == data
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

PIECE = 64 << 10


class Registry:
    """Takes blobs and manifests of any repository; ``log`` has method, path and Content-Range of every request, ``bytes`` what arrived."""

    def __init__(
        self,
        *,
        cut_after: int | None = None,
        cuts: int = 1,
        forget: bool = False,
        location: Callable[[str], str] = lambda path: path,
        answer: Callable[[str, str], tuple[int, dict[str, str], bytes] | None] = lambda _method, _path: None,
        subjects: bool = False,
    ) -> None:
        self.cut_after, self.cuts, self.forget, self.location, self.answer = cut_after, cuts, forget, location, answer
        self.subjects = subjects
        self.log: list[tuple[str, str, str]] = []
        self.uploads: dict[str, bytearray] = {}
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.bytes = self.begun = 0
        self.lock = threading.Lock()
        self._http = _Server(self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}"

    def asked(self, method: str, part: str = "") -> list[tuple[str, str, str]]:
        return [entry for entry in self.log if entry[0] == method and part in entry[1]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def registry(self) -> Registry:
        return self.server.registry

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response_only(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        path = urlsplit(self.path)
        self.registry.log.append((self.command, self.path, self.headers.get("Content-Range", "")))
        decided = self.registry.answer(self.command, self.path)
        if decided:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply(*decided)
        elif "/blobs/uploads/" in path.path:
            self.upload(path.path, {key: value[0] for key, value in parse_qs(path.query).items()})
        elif "/blobs/" in path.path:
            found = self.registry.blobs.get(path.path.rsplit("/", 1)[1])
            self.reply(404 if found is None else 200, {} if found is None else {"Content-Length": str(len(found))})
        else:
            self.manifest(path.path)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

    def manifest(self, path: str) -> None:
        name = path.split("/v2/", 1)[1].replace("/manifests/", "@" if "sha256:" in path else ":")
        if self.command == "PUT":
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            kept = raw, self.headers["Content-Type"]
            self.registry.manifests[name] = self.registry.manifests[f"{re.split('[:@]', name)[0]}@{digest}"] = kept
            subject = re.search(rb'"subject":\{[^}]*"digest":"(sha256:[0-9a-f]{64})"', raw) if self.registry.subjects else None
            self.reply(201, {"OCI-Subject": subject[1].decode()} if subject else {})
            return
        raw, kind = self.registry.manifests.get(name, (b"", ""))
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.reply(200 if raw else 404, {"Content-Type": kind, "Docker-Content-Digest": digest} if raw else {}, raw)

    def upload(self, path: str, query: dict[str, str]) -> None:
        name = path.rsplit("/", 1)[1]
        if self.command == "POST":
            with self.registry.lock:
                self.registry.begun += 1
                name = str(self.registry.begun)
                self.registry.uploads[name] = bytearray()
            self.reply(202, {"Location": self.registry.location(f"{path}{name}")})
            return
        kept = self.registry.uploads.get(name)
        if kept is None:
            self.close_connection = True  # with whatever body there is
            self.reply(404)
            return
        if self.command == "GET":
            self.reply(204, {"Location": self.registry.location(path), "Range": f"0-{max(0, len(kept) - 1)}"})
            return
        asked = re.fullmatch(r"(\d+)-\d+", self.headers.get("Content-Range", ""))
        if int(asked[1]) != len(kept) if asked else bool(kept) and self.command == "PATCH":
            self.close_connection = True
            self.reply(416, {"Location": self.registry.location(path), "Range": f"0-{max(0, len(kept) - 1)}"})
            return
        if not self.body(name, kept):
            return
        if self.command == "PATCH":
            self.reply(202, {"Location": self.registry.location(path), "Range": f"0-{len(kept) - 1}"})
        elif f"sha256:{hashlib.sha256(kept).hexdigest()}" != query["digest"]:
            self.reply(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}')
        else:
            self.registry.blobs[query["digest"]] = bytes(kept)
            del self.registry.uploads[name]
            self.reply(201, {"Location": f"/v2/x/blobs/{query['digest']}"})

    def body(self, name: str, kept: bytearray) -> bool:
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read(min(PIECE, left))
            kept += piece
            left -= len(piece)
            self.registry.bytes += len(piece)
            if self.registry.cut_after is not None and self.registry.cuts and len(kept) >= self.registry.cut_after:
                self.registry.cuts -= 1
                self.registry.cut_after *= 2
                if self.registry.forget:
                    del self.registry.uploads[name]
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return False
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, registry: Registry) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = registry

    def handle_error(self, *_: object) -> None:
        pass
