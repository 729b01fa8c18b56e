"""A whole Sigstore of its own, for one test run: certificate authority, certificate log, signature log (Rekor v2), timestamps.

    with private_sigstore() as private:
        raw = private.sign_statement("https://git.example.test/org/repo/.ci/release.yml@refs/heads/main", statement)
        json.dumps(private.trusted_root())

The unmodified `sigstore` package signs against it over HTTP on 127.0.0.1. Formats: RFC 6962 (certificate timestamps, tree), RFC 3161
and RFC 5652 (timestamps), C2SP signed notes (checkpoints), Sigstore protobuf-specs in JSON. All keys are made anew and thrown away.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = "https://idp.example.test"
ORIGIN = "log.example.test"
SINCE = "2020-01-01T00:00:00Z"
DAY = timedelta(days=1)
FULCIO = "1.3.6.1.4.1.57264.1"  # Fulcio's own extensions: .1 and .8 hold the issuer
SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
TOKEN_KEY = "not a secret, but of the length that HS256 wants"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def public(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Der:
    """The few forms of DER that a timestamp needs."""

    @staticmethod
    def of(tag: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        if len(body) < 0x80:
            return bytes([tag, len(body)]) + body
        length = len(body).to_bytes(4, "big").lstrip(b"\0")
        return bytes([tag, 0x80 | len(length)]) + length + body

    @classmethod
    def sequence(cls, *parts: bytes) -> bytes:
        return cls.of(0x30, *parts)

    @classmethod
    def set(cls, *parts: bytes) -> bytes:
        return cls.of(0x31, *sorted(parts))  # DER orders the members of a SET OF

    @classmethod
    def integer(cls, value: int) -> bytes:
        return cls.of(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    @classmethod
    def octets(cls, data: bytes) -> bytes:
        return cls.of(0x04, data)

    @classmethod
    def name(cls, dotted: str) -> bytes:
        first, second, *rest = map(int, dotted.split("."))
        body = bytearray()
        for number in (40 * first + second, *rest):
            groups = [number & 0x7F]
            while number := number >> 7:
                groups.append(number & 0x7F | 0x80)
            body += bytes(reversed(groups))
        return cls.of(0x06, bytes(body))

    @classmethod
    def parts(cls, data: bytes) -> list[tuple[int, bytes, bytes]]:
        """Take a constructed value's inside apart: tag, value and whole of each member."""
        found = []
        while data:
            length, start = data[1], 2
            if length & 0x80:
                start += length & 0x7F
                length = int.from_bytes(data[2:start], "big")
            found.append((data[0], data[start : start + length], data[: start + length]))
            data = data[start + length :]
        return found


class Tree:
    """A Merkle tree as RFC 6962 draws it, over leaves that are hashed already."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []

    def add(self, body: bytes) -> int:
        self.leaves.append(sha256(b"\0", body))
        return len(self.leaves) - 1

    def root(self, low: int = 0, high: int | None = None) -> bytes:
        high = len(self.leaves) if high is None else high
        if high - low == 1:
            return self.leaves[low]
        middle = low + self._split(high - low)
        return sha256(b"\1", self.root(low, middle), self.root(middle, high))

    def proof(self, index: int, low: int = 0, high: int | None = None) -> list[bytes]:
        high = len(self.leaves) if high is None else high
        if high - low == 1:
            return []
        middle = low + self._split(high - low)
        if index < middle:
            return [*self.proof(index, low, middle), self.root(middle, high)]
        return [*self.proof(index, middle, high), self.root(low, middle)]

    @staticmethod
    def _split(count: int) -> int:
        return 1 << (count - 1).bit_length() - 1


class PrivateSigstore:
    """The instance: keys, certificates and what the four services answer."""

    def __init__(self) -> None:
        self._keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "ca", "ct", "tsa-root", "tsa")}
        self._log_key = ed25519.Ed25519PrivateKey.generate()
        usage = [ExtendedKeyUsageOID.CODE_SIGNING]
        self.root = self._authority("root", "root", length=1).sign(self._keys["root"], hashes.SHA256())
        ca = self._authority("ca", "root", length=0).add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        self.ca = ca.sign(self._keys["root"], hashes.SHA256())
        self.tsa_root = self._authority("tsa-root", "tsa-root", length=0).sign(self._keys["tsa-root"], hashes.SHA256())
        stamping = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        tsa = self._certificate("tsa", self._keys["tsa"].public_key(), "tsa-root", 3650 * DAY).add_extension(stamping, critical=True)
        self.tsa = tsa.sign(self._keys["tsa-root"], hashes.SHA256())
        self.tree = Tree()
        self.url = ""
        self.refusals: dict[str, tuple[int, str]] = {}  # path → status and body, instead of an answer
        self.changes: dict[str, bytes] = {}  # path → body, instead of the right one
        self.asked: list[tuple[str, str]] = []  # path and Authorization of every request
        self.ambient = ""  # the token that the CI this is gives to whoever asks

    # Certificates

    def _authority(self, name: str, issuer: str, *, length: int) -> x509.CertificateBuilder:
        return self._certificate(name, self._keys[name].public_key(), issuer, 3650 * DAY, authority=length)

    def _certificate(
        self, name: str, key: ec.EllipticCurvePublicKey, issuer: str, life: timedelta, *, authority: int | None = None
    ) -> x509.CertificateBuilder:
        is_ca = authority is not None
        now = datetime.now(UTC)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {name}")] if name else []))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {issuer}")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - (DAY if is_ca or life > DAY else timedelta(seconds=10)))
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(is_ca, authority), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._keys[issuer].public_key()), critical=False)
        )

    def certify(self, key: ec.EllipticCurvePublicKey, identity: str, issuer: str, repository: str = "") -> x509.Certificate:
        """What Fulcio does for a token that says `identity`: a certificate of ten minutes, with a timestamp of the certificate log."""
        mail = "@" in identity and "//" not in identity
        said = x509.RFC822Name(identity) if mail else x509.UniformResourceIdentifier(identity)
        bare = (
            self._certificate("", key, "ca", timedelta(minutes=10))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectAlternativeName([said]), critical=True)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{FULCIO}.1"), issuer.encode()), critical=False)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{FULCIO}.8"), Der.of(0x0C, issuer.encode())), critical=False)
        )
        if repository:
            source = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{FULCIO}.12"), Der.of(0x0C, repository.encode()))
            bare = bare.add_extension(source, critical=False)
        before = bare.sign(self._keys["ca"], hashes.SHA256())
        listed = x509.UnrecognizedExtension(SCT_LIST, Der.octets(self._certificate_timestamp(before.tbs_certificate_bytes)))
        return bare.add_extension(listed, critical=False).sign(self._keys["ca"], hashes.SHA256())

    def _certificate_timestamp(self, body: bytes) -> bytes:
        moment = int(datetime.now(UTC).timestamp() * 1000)
        head = struct.pack("!BBQH", 0, 0, moment, 1)  # v1, certificate timestamp, time, an entry before its certificate
        entry = sha256(public(self._keys["ca"])) + len(body).to_bytes(3, "big") + body + struct.pack("!H", 0)
        signature = self._keys["ct"].sign(head + entry, ec.ECDSA(hashes.SHA256()))
        stamp = struct.pack("!B32sQH", 0, sha256(public(self._keys["ct"])), moment, 0) + struct.pack("!BBH", 4, 3, len(signature)) + signature
        return struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp

    # The log

    @property
    def log_id(self) -> bytes:
        return sha256(ORIGIN.encode(), b"\n\x01", self._log_key.public_key().public_bytes_raw())

    def enter(self, request: dict) -> dict:
        """What Rekor v2 answers: the entry, the proof that it is in the tree, and the signed head of the tree."""
        import rfc8785

        asked = request["hashedRekordRequestV002"]
        spec = {"data": {"algorithm": "SHA2_256", "digest": asked["digest"]}, "signature": asked["signature"]}
        body = rfc8785.dumps({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": spec}})
        index, size = self.tree.add(body), len(self.tree.leaves)
        root = self.tree.root()
        note = f"{ORIGIN}\n{size}\n{encoded(root)}\n"
        signature = encoded(self.log_id[:4] + self._log_key.sign(note.encode()))
        proof = {
            "logIndex": str(index),
            "treeSize": str(size),
            "rootHash": encoded(root),
            "hashes": [encoded(part) for part in self.tree.proof(index)],
            "checkpoint": {"envelope": f"{note}\n\N{EM DASH} {ORIGIN} {signature}\n"},
        }
        return {
            "logIndex": str(index),
            "logId": {"keyId": encoded(self.log_id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": proof,
            "canonicalizedBody": encoded(body),
        }

    # Timestamps

    def timestamp(self, request: bytes) -> bytes:
        """What a timestamp authority answers to a request of RFC 3161."""
        ((_, asked, _),) = Der.parts(request)
        _, (_, _, imprint), *more = Der.parts(asked)
        nonce = [whole for tag, _, whole in more if tag == 0x02]
        now = datetime.now(UTC)
        sha, signed_data = Der.sequence(Der.name("2.16.840.1.101.3.4.2.1")), "1.2.840.113549.1.7.2"
        content = "1.2.840.113549.1.9.16.1.4"
        info = Der.sequence(
            Der.integer(1), Der.name("1.3.6.1.4.1.57264.2"), imprint, Der.integer(x509.random_serial_number() >> 96),
            Der.of(0x18, f"{now:%Y%m%d%H%M%SZ}".encode()), *nonce,
        )  # fmt: skip
        whole = self.tsa.public_bytes(Encoding.DER)
        attributes = [
            Der.sequence(Der.name("1.2.840.113549.1.9.3"), Der.set(Der.name(content))),
            Der.sequence(Der.name("1.2.840.113549.1.9.4"), Der.set(Der.octets(sha256(info)))),
            Der.sequence(
                Der.name("1.2.840.113549.1.9.16.2.47"), Der.set(Der.sequence(Der.sequence(Der.sequence(Der.octets(sha256(whole))))))
            ),
        ]
        signature = self._keys["tsa"].sign(Der.set(*attributes), ec.ECDSA(hashes.SHA256()))
        signer = Der.sequence(
            Der.integer(1), Der.sequence(self.tsa.issuer.public_bytes(), Der.integer(self.tsa.serial_number)), sha,
            Der.of(0xA0, *sorted(attributes)), Der.sequence(Der.name("1.2.840.10045.4.3.2")), Der.octets(signature),
        )  # fmt: skip
        inside = Der.sequence(Der.name(content), Der.of(0xA0, Der.octets(info)))
        data = Der.sequence(Der.integer(3), Der.set(sha), inside, Der.set(signer))
        return Der.sequence(Der.sequence(Der.integer(0)), Der.sequence(Der.name(signed_data), Der.of(0xA0, data)))

    # What clients are told

    def trusted_root(self) -> dict:
        """Everything a verifier has to believe, as a policy holds it."""

        def chain(*certificates: x509.Certificate) -> dict:
            listed = [{"rawBytes": encoded(certificate.public_bytes(Encoding.DER))} for certificate in certificates]
            subject = {"organization": "test", "commonName": "test"}
            return {"subject": subject, "uri": f"https://{ORIGIN}", "certChain": {"certificates": listed}, "validFor": {"start": SINCE}}

        def log(key: bytes, details: str, identity: bytes) -> dict:
            held = {"rawBytes": encoded(key), "keyDetails": details, "validFor": {"start": SINCE}}
            return {"baseUrl": f"https://{ORIGIN}", "hashAlgorithm": "SHA2_256", "publicKey": held, "logId": {"keyId": encoded(identity)}}

        certificates = public(self._keys["ct"])
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(public(self._log_key), "PKIX_ED25519", self.log_id)],
            "certificateAuthorities": [chain(self.ca, self.root)],
            "ctlogs": [log(certificates, "PKIX_ECDSA_P256_SHA_256", sha256(certificates))],
            "timestampAuthorities": [chain(self.tsa, self.tsa_root)],
        }

    def token(self, identity: str, **more: object) -> str:
        """What the identity provider would give `identity`; `more` are claims besides, or instead."""
        import jwt

        now = int(datetime.now(UTC).timestamp())
        claims = {"iss": ISSUER, "sub": identity, "aud": "sigstore", "iat": now, "nbf": now - 5, "exp": now + 600}
        return jwt.encode(claims | more, TOKEN_KEY, "HS256")

    def sign_statement(self, identity: str, statement: bytes) -> bytes:
        """Sign as `identity` with the real client; a bundle with an envelope."""
        from sigstore.dsse import Statement

        with self._signer(identity) as signer:
            return signer.sign_dsse(Statement(statement)).to_json().encode()

    def sign_artifact(self, identity: str, artifact: bytes) -> bytes:
        """Sign as `identity` with the real client; a bundle with a message signature."""
        with self._signer(identity) as signer:
            return signer.sign_artifact(artifact).to_json().encode()

    def trust_config(self, *, log: tuple[str, int] | None = None, stamps: int = 1, root: dict | None = None) -> dict:
        """What a client is told to sign with: a trusted root and the services; `log` is another one's address and version."""

        def service(path: str, version: int, at: str = "") -> dict:
            return {"url": (at or self.url) + path, "majorApiVersion": version, "operator": f"test{path}", "validFor": {"start": SINCE}}

        address, version = log or (self.url, 2)
        services = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [service("", 1)],
            "oidcUrls": [service("/oidc", 1)],
            "rekorTlogUrls": [service("", version, address)],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [service(f"/api/v1/timestamp{'/again' * at}", 1) for at in range(stamps)],
            "tsaConfig": {"selector": "ALL"},
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": root or self.trusted_root(),
            "signingConfig": services,
        }

    def _signer(self, identity: str):
        from sigstore.models import ClientTrustConfig
        from sigstore.oidc import IdentityToken
        from sigstore.sign import SigningContext

        context = SigningContext.from_trust_config(ClientTrustConfig.from_json(json.dumps(self.trust_config())))
        return context.signer(IdentityToken(self.token(identity)))

    # The services

    def answer(self, path: str, authorization: str, raw: bytes) -> tuple[str, bytes]:
        if path.startswith("/api/v1/timestamp"):
            return "application/timestamp-reply", self.timestamp(raw)
        asked = json.loads(raw)
        if path == "/api/v2/log/entries":
            return "application/json", json.dumps(self.enter(asked)).encode()
        assert path == "/api/v2/signingCert", path
        import jwt

        claims = jwt.decode(authorization.removeprefix("Bearer "), TOKEN_KEY, ["HS256"], audience="sigstore")
        request = x509.load_pem_x509_csr(base64.b64decode(asked["certificateSigningRequest"]))
        assert request.is_signature_valid
        workflow = claims.get("job_workflow_ref")
        identity = f"https://github.com/{workflow}" if workflow else claims["sub"]
        chain = (self.certify(request.public_key(), identity, claims["iss"], claims.get("repository", "")), self.ca, self.root)
        listed = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
        return "application/json", json.dumps({"signedCertificateEmbeddedSct": {"chain": {"certificates": listed}}}).encode()


@contextlib.contextmanager
def private_sigstore() -> Iterator[PrivateSigstore]:
    """Run an instance; skips where the package `sigstore` is not installed."""
    pytest.importorskip("sigstore")
    private = PrivateSigstore()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            given = self.headers.get("Authorization", "")
            private.asked.append((self.path, given))
            if self.path in private.refusals:
                status, text = private.refusals[self.path]
                self._send(status, "application/json", text.encode())
                return
            kind, body = private.answer(self.path, given, raw)
            self._send(200, kind, private.changes.get(self.path, body))

        def do_GET(self) -> None:
            """Give the token of a CI as GitHub does, to who has the right to ask for it; say where the identity provider would be."""
            private.asked.append((self.path, self.headers.get("Authorization", "")))
            if self.path == "/oidc/.well-known/openid-configuration":  # some clients look it up though they have a token
                told = {"issuer": ISSUER, "authorization_endpoint": f"{private.url}/auth", "token_endpoint": f"{private.url}/token"}
                self._send(200, "application/json", json.dumps(told).encode())
                return
            right = self.path == "/ambient?api=1&audience=sigstore" and self.headers.get("Authorization") == "bearer of the right"
            self._send(200 if right else 403, "application/json", json.dumps({"value": private.ambient}).encode() if right else b"{}")

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    private.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield private
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
