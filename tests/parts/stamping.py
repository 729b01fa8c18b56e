"""A real timestamp authority on 127.0.0.1: `openssl ts` behind an HTTP server, with a root and a certificate of its own.

    with stamping.authority(tmp_path / "tsa") as tsa:
        tsa.url; tsa.entry()                # where it answers, and how a policy names it
        tsa.stamp(signature)                # a timestamp without a network
        tsa.change = lambda asked, answer: b"garbage"

openssl's option `certs` is left out of its settings: it would order the certificates as no strict reader of DER accepts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parts import authority as authorities
from parts.authority import DAY, STAMPING, Party
from parts.httpd import Request, Route, Server
from parts.images import need
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

SETTINGS = """
[tsa]
default_tsa = own
[own]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = {digest}
default_policy = 1.2.3.4.1
digests = {digests}
accuracy = secs:1
ess_cert_id_alg = sha256
"""


@dataclass
class Authority:
    """The authority: its folder, root and own certificate; `digest` is what it signs with, `digests` what it lets others hash with."""

    folder: Path
    root: Party
    own: Party
    above: tuple[Party, ...] = ()
    digest: str = "sha256"
    digests: str = "sha256, sha384, sha512"
    url: str = ""
    change: Callable[[bytes, bytes], bytes] | None = None  # given question and answer, what is answered instead
    asked: list[Request] = field(default_factory=list)

    def entry(self, **fields: Any) -> dict[str, Any]:
        return {"roots": [self.root.pem]} | fields

    def stamp(self, signature: bytes, algorithm: HashAlgorithm = HashAlgorithm.SHA256, *, certificates: bool = True) -> bytes:
        """Give a timestamp over a signature."""
        return self.reply(TimestampRequestBuilder(signature, algorithm, cert_req=certificates).build().as_bytes())

    def reply(self, question: bytes) -> bytes:
        """Answer a request, as `openssl ts` does."""
        self.own.write(self.folder, "tsa")
        settings, asked, answer, chain = (self.folder / name for name in ("tsa.cnf", "question", "answer", "above.pem"))
        settings.write_text(SETTINGS.format(folder=self.folder, digest=self.digest, digests=self.digests))
        asked.write_bytes(question)
        chain.write_text("".join(party.pem for party in self.above))
        command = ["openssl", "ts", "-reply", "-config", settings, "-queryfile", asked, "-out", answer]
        done = subprocess.run([*command, *(("-chain", chain) if self.above else ())], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return answer.read_bytes()

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(request)
        made = self.reply(request.body)
        return 200, {"Content-Type": "application/timestamp-reply"}, self.change(request.body, made) if self.change else made


def offline(folder: Path, **fields: Any) -> Authority:
    """Give an authority that is asked by `stamp` only; `fields` are those of its own certificate."""
    need("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    root = authorities.root("p256", "Time Root", since=now - DAY, until=now + 3650 * DAY)
    own = root.signer("Time", "p256", **{"purposes": [STAMPING], "since": now - DAY, "until": now + 3650 * DAY} | fields)
    return Authority(folder, root, own)


@contextmanager
def authority(folder: Path) -> Iterator[Authority]:
    """Run an authority that answers over HTTP."""
    made = offline(folder)
    with Server() as server:
        made.url = server.serve("/tsa", b"", Route(answer=made.answer))
        yield made


def written(made: Authority) -> Path:
    """Write its root as PEM, for a command line; returns the path."""
    path = made.folder / "time-root.pem"
    path.write_text(made.root.pem)
    return path
