"""Every parser that reads bytes from outside, as one function of bytes: for tests that feed it what nobody would write.

A target either returns or raises what its module promises (``refusals``); anything else is a bug. ``seeds`` are valid inputs to start
from. Files a parser wants on disk are given to it as a descriptor in memory or in a folder that is used once.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from cryptography import x509 as standard
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from parts import authority
from parts.sigstore import PrivateSigstore
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from airgap_images import sha512
from airgap_images.bundle import components, listed512, parse_index
from airgap_images.contents import layer as layers
from airgap_images.contents.packages import apk, core_metadata, dpkg, golang, java, npm, os_release, python, rpm
from airgap_images.contents.packages.package import Release, Text
from airgap_images.contents.tar import Tar, pax
from airgap_images.contents.unpack import Budget, pieces
from airgap_images.evidence import Evidence
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest, Index, Manifest, parse_document
from airgap_images.reference import Reference
from airgap_images.remote.mirrors import Mirrors
from airgap_images.wheel_evidence import Attested, WheelEvidence
from audit import journal
from audit.checks import _containers, remote_code, safetensors
from audit.install.receipts import Receipt
from audit.signers import pkcs11_uri
from audit.signers.file import from_private
from audit.verify import oms, published, revocation, slsa, state, succession, timestamps, x509
from audit.verify.published import SLSA
from audit.verify.walk import listed_blobs
from bundler import identity, pylock, timestamp
from manifests import canonical, identities, intent, site, statement
from manifests.errors import AirgapError
from manifests.lock import Lock, parse_model
from manifests.policy import Policy, first_policy, signer_entry

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HEX = "ab" * 32


@dataclass(frozen=True)
class Target:
    """One parser; ``binary`` says that text is not what it reads, so mutations of bytes are worth more."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = (AirgapError,)


def compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@cache
def pem(kind: str) -> str:
    key = mldsa.MLDSA87PrivateKey.generate() if kind == "ml-dsa-87" else ec.generate_private_key(ec.SECP256R1())
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def policy() -> bytes:
    return first_policy("s", {"a": signer_entry(pem("p256"))}, threshold=1, expires=NOW + timedelta(days=1)).to_bytes()


def signature() -> bytes:
    digests = {name: {"sha256": HEX} for name in statement.SUBJECTS}
    times = {"created": NOW, "expires": NOW + timedelta(days=1)}
    said = statement.payload(digests, stream="s", serial=1, previous=HEX, policy_version=1, tool=("t", "1"), **times)
    return statement.Envelope("key", said, b"0" * 70, hint="x").to_bytes()


def chain() -> bytes:
    return statement.Envelope("x509", b"{}", b"0" * 70, chain=(b"0" * 9, b"1" * 9), timestamps=(b"t",)).to_bytes()


def keyless() -> bytes:
    """A keyless signature file in its one form, signed by nobody."""
    text = base64.b64encode(b"0" * 32).decode()
    note = f"log\n1\n{text}\n\n\N{EM DASH} log {text}\n"
    proof = {"logIndex": "0", "rootHash": text, "treeSize": "1", "hashes": [text], "checkpoint": {"envelope": note}}
    entry = {"logIndex": "0", "logId": {"keyId": text}, "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"}, "inclusionProof": proof}
    material = {
        "certificate": {"rawBytes": text}, "tlogEntries": [entry | {"canonicalizedBody": text}],
        "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": text}]},
    }  # fmt: skip
    envelope = {"payload": text, "payloadType": statement.PAYLOAD_TYPE, "signatures": [{"sig": text}]}
    return canonical.compact({"mediaType": statement.SIGSTORE, "verificationMaterial": material, "dsseEnvelope": envelope})


def model_signature(*, sharded: bool = False) -> bytes:
    """A ``model.sig`` over two files, or ranges of one, signed by nobody."""
    names = ("a:0:1", "a:1:2") if sharded else ("a", "b/c")
    terms = {"method": "shards" if sharded else "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    listed = [{"name": name, "algorithm": "sha256", "digest": HEX} for name in names]
    said = statement.encode({"m": {"sha256": HEX}}, oms.PREDICATE, {"serialization": terms, "resources": listed})
    return statement.Envelope("key", said, b"0" * 70, hint="x").to_bytes()


def token() -> bytes:
    return compact({"iss": "https://i", "aud": "sigstore", "sub": "a@b", "exp": 4e9, "nbf": 0, "job_workflow_ref": "o/r/w@f", "kubernetes.io": {}})


def descriptor(**more: object) -> dict:
    return {"mediaType": IMAGE_MANIFEST, "digest": f"sha256:{HEX}", "size": 2} | more


def index() -> bytes:
    named = descriptor(annotations={"airgap.name": "a", "airgap.kind": "path", "airgap.form": "tree"})
    return compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "artifactType": "application/vnd.airgap.bundle.v1+json", "manifests": [named]})


def manifest() -> bytes:
    config = descriptor(mediaType="application/vnd.oci.empty.v1+json")
    return compact({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": config, "layers": [descriptor(mediaType="text/plain")]})


def lock() -> bytes:
    pin = {"path": "a", "url": "https://example.org/a", "size": 1, "sha256": HEX}
    part = {"name": "a", "kind": "path", "form": "tree", "files": [pin], "inline": [{"path": "b", "text": "c"}]}
    return compact({"lockVersion": 1, "name": "n", "stream": "s", "intentSha256": HEX, "components": [part]})


def evidence() -> bytes:
    subject = {"digest": f"sha256:{HEX}", "mediaType": IMAGE_MANIFEST, "size": 1, "role": "image", "platform": "linux/amd64"}
    return compact(
        {"format": "airgap.upstream/v1", "repository": "r/a", "asked": ["x"], "subjects": [subject], "found": [], "completed": [], "notCollected": []}
    )


def provenance() -> bytes:
    """An attestation of a wheel in every part of its form, signed by nobody."""
    stated = {"_type": "https://in-toto.io/Statement/v1", "predicateType": SLSA, "subject": [{"name": "a-1.tar.gz", "digest": {"sha256": HEX}}]}
    entry = {"kindVersion": {"kind": "dsse", "version": "0.0.1"}, "inclusionProof": {"logIndex": "0"}}
    attestation = {
        "version": 1,
        "verification_material": {"certificate": "AAAA", "transparency_entries": [entry]},
        "envelope": {"statement": base64.b64encode(compact(stated)).decode(), "signature": "AAAA"},
    }
    return compact({"version": 1, "attestation_bundles": [{"publisher": {}, "attestations": [attestation]}]})


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a/b", "é" * 120):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, "a/b"
        archive.addfile(link)
    return out.getvalue()


def jar() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nImplementation-Title: a\nImplementation-Version: 1\n")
        archive.writestr("META-INF/maven/g/a/pom.properties", "groupId=g\nartifactId=a\nversion=1\n")
    return out.getvalue()


def tensors() -> bytes:
    return compact({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})


def read_tar(data: bytes) -> None:
    read = Tar(iter([data[at : at + 700] for at in range(0, len(data), 700)]))
    for count, _ in enumerate(read):
        for _piece in read.body():
            pass
        if count > 1000:
            return
    read.drain()


def read_layer(data: bytes) -> None:
    class Nothing:
        def __call__(self, *_: object, **__: object) -> None:
            return None

        wanted = entry = keep = __call__

    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.create(Path(folder))
        digest = layout.put(data)
        layers.read(layout, Descriptor("x", digest, len(data)), Digest.of(data), lambda *_: None, layers.Bounds())


def unpacked(data: bytes) -> None:
    for _ in pieces(io.BytesIO(data), len(data), Budget(1 << 20)):
        pass


def pickles(data: bytes) -> None:
    tuple(_containers.search(io.BytesIO(data)))


def documents(data: bytes) -> None:
    tuple(remote_code.signs(canonical.parse(data, "x", limit=1 << 20, constants=True), "config.json"))


def on_disk(read: Callable[[Path], object], name: str) -> Callable[[bytes], None]:
    """Give a parser of files its file, in a folder used once."""

    def parse(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(data)
            read(Path(folder) / name)

    return parse


def database(read: Callable, path: str) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        tuple(read({path: Text(path, data, HEX)}, Release()))

    return parse


def program(data: bytes) -> None:
    found = golang.program(len(data), data[:16])
    if found is not None:
        found.take(memoryview(data))
    golang.writable(data)
    golang.strings(data, 0)


def mirrors(path: Path) -> None:
    Mirrors.load({"CONTAINERS_REGISTRIES_CONF": str(path)}, path.parent)


def statements(data: bytes) -> None:
    said = statement.Statement.parse(data, "s")
    said.bundle("s")


def certificates(data: bytes) -> None:
    x509.fulcio(data)
    signer = identities.CertificateSigner.model_construct(type="x509", alg="ecdsa-p256-sha256", roots=(), subject="CN=a", san=None, crls=())
    x509.leaf(signer, (data,), NOW)


@cache
def pki() -> tuple[authority.Party, authority.Party, authority.Party, identities.CertificateSigner]:
    """A root, an authority below it, a signer below that, and how a policy names the signer."""
    top = authority.root()
    between = top.below("Office")
    bob = between.signer("bob", san=authority.mail("bob@example.org"))
    return top, between, bob, authority.known(top, bob)


def signers_certificate(data: bytes) -> None:
    _, between, _, named = pki()
    x509.leaf(named, (data, between.der), authority.NOW)


def authoritys_certificate(data: bytes) -> None:
    *_, bob, named = pki()
    x509.leaf(named, (bob.der, data), authority.NOW)


def revocations(data: bytes) -> None:
    top, between, bob, _ = pki()
    revocation.check((bob.own, between.own, top.own), (standard.load_der_x509_crl(data),), authority.NOW)


def lists() -> tuple[bytes, ...]:
    _, between, bob, _ = pki()
    made = (between.crl(), between.crl(revoked=[bob]), between.crl(due=authority.NOW - authority.DAY))
    return tuple(standard.load_pem_x509_crl(text.encode()).public_bytes(Encoding.DER) for text in made)


@cache
def stamps() -> tuple[dict[str, identities.TimestampAuthority], tuple[bytes, ...]]:
    """A timestamp authority that a policy names, and what it says of the signature `s`."""
    made = PrivateSigstore()
    root, own = (certificate.public_bytes(Encoding.PEM).decode() for certificate in (made.tsa_root, made.tsa))
    questions = [TimestampRequestBuilder(b"s", hashed).build().as_bytes() for hashed in (HashAlgorithm.SHA256, HashAlgorithm.SHA512)]
    return {"tsa": identities.TimestampAuthority(roots=(root,), certificate=own)}, tuple(map(made.timestamp, questions))


@cache
def versions() -> tuple[bytes, bytes, bytes]:
    """A policy, the one that follows it, and the signature file of the one person who decides under both."""
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    old = first_policy("s", {"a": signer_entry(text)}, threshold=1, expires=NOW + timedelta(days=1))
    new = old.changed(version=2, previous=Digest.of(old.to_bytes()).hex)
    signed = from_private("a", key).envelope(succession.payload(new.to_bytes(), new))
    return old.to_bytes(), new.to_bytes(), signed.to_bytes()


def stated_provenance(data: bytes) -> None:
    slsa._builder(canonical.parse(data, "x", limit=1 << 20), SimpleNamespace(components=()))  # type: ignore[arg-type]


def told_of(data: bytes) -> None:
    identity.read(f"h.{base64.urlsafe_b64encode(data).decode().rstrip('=')}.s", NOW)


def registries(path: Path) -> None:
    Mirrors.load({"CONTAINERS_REGISTRIES_CONF": str(path)}, path.parent, path.parent / "etc")


TARGETS: dict[str, Target] = {
    "json": Target(lambda raw: canonical.parse(raw, "x", limit=1 << 20), (b'{"a":[1,2.5,null,"\\u00e9"]}',)),
    "policy": Target(Policy.parse, (policy(),)),
    "lock": Target(lambda raw: Lock.parse(raw, "x"), (lock(),)),
    "signature file": Target(lambda raw: statement.Envelope.parse(raw, "x"), (signature(), chain(), keyless())),
    "statement": Target(statements, (statement.Envelope.parse(signature(), "x").payload,)),
    "bundle.yaml": Target(
        on_disk(intent.load, "bundle.yaml"),
        (b"apiVersion: airgap/v1\nname: n\nstream: s\ncomponents:\n  - {name: a, kind: path, path: ./x}\n", b"a: &x [1]\nb: *x\n"),
    ),
    "site.yaml": Target(on_disk(site.load, "site.yaml"), (b"store: /s\nengine: docker\n",)),
    "index.json": Target(lambda raw: components(parse_index(raw)), (index(),)),
    "oci index": Target(lambda raw: Index.parse(raw, "x"), (index(),)),
    "oci manifest": Target(lambda raw: Manifest.parse(raw, "x"), (manifest(),)),
    "oci document": Target(lambda raw: parse_document(Descriptor(IMAGE_MANIFEST, Digest.of(raw), len(raw)), raw), (manifest(),)),
    "SHA256SUMS": Target(listed_blobs, (f"{HEX}  blobs/sha256/{HEX}\n{HEX}  index.json\n".encode(),)),
    "SHA512SUMS": Target(sha512.decode, (sha512.encode({"index.json": "ab" * 64, f"blobs/sha256/{HEX}": "cd" * 64}),)),
    "SHA512SUMS of a bundle": Target(lambda raw: listed512(raw, b"", ()), (sha512.encode({"index.json": sha512.of(b""), "oci-layout": "ab" * 64}),)),
    "model.sig": Target(lambda raw: oms.parse(raw, "x"), (model_signature(), model_signature(sharded=True))),
    "state": Target(
        lambda raw: parse_model(state.State, canonical.parse(raw, "x", limit=1 << 20), "x", "y"),
        (compact({"stateVersion": 2, "streams": {"s": {"serial": 1, "root": HEX, "lastSeen": "2026-11-24T12:00:00Z", "policyVersion": 1}}}),),
    ),
    "next policy": Target(lambda raw: succession.succeed(versions()[0], raw, (("a", versions()[2]),), NOW), versions()[1:2]),
    "signature of a policy": Target(lambda raw: succession.succeed(*versions()[:2], (("a", raw),), NOW), versions()[2:]),
    "provenance of a bundle": Target(
        stated_provenance,
        (compact({"predicateType": SLSA, "subject": [], "predicate": {"runDetails": {"builder": {"id": "b"}}}}),),
        (AirgapError, KeyError, TypeError, ValueError, AttributeError),  # what `claim` takes for a reason
    ),
    "PKCS#11 URI": Target(
        lambda raw: pkcs11_uri.parse(raw.decode("utf-8", "replace")),
        (b"token=a%20b;object=c;id=%01;slot-id=7?module-path=/usr/lib/x.so&pin-source=file:/a&x-public-key=file:b",),
    ),
    "identity token": Target(lambda raw: identity.read(raw.decode("utf-8", "replace"), NOW), (b"aGVhZA." + base64.b64encode(token()).rstrip(b"=") + b".c2ln",)),
    "claims of a token": Target(told_of, (token(),)),
    "upstream.json": Target(lambda raw: Evidence.parse(raw, "x"), (evidence(),)),
    "provenance of a wheel": Target(lambda raw: [published.published(one, "x") for one in published.attestations(raw, "x")], (provenance(),)),
    "listing of wheels": Target(
        lambda raw: WheelEvidence.parse(raw, "x"),
        (WheelEvidence("a", (Attested("a.whl", HEX, f"provenance/{HEX}.json"),), (("none", ("b.whl",)),)).to_text().encode(),),
    ),
    "name of a wheel": Target(lambda raw: published.distribution(raw.decode("utf-8", "replace")), (b"a_b-1.0-1-py3-none-any.whl", b"a-1.tar.gz")),
    "reference": Target(lambda raw: Reference.parse(raw.decode("utf-8", "replace")), (b"docker.io/library/a:1@sha256:" + HEX.encode(),)),
    "tar": Target(read_tar, (tar(),), (AirgapError, ValueError)),
    "pax": Target(pax, (b"30 mtime=1350244992.023960108\n9 path=a\n",)),
    "packed layer": Target(unpacked, (gzip.compress(tar(), mtime=0), tar())),
    "pickle search": Target(pickles, (b"\x80\x04K\x01.", tar(), jar(), gzip.compress(b"\x80\x04K\x01.", mtime=0))),
    "model configuration": Target(documents, (b'{"auto_map":{"A":"m.B"},"x":[{"_target_":"os.system"}]}',)),
    "safetensors header": Target(lambda raw: tuple(safetensors.header_names(raw, 8)), (tensors(),), (ValueError,)),
    "dpkg": Target(database(dpkg.packages, "var/lib/dpkg/status"), (b"Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n",)),
    "apk": Target(database(apk.packages, "lib/apk/db/installed"), (b"P:a\nV:1\nA:x86_64\nF:usr\nR:b\n\n",)),
    "rpm": Target(database(rpm.packages, "var/lib/rpm/rpmdb.sqlite"), (b"SQLite format 3\0" + bytes(84),)),
    "rpm header": Target(rpm.header, (struct.pack(">II", 1, 4) + struct.pack(">IIII", 1000, 6, 0, 1) + b"abc\0",), (ValueError, LookupError, struct.error)),
    "npm": Target(database(npm.packages, "a/node_modules/b/package.json"), (b'{"name":"b","version":"1","license":"MIT"}',)),
    "python metadata": Target(database(python.packages, "a/b-1.dist-info/METADATA"), (b"Metadata-Version: 2.1\nName: b\nVersion: 1\n\nx\n",)),
    "core metadata": Target(lambda raw: core_metadata.parse(raw.decode("utf-8", "replace")), (b"Name: b\nVersion: 1\nLicense: MIT\n",)),
    "os-release": Target(lambda raw: os_release.release(Text("etc/os-release", raw, HEX)), (b'ID=debian\nVERSION_ID="12"\n',)),
    "jar": Target(lambda raw: java.read(raw, "a.jar"), (jar(),)),
    "go program": Target(program, (b"\x7fELF\x02\x01" + bytes(200) + b"\xff Go buildinf:\x08\x02" + bytes(40),)),
    "journal line": Target(lambda raw: journal._parse(raw, 1, "0" * 64), (b"{}\n",)),
    "receipt": Target(lambda raw: Receipt.parse(raw, "x"), (b"{}",)),
    "pylock": Target(lambda raw: pylock.parse(raw, "x"), (b'lock-version = "1.0"\n[[packages]]\nname = "a"\nversion = "1"\n',)),
    "registries.conf": Target(on_disk(mirrors, "registries.conf"), (b'[[registry]]\nprefix = "a"\nlocation = "b"\n',)),
    "certificate": Target(certificates, (b"0\x82\x01\x00",), (ValueError,)),
    "certificate of a signer": Target(signers_certificate, (pki()[2].der,), (ValueError,)),
    "certificate of an authority": Target(authoritys_certificate, (pki()[1].der, pki()[0].der), (ValueError,)),
    "revocation list": Target(revocations, lists(), x509._UNREADABLE),  # what `leaf` takes for a reason
    "public key": Target(lambda raw: signer_entry(raw.decode("utf-8", "replace")), (pem("p256").encode(),), (ValueError,)),
    "timestamp": Target(lambda raw: timestamps.earliest(stamps()[0], (raw,), b"s", NOW), (b"0\x03\x02\x01\x00", *stamps()[1])),
    "answer of a timestamp authority": Target(timestamp._ordered, stamps()[1]),
}
