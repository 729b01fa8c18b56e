"""Images with what upstream says of them, in every shape there is, as a bundle carries them: for tests of who is believed.

    carried = Carried(tmp_path)                      # docker.io/vllm/tool, one manifest
    carried.tag_signature(carried.only, VENDOR)      # as `cosign sign --key` leaves it
    carried.verdict(policy(VENDOR))
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from airgap_images.bundle import IMAGE, Component, TreeFile, component_descriptor, write_tree
from airgap_images.evidence import Completed, Evidence, Found, Subject, completed_path, tag
from airgap_images.layout import Layout
from airgap_images.oci import EMPTY_JSON, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from audit.verify.claims import DSSE, IN_TOTO, SIGN, SIMPLE
from audit.verify.keyless import judge
from audit.verify.upstream import assess
from audit.verify.verdict import Judge, Verdict
from manifests import canonical
from manifests.policy import Policy, first_policy, signer_entry
from manifests.upstream import key_entry

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
CONFIG, LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"
NAME = "docker.io/vllm/tool"
PROVENANCE = "https://slsa.dev/provenance/v1"
EXPIRES = datetime(2099, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Key:
    """Someone upstream with a key; signs as cosign does."""

    name: str
    private: Any
    algorithm: str

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        used = hashes.SHA384() if self.algorithm.endswith("384") else hashes.SHA256()
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(message, padding.PKCS1v15(), used)
        return self.private.sign(message, ec.ECDSA(used))

    @property
    def pem(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    @property
    def entry(self) -> dict[str, str]:
        return key_entry(self.pem, self.algorithm)


VENDOR = Key("vendor", ec.generate_private_key(ec.SECP256R1()), "ecdsa-p256-sha256")
OTHER = Key("other", ec.generate_private_key(ec.SECP256R1()), "ecdsa-p256-sha256")
KEYS = {
    key.algorithm: key
    for key in (
        VENDOR,
        Key("p384", ec.generate_private_key(ec.SECP384R1()), "ecdsa-p384-sha384"),
        Key("p384-cosign2", ec.generate_private_key(ec.SECP384R1()), "ecdsa-p384-sha256"),
        Key("ed", ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        Key("rsa", rsa.generate_private_key(65537, 2048), "rsa-pkcs1v15-sha256"),
    )
}


@dataclass(frozen=True)
class Person:
    """Someone upstream with an identity at an issuer, as a private Sigstore certifies it."""

    name: str
    identity: str
    issuer: str
    root: dict

    @property
    def entry(self) -> dict[str, str]:
        return {"type": "sigstore", "identity": self.identity, "issuer": self.issuer, "trusted_root": f"{self.name}-root"}


def policy(*signers: Key | Person, match: str = "docker.io/vllm/*", attestations: tuple[tuple[str, tuple[str, ...]], ...] = (), **more: Any) -> Policy:
    """Return a policy with one rule: signed by one of ``signers``. ``more`` replaces parts of the section."""
    roots = {f"{signer.name}-root": signer.root for signer in signers if isinstance(signer, Person)}
    wanted = [{"predicate": predicate, "by": list(by)} for predicate, by in attestations]
    rule = {"match": match, "signed_by": [signer.name for signer in signers], "attestations": wanted}
    section = {"identities": {s.name: s.entry for s in signers}, "images": [rule]}
    return site_policy(section | more, roots)


def site_policy(section: dict | None = None, roots: dict | None = None) -> Policy:
    made = first_policy("s", {"alice": signer_entry(OTHER.pem)}, threshold=1, expires=EXPIRES)
    return made.changed(upstream=section or {}, trusted_roots=roots or {})


def simple(digest: Digest, *, kind: str = "cosign container image signature", name: str = NAME) -> bytes:
    image = {"docker-manifest-digest": str(digest)}
    critical = {"identity": {"docker-reference": name}, "image": image, "type": kind}
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def statement(*digests: Digest, predicate: str = SIGN, version: str = "v1") -> bytes:
    subjects = [{"name": NAME, "digest": {"sha256": digest.hex}} for digest in digests]
    return json.dumps({"_type": f"https://in-toto.io/Statement/{version}", "subject": subjects, "predicateType": predicate, "predicate": {}}).encode()


def pae(payload: bytes) -> bytes:
    return f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def envelope(payload: bytes, key: Key) -> dict:
    return {"payload": text(payload), "payloadType": IN_TOTO, "signatures": [{"sig": text(key.sign(pae(payload))), "keyid": ""}]}


def bundle(content: dict, **material: Any) -> bytes:
    """Return a Sigstore bundle with a plain key's hint, or with the material given."""
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": material or {"publicKey": {"hint": "x"}}} | content).encode()


def message_signature(data: bytes, key: Key) -> dict:
    digest = {"algorithm": "SHA2_256", "digest": text(hashlib.sha256(data).digest())}
    return {"messageSignature": {"messageDigest": digest, "signature": text(key.sign(data))}}


@dataclass(frozen=True)
class Part:
    """A layer of a manifest of evidence."""

    media_type: str
    data: bytes
    annotations: tuple[tuple[str, str], ...] = ()
    completed: bytes | None = None


@dataclass
class Carried:
    """A bundle's layout with one image of ``NAME`` for each platform, and the evidence that is put beside it.

    With ``indexed`` the image was found in an upstream index, which also lists ``elsewhere``, a platform that is not carried.
    """

    folder: Path
    platforms: tuple[str, ...] = ("linux/amd64",)
    indexed: bool = False
    ref: str = f"{NAME}:1"
    not_collected: tuple[tuple[str, str], ...] = ()
    found: list[Found] = field(default_factory=list)
    completed: list[Completed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout = Layout.create(self.folder)
        self.files: dict[str, bytes] = {}
        self.manifests = tuple(self._image(platform) for platform in self.platforms)
        self.elsewhere = self._image("linux/s390x")
        body = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [m.to_dict() for m in (*self.manifests, self.elsewhere)]}
        self.index_raw = canonical.compact(body)
        self.index = Digest.of(self.index_raw)

    @property
    def only(self) -> Digest:
        (manifest,) = self.manifests
        return manifest.digest

    def raw(self, digest: Digest) -> bytes:
        return self.index_raw if digest == self.index else self.layout.path(digest).read_bytes()

    def _image(self, platform: str) -> Descriptor:
        config, layer = canonical.compact({"platform": platform}), platform.encode()
        body = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "config": Descriptor(CONFIG, self.layout.put(config), len(config)).to_dict(),
            "layers": [Descriptor(LAYER, self.layout.put(layer), len(layer)).to_dict()],
        }
        raw = canonical.compact(body)
        system, architecture = platform.split("/")
        return Descriptor(IMAGE_MANIFEST, self.layout.put(raw), len(raw), platform=(("architecture", architecture), ("os", system)))

    # What is put beside it

    def add(self, kind: str, shape: str, subject: Digest, *parts: Part, artifact: str | None = None, suffix: str = "sig") -> Digest:
        config = b"{}"
        layers = [Descriptor(part.media_type, self._blob(part.data), len(part.data), part.annotations).to_dict() for part in parts]
        body = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "config": Descriptor(EMPTY_JSON, self._blob(config), len(config)).to_dict(),
            "layers": layers,
        }
        raw = canonical.compact(body | ({"artifactType": artifact} if artifact else {}))
        digest = Digest.of(raw)
        self.files[f"manifests/{digest.hex}"] = raw
        self.found.append(
            Found(kind, shape, tag(subject, suffix) if shape == "tag" else None, subject, Descriptor(IMAGE_MANIFEST, digest, len(raw), artifact_type=artifact))
        )
        for part in parts:
            if part.completed is not None:
                file = completed_path(Digest.of(part.data), sum(c.layer == Digest.of(part.data) for c in self.completed))
                self.completed.append(Completed(digest, Digest.of(part.data), file))
                self.files[file] = part.completed
        return digest

    def _blob(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        self.files[f"blobs/{digest.hex}"] = data
        return digest

    def tag_signature(self, subject: Digest, key: Key, payload: bytes | None = None, **changes: str) -> Digest:
        payload = simple(subject) if payload is None else payload
        annotations = {"dev.cosignproject.cosign/signature": text(key.sign(payload))} | changes
        return self.add("signature", "tag", subject, Part(SIMPLE, payload, tuple(sorted(annotations.items()))))

    def tag_attestation(self, subject: Digest, key: Key, predicate: str = PROVENANCE, **changes: Any) -> Digest:
        data = json.dumps(envelope(statement(subject, predicate=predicate, version="v0.1"), key) | changes).encode()
        note = (("dev.cosignproject.cosign/signature", ""), ("predicateType", predicate))
        return self.add("attestation", "tag", subject, Part(DSSE, data, note), suffix="att")

    def referrer(self, subject: Digest, raw: bytes, kind: str = "signature") -> Digest:
        return self.add(kind, "referrer", subject, Part(BUNDLE, raw), artifact=BUNDLE)

    def signature(self, subject: Digest, key: Key) -> Digest:
        return self.referrer(subject, bundle({"dsseEnvelope": envelope(statement(subject), key)}))

    def attestation(self, subject: Digest, key: Key, predicate: str = PROVENANCE) -> Digest:
        return self.referrer(subject, bundle({"dsseEnvelope": envelope(statement(subject, predicate=predicate), key)}), "attestation")

    # What comes of it

    def components(self, *, evidence: bool = True) -> tuple[Component, ...]:
        root = self.manifests[0]
        if len(self.manifests) > 1:
            body = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "artifactType": IMAGE, "manifests": [m.to_dict() for m in self.manifests]}
            raw = canonical.compact(body)
            root = Descriptor(IMAGE_INDEX, self.layout.put(raw), len(raw), artifact_type=IMAGE)
        named = component_descriptor(root, name="tool", kind="image", form="image", facts={"ref": self.ref, "reference": self.ref})
        image = Component("tool", "image", "image", None, named)
        return (image, self._tree()) if evidence else (image,)

    def listing(self) -> Evidence:
        subjects = [Subject(m.digest, m.media_type, m.size, "image", "linux/amd64") for m in self.manifests]
        if self.indexed:
            subjects.append(Subject(self.index, IMAGE_INDEX, len(self.index_raw), "index", ""))
        repository = self.ref.rpartition(":")[0]
        return Evidence(repository, (), tuple(subjects), tuple(self.found), tuple(self.completed), self.not_collected)

    def _tree(self) -> Component:
        evidence = self.listing()
        held = {f"manifests/{s.digest.hex}": self.raw(s.digest) for s in evidence.subjects} | self.files
        held["upstream.json"] = evidence.to_text().encode()
        files = [TreeFile(path, self.layout.put(data), len(data)) for path, data in held.items()]
        root = component_descriptor(write_tree(self.layout, files), name="tool.upstream", kind="image", form="tree")
        return Component("tool.upstream", "image", "tree", None, root)

    def verdict(self, believed: Policy, judge: Judge = judge, *, evidence: bool = True) -> Verdict:
        (found,) = assess(self.layout, self.components(evidence=evidence), believed, judge)
        return found
