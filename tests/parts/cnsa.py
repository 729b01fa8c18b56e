"""Bundles of profile cnsa for tests: keys of both algorithms, ``SHA512SUMS`` hashed here and not by the product."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

from parts import bundles
from parts.bundles import NOW, STREAM, Site

from airgap_images.oci import Digest
from audit.signers import file as key_files
from manifests import statement
from manifests.policy import first_policy, signer_entry

KINDS: dict[str, key_files.Kind] = {"alice": "p384", "bob": "ml-dsa-87"}
TREES = {"docs": {"README.md": b"# hello\n", "a/b.txt": b"text\n"}, "data": {"weights.bin": bytes(range(256)) * 40}}


def site(folder: Path, *, threshold: int = 1) -> Site:
    """Make a P-384 key of alice, an ML-DSA-87 key of bob, and a policy of profile cnsa that names both."""
    signers = {name: signer_entry(key_files.make(name, folder, kind=kind, passphrase=None)[1].read_text()) for name, kind in KINDS.items()}
    return Site(folder, first_policy(STREAM, signers, threshold=threshold, expires=NOW + timedelta(days=365), profile="cnsa"))


def sums(folder: Path) -> dict[str, str]:
    """Return the sha512 (hex) of every file that ``SHA512SUMS`` must list."""
    found = [folder / "index.json", folder / "oci-layout", *(folder / "blobs/sha256").iterdir()]
    return {str(path.relative_to(folder)): hashlib.sha512(path.read_bytes()).hexdigest() for path in found}


def text(values: dict[str, str]) -> bytes:
    return "".join(f"{value}  {name}\n" for name, value in sorted(values.items())).encode()


def made(folder: Path, trees: dict[str, dict[str, bytes]] | None = None) -> Path:
    """Write an unsigned bundle with its ``SHA512SUMS``."""
    bundles.layout(folder, trees or TREES)
    (folder / "SHA512SUMS").write_bytes(text(sums(folder)))
    return folder


def sign_anyway(folder: Path, who: Site, *names: str) -> Path:
    """Sign whatever lies there, as signers without this tool's care would."""
    listed = [name for name in ("index.json", "SHA256SUMS", "SHA512SUMS") if (folder / name).exists()]
    twice = "SHA512SUMS" in listed
    subjects = {name: digests((folder / name).read_bytes(), twice=twice) for name in listed}
    said = statement.payload(
        subjects, stream=STREAM, serial=1, created=NOW, expires=NOW + timedelta(days=9), previous=None, policy_version=None, tool=("x", "1")
    )
    (folder / "signatures").mkdir(exist_ok=True)
    for name in names or KINDS:
        (folder / "signatures" / f"{name}{statement.SUFFIX}").write_bytes(who.key(name).envelope(said).to_bytes())
    return folder


def digests(raw: bytes, *, twice: bool) -> dict[str, str]:
    return {"sha256": Digest.of(raw).hex} | ({"sha512": hashlib.sha512(raw).hexdigest()} if twice else {})


def bytes_read() -> int:
    """Return how many bytes this process has read from files so far, as the kernel counts them."""
    return int(next(line.split()[1] for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar:")))
