"""Publishers whose attestations a package index serves (PEP 740), certified by the private Sigstore and entered in its older log.

    with private_sigstore() as private, rekor1(private) as log:
        publisher = Publisher(private, log)
        index.attest("app-1.0-py3-none-any.whl", provenance(publisher.attest("app-1.0-py3-none-any.whl", wheel)))

Such attestations have no timestamps, so their time is the log's promise: Rekor v1, as the public index's are.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from parts.images import CACHE
from parts.rekor1 import Rekor1
from parts.sigstore import ISSUER, PrivateSigstore, encoded
from parts.upstream import IN_TOTO, pae, site_policy

from audit.verify.published import PUBLISH
from manifests.policy import Policy

REPOSITORY = "https://git.example.test/org/app"
WORKFLOW = f"{REPOSITORY}/.ci/release.yml@refs/tags/1.0"
LIBRARY = "pypi-attestations==0.0.30"


@dataclass(frozen=True)
class Publisher:
    """A workflow of a repository that publishes to an index."""

    private: PrivateSigstore
    log: Rekor1
    repository: str = REPOSITORY
    identity: str = WORKFLOW
    issuer: str = ISSUER

    def attest(self, name: str, data: bytes, **changes: Any) -> dict:
        """Return an attestation of a file; `changes` are fields of its statement."""
        subject = [{"name": name, "digest": {"sha256": hashlib.sha256(data).hexdigest()}}]
        value = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": PUBLISH, "predicate": None}
        return self.sign(json.dumps(value | changes, separators=(",", ":")).encode())

    def sign(self, statement: bytes) -> dict:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.private.certify(key.public_key(), self.identity, self.issuer, self.repository)
        signature = key.sign(pae(statement), ec.ECDSA(hashes.SHA256()))
        pem = encoded(certificate.public_bytes(Encoding.PEM))
        envelope = {"payload": encoded(statement), "payloadType": IN_TOTO, "signatures": [{"sig": encoded(signature), "keyid": ""}]}
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(json.dumps(envelope).encode()).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()},
            "signatures": [{"signature": encoded(signature), "verifier": pem}],
        }
        return {
            "version": 1,
            "verification_material": {
                "certificate": encoded(certificate.public_bytes(Encoding.DER)),
                "transparency_entries": [self.log.entry("dsse", spec)],
            },
            "envelope": {"statement": encoded(statement), "signature": encoded(signature)},
        }


def provenance(*attestations: Any, publisher: dict | None = None) -> bytes:
    """Return a provenance file; what it says of its publisher is signed by nobody."""
    said = publisher or {"kind": "GitHub", "repository": "org/app", "workflow": "release.yml", "environment": None}
    return json.dumps({"version": 1, "attestation_bundles": [{"publisher": said, "attestations": list(attestations)}]}).encode()


def statement(attestation: dict) -> dict:
    """Return what an attestation states."""
    return json.loads(base64.b64decode(attestation["envelope"]["statement"]))


def policy(root: dict, *matches: str, signers: dict[str, dict] | None = None, gates: dict | None = None) -> Policy:
    """Return a policy with one rule for each pattern, all by the same `signers`: the repository above unless others are given."""
    identities = signers or {"publisher": who()}
    rules = [{"match": match, "signed_by": sorted(identities)} for match in matches or ("app",)]
    made = site_policy({"identities": identities, "wheels": rules}, {"root": root})
    return made.changed(gates=gates) if gates else made


def who(repository: str | None = REPOSITORY, *, identity: str | None = None, issuer: str = ISSUER, root: str = "root") -> dict:
    """Return the policy's entry of a publisher."""
    named = {"identity": identity} if identity else {"repository": repository}
    return {"type": "sigstore", **named, "issuer": issuer, "trusted_root": root}


@cache
def library() -> Path:
    """Give the folder of the reference implementation, installed from the package index beside this environment's own sigstore."""
    uv = ("uv", "pip", "install", "--no-deps", "--only-binary", ":all:", "--python", sys.executable, "--target")
    return _made(LIBRARY.replace("==", "-"), lambda home: _run(*uv, home, LIBRARY, "pyasn1"))


@cache
def assets() -> Path:
    """Give the folder of real attestations and files that the reference implementation's own tests use, from its source archive."""

    def unpack(home: Path) -> None:
        _run("pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", home, LIBRARY)
        subprocess.run(["tar", "-xzf", next(home.glob("*.tar.gz")), "-C", home, "--strip-components", "1"], check=True)

    return _made(LIBRARY.replace("==", "-") + "-source", unpack) / "test" / "assets"


def _made(name: str, make: Callable[[Path], object]) -> Path:
    home = CACHE / name
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            part = CACHE / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.rename(home)
    return home


def _run(program: str, *arguments: str | Path) -> None:
    command = [Path(sys.executable).parent / program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
