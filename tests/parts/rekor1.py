"""A transparency log of the older kind (Rekor, API v1) beside a private Sigstore, and signatures as cosign left them with it.

    with private_sigstore() as private, rekor1(private) as log:
        layer = log.signature(payload, "https://git.example.test/...")   # data and annotations of the layer
        log.url                                                          # what `rekor:` of an image names

An entry comes with a promise (SignedEntryTimestamp) and nothing else; only who asks the log gets the proof that it is in the tree.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from parts import httpd
from parts.sigstore import ISSUER, SINCE, PrivateSigstore, Tree, encoded, public, sha256
from parts.upstream import pae, simple, statement

from airgap_images.oci import Digest
from audit.verify.claims import IN_TOTO

ORIGIN = "rekor1.example.test - 1193050959916656506"
SHARD = 4_163_431  # entries of earlier trees: an entry's number in the log is not its place in the tree


class Rekor1:
    """The log: what it promises, and what it answers."""

    def __init__(self, private: PrivateSigstore, server: httpd.Server) -> None:
        self._private = private
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._tree = Tree()
        self._entries: list[dict] = []
        self._server = server
        self.url = server.origin
        self.changes: dict = {}  # put into every answer
        server.serve("/api/v1/log/entries", answer=self._answer)

    @property
    def asked(self) -> int:
        return len(self._server.requests)

    def trusted_root(self) -> dict:
        """What the private Sigstore's root says, with this log."""
        root = self._private.trusted_root()
        key = {"rawBytes": encoded(public(self._key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": {"start": SINCE}}
        own = {"baseUrl": f"https://{ORIGIN.partition(' ')[0]}", "hashAlgorithm": "SHA2_256", "publicKey": key, "logId": {"keyId": encoded(sha256(public(self._key)))}}
        return root | {"tlogs": [*root["tlogs"], own]}

    def grow(self, count: int = 1) -> None:
        """Have others enter something, so that every proof is another one from now on."""
        for at in range(count):
            self._enter(json.dumps({"apiVersion": "0.0.1", "kind": "hashedrekord", "other": [len(self._entries), at]}).encode())

    def signature(self, subject: Digest, identity: str, *, payload: bytes | None = None) -> tuple[bytes, dict[str, str]]:
        """Sign an image as `identity`; return the layer of a `.sig` and its annotations."""
        data = simple(subject) if payload is None else payload
        key, certificate = self._certified(identity)
        signature = key.sign(data, ec.ECDSA(hashes.SHA256()))
        spec = {
            "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}},
            "signature": {"content": encoded(signature), "publicKey": {"content": encoded(certificate)}},
        }
        return data, self._annotations("hashedrekord", spec, certificate, signature)

    def attestation(self, subject: Digest, identity: str, predicate: str, *, kind: str = "dsse") -> tuple[bytes, dict[str, str]]:
        """Attest as `identity`; return the layer of an `.att` and its annotations."""
        key, certificate = self._certified(identity)
        payload = statement(subject, predicate=predicate)
        signature = key.sign(pae(payload), ec.ECDSA(hashes.SHA256()))
        envelope = {"payload": encoded(payload), "payloadType": IN_TOTO, "signatures": [{"sig": encoded(signature), "keyid": ""}]}
        data = json.dumps(envelope).encode()
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": encoded(signature), "verifier": encoded(certificate)}],
        }
        return data, self._annotations(kind, spec, certificate, b"") | {"predicateType": predicate}

    def _certified(self, identity: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate: x509.Certificate = self._private.certify(key.public_key(), identity, ISSUER)
        return key, certificate.public_bytes(Encoding.PEM)

    def _annotations(self, kind: str, spec: dict, certificate: bytes, signature: bytes) -> dict[str, str]:
        body = json.dumps({"apiVersion": "0.0.1", "kind": kind, "spec": spec}, sort_keys=True, separators=(",", ":")).encode()
        entry = self._enter(body)
        promised = {key: entry[key] for key in ("body", "integratedTime", "logIndex", "logID")}
        return {
            "dev.cosignproject.cosign/signature": encoded(signature),
            "dev.sigstore.cosign/certificate": certificate.decode(),
            "dev.sigstore.cosign/chain": "".join(c.public_bytes(Encoding.PEM).decode() for c in (self._private.ca, self._private.root)),
            "dev.sigstore.cosign/bundle": json.dumps({"SignedEntryTimestamp": entry["promise"], "Payload": promised}),
        }

    def entry(self, kind: str, spec: dict) -> dict:
        """Enter something; return the entry as Sigstore bundles hold one."""
        self._enter(json.dumps({"apiVersion": "0.0.1", "kind": kind, "spec": spec}, sort_keys=True, separators=(",", ":")).encode())
        entry, proof = self._entries[-1], self._proof(len(self._entries) - 1)
        return {
            "logIndex": str(entry["logIndex"]),
            "logId": {"keyId": encoded(bytes.fromhex(entry["logID"]))},
            "kindVersion": {"kind": kind, "version": "0.0.1"},
            "integratedTime": str(entry["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": entry["promise"]},
            "inclusionProof": {
                "logIndex": str(proof["logIndex"]),
                "rootHash": encoded(bytes.fromhex(proof["rootHash"])),
                "treeSize": str(proof["treeSize"]),
                "hashes": [encoded(bytes.fromhex(part)) for part in proof["hashes"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
            "canonicalizedBody": entry["body"],
        }

    def _enter(self, body: bytes) -> dict:
        self._tree.add(body)
        entry = {
            "body": encoded(body),
            "integratedTime": int(datetime.now(UTC).timestamp()),
            "logID": sha256(public(self._key)).hex(),
            "logIndex": SHARD + len(self._entries),
        }
        signed = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        entry["promise"] = encoded(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        self._entries.append(entry)
        return entry

    def _answer(self, request: httpd.Request) -> tuple[int, dict[str, str], bytes]:
        if request.method == "POST":
            return self._entered(json.loads(request.body))
        place = int(parse_qs(urlsplit(request.path).query)["logIndex"][0]) - SHARD
        if not 0 <= place < len(self._entries):
            return 404, {}, b"{}"
        return 200, {"Content-Type": "application/json"}, self._told(place)

    def _told(self, place: int) -> bytes:
        entry = dict(self._entries[place])
        promise = entry.pop("promise")
        entry |= {"verification": {"inclusionProof": self._proof(place), "signedEntryTimestamp": promise}} | self.changes
        return json.dumps({f"24296fb24b8ad77a{place:064x}": entry}).encode()

    def _entered(self, proposed: dict) -> tuple[int, dict[str, str], bytes]:
        """Enter what a client proposes; of an envelope the log keeps hashes and signatures."""
        spec = proposed["spec"]
        if proposed["kind"] == "dsse":
            envelope = spec["proposedContent"]["envelope"]
            held = json.loads(envelope)
            (verifier,) = spec["proposedContent"]["verifiers"]
            payload = base64.b64decode(held["payload"])
            spec = {
                "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(envelope.encode()).hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                "signatures": [{"signature": signature["sig"], "verifier": verifier} for signature in held["signatures"]],
            }
        body = {"apiVersion": "0.0.1", "kind": proposed["kind"], "spec": spec}
        self._enter(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
        return 201, {"Content-Type": "application/json"}, self._told(len(self._entries) - 1)

    def _proof(self, place: int) -> dict:
        size, root = len(self._tree.leaves), self._tree.root()
        note = f"{ORIGIN}\n{size}\n{encoded(root)}\n"
        hint = sha256(public(self._key))[:4]
        signature = encoded(hint + self._key.sign(note.encode(), ec.ECDSA(hashes.SHA256())))
        return {
            "checkpoint": f"{note}\n\N{EM DASH} {ORIGIN.partition(' ')[0]} {signature}\n",
            "hashes": [part.hex() for part in self._tree.proof(place)],
            "logIndex": place,
            "rootHash": root.hex(),
            "treeSize": size,
        }


@contextlib.contextmanager
def rekor1(private: PrivateSigstore) -> Iterator[Rekor1]:
    """Run a log."""
    with httpd.Server() as server:
        yield Rekor1(private, server)
