"""OpenSSF Model Signing v1.0: which files a model is, the statement over them, and ``model.sig`` as others write it. Bytes in, values out.

A model is a folder: of a tree in the form of the Hugging Face cache the one snapshot, else the tree itself. Rules: a file that others
wrote is hostile; its JSON is strict and bounded, base64 has one form, paths stay below the model, and no file is listed twice.
Source: github.com/ossf/model-signing-spec, ``spec/v1.0.md``; the numbers of its sections stand at what follows them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from airgap_images.bundle import Component, TreeFile, tree_files
from airgap_images.layout import Layout
from airgap_images.oci import Digest
from audit.verify.claims import UnknownShapeError
from manifests import canonical, statement
from manifests.errors import AirgapError, IntegrityError, InvalidFileError
from manifests.paths import check_relative, printable
from manifests.publickey import PublicKey
from manifests.statement import MAX_CHAIN, MAX_TIMESTAMPS, PAYLOAD_TYPE, SIGSTORE, STATEMENT, Envelope

KINDS = frozenset({"huggingface", "model"})  # of components that are models
FILE = "model.sig"
PREDICATE = "https://model_signing/signature/v1.0"
OLDER = "https://model_signing/Digests/v0.1"
LEFT_OUT = (".git", ".gitattributes", ".github", ".gitignore")  # section 6.2: at the top of the model
ALGORITHMS = frozenset({"ecdsa-p256-sha256", "ecdsa-p384-sha384"})  # of those a bundle is signed with, what its verifiers know
DIGESTS = {"sha256": 64, "blake2b": 128}  # hash types that can be recomputed here, with the length of their hex

MAX_FILE = 32 << 20  # bytes of one model.sig; 100,000 files of 60 characters each have some 27 MB
MAX_RESOURCES = 200_000
_SNAPSHOT = re.compile(r"(models--[^/]+)/snapshots/[0-9a-f]{40}/")
_RANGE = re.compile(r"(.+):(0|[1-9][0-9]{0,14}):([1-9][0-9]{0,14})", re.DOTALL)  # section 6.3.2: the last two numbers
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_SIGN_AGAIN = "ask whoever signed the model for a signature of OpenSSF Model Signing v1.0, or judge it by hand"
_DISTRUST = "do not use this model; ask who published it"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is carried: ``files`` by their path in ``folder``; ``others`` are paths of the tree that are neither in it nor ours."""

    component: str
    folder: str
    files: tuple[TreeFile, ...]
    others: tuple[str, ...] = ()

    @property
    def signature(self) -> TreeFile | None:
        """Return the ``model.sig`` that came with the model."""
        return next((file for file in self.files if file.path == FILE), None)


@dataclass(frozen=True, slots=True)
class Resource:
    """What is stated of one file, or of its bytes from ``start`` up to ``end``; ``end`` is None for all of them."""

    path: str
    digest: str
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a signature states: each file's digest by ``algorithm``; ``sound`` says whether the sum over them is the stated one."""

    root: Digest
    algorithm: str
    sharded: bool
    resources: tuple[Resource, ...]
    sound: bool


@dataclass(frozen=True, slots=True)
class ModelSig:
    """A ``model.sig``, taken apart and not believed."""

    envelope: Envelope
    listing: Listing


def is_model(component: Component) -> bool:
    """Say whether a component is a model, whose files such a signature can be over."""
    return component.form == "tree" and component.kind in KINDS


def model(layout: Layout, component: Component) -> Model:
    """Return the model's own files; raises IntegrityError if it is not clear which those are."""
    files = tuple(tree_files(layout, component.root))
    folders = {found[0] for file in files if (found := _SNAPSHOT.match(file.path))}
    if component.kind != "huggingface" or not folders:
        return Model(component.name, "", files)
    if len(folders) > 1:
        raise IntegrityError(f"{component.name}: holds {len(folders)} snapshots, one is expected", hint="lock again")
    (folder,) = folders
    home = folder.partition("/")[0]
    inside = tuple(TreeFile(file.path.removeprefix(folder), file.digest, file.size) for file in files if file.path.startswith(folder))
    others = (file.path for file in files if not file.path.startswith((folder, f"{home}/refs/", f"{home}/trees/")))
    return Model(component.name, folder.rstrip("/"), inside, tuple(others))


def payload(found: Model) -> bytes:
    """Return the statement over a model from the digests that are known, in its one encoding (sections 5 and 6).

    Raises IntegrityError if nothing of the model can be stated. A ``model.sig`` that came with the model is a file like others.
    """
    files = sorted((file for file in found.files if file.path.partition("/")[0] not in LEFT_OUT), key=lambda file: file.path)
    if not files:
        raise IntegrityError(f"{found.component}: has no file that a model signature can be over", hint="sign with --no-models")
    root = hashlib.sha256(b"".join(bytes.fromhex(file.digest.hex) for file in files)).hexdigest()
    predicate = {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(LEFT_OUT)},
        "resources": [{"name": file.path, "algorithm": "sha256", "digest": file.digest.hex} for file in files],
    }
    return statement.encode({found.component: {"sha256": root}}, PREDICATE, predicate)


def hint(key: PublicKey) -> str:
    """Return how this format names a key: the sha256 (hex) of its PEM text."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def parse(raw: bytes, what: str) -> ModelSig:
    """Parse a hostile ``model.sig``.

    Raises UnknownShapeError for what may be good and cannot be judged here, InvalidFileError for what is no such signature.
    """
    value = canonical.parse(raw, what, limit=MAX_FILE)
    kind = value.get("mediaType") if isinstance(value, dict) else None
    if kind != SIGSTORE:
        raise _unknown(f"{what}: not a Sigstore bundle v0.3 but {printable(str(kind), 80)}")
    if "messageSignature" in value:
        raise _unknown(f"{what}: a signature over bytes, not over a statement of files")
    _keys(value, {"mediaType", "verificationMaterial", "dsseEnvelope"}, what)
    envelope = _envelope(value, what)
    return ModelSig(envelope, _listing(envelope.payload, what))


def _envelope(value: dict[str, Any], what: str) -> Envelope:
    signed, material = value["dsseEnvelope"], value["verificationMaterial"]
    _keys(signed, {"payload", "payloadType", "signatures"}, what)
    signatures = signed["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise _broken(f"{what}: not exactly one signature in its envelope")
    _keys(signatures[0], {"sig"}, what, {"keyid"})  # section 4.1: not used
    if signed["payloadType"] != PAYLOAD_TYPE:
        raise _broken(f"{what}: payload type {printable(str(signed['payloadType']), 80)!r}, expected {PAYLOAD_TYPE}")
    content, signature = _base64(signed["payload"], what), _base64(signatures[0]["sig"], what)
    holders = {"publicKey", "certificate", "x509CertificateChain"}
    _keys(material, set(), what, {*holders, "tlogEntries", "timestampVerificationData"})
    named = holders & material.keys()
    if len(named) != 1:
        raise _broken(f"{what}: not exactly one of key and certificate in it")
    stamps = _timestamps(material, what)
    match named.pop():
        case "publicKey":  # which key signed is tried, never read
            return Envelope("key", content, signature, timestamps=stamps)
        case "x509CertificateChain":
            return Envelope("x509", content, signature, chain=_chain(material["x509CertificateChain"], what), timestamps=stamps)
        case _:
            return Envelope("sigstore", content, signature, raw=canonical.compact(value))


def _chain(value: Any, what: str) -> tuple[bytes, ...]:
    _keys(value, {"certificates"}, what)
    listed = value["certificates"]
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_CHAIN:
        raise _broken(f"{what}: not a chain of 1 to {MAX_CHAIN} certificates")
    return tuple(_base64(part["rawBytes"] if isinstance(part, dict) and set(part) == {"rawBytes"} else None, what) for part in listed)


def _timestamps(material: dict[str, Any], what: str) -> tuple[bytes, ...]:
    held = material.get("timestampVerificationData") or {}
    listed = held.get("rfc3161Timestamps", []) if isinstance(held, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_TIMESTAMPS:
        raise _broken(f"{what}: not a list of at most {MAX_TIMESTAMPS} timestamps")
    return tuple(_base64(part.get("signedTimestamp") if isinstance(part, dict) else None, what) for part in listed)


def _listing(raw: bytes, what: str) -> Listing:
    value = canonical.parse(raw, f"{what}: statement", limit=MAX_FILE)
    if not isinstance(value, dict) or value.get("_type") != STATEMENT:
        raise _broken(f"{what}: not an in-toto statement v1")
    kind = value.get("predicateType")
    if kind != PREDICATE:
        form = "the older form v0.1" if kind == OLDER else printable(str(kind), 80)
        raise _unknown(f"{what}: states {form}, expected {PREDICATE}")
    predicate = value.get("predicate")
    resources, terms = (predicate.get("resources"), predicate.get("serialization")) if isinstance(predicate, dict) else (None, None)
    if not isinstance(terms, dict) or not isinstance(resources, list) or not 0 < len(resources) <= MAX_RESOURCES:
        raise _broken(f"{what}: lists no files, or more than {MAX_RESOURCES}, or does not say how they are listed")
    algorithm, sharded = _terms(terms, what)
    listed = tuple(_resource(entry, algorithm, what, sharded=sharded) for entry in resources)
    if len({(entry.path, entry.start) for entry in listed}) != len(listed):
        raise _broken(f"{what}: lists a file twice")
    root = _root(value.get("subject"), what)
    summed = hashlib.sha256(b"".join(bytes.fromhex(entry.digest) for entry in listed)).hexdigest()  # section 6.5.1
    return Listing(root, algorithm, sharded, listed, summed == root.hex)


def _terms(terms: dict[str, Any], what: str) -> tuple[str, bool]:
    method, algorithm = terms.get("method"), terms.get("hash_type")
    if not isinstance(terms.get("allow_symlinks"), bool) or not isinstance(algorithm, str):
        raise _broken(f"{what}: does not say how files are hashed and whether links are followed")
    if method not in ("files", "shards"):  # it may be of any type
        raise _unknown(f"{what}: files are listed by the method {printable(str(method), 40)}, which this version does not know")
    return algorithm, method == "shards"


def _resource(entry: Any, algorithm: str, what: str, *, sharded: bool) -> Resource:
    name, digest, by = (entry.get(key) for key in ("name", "digest", "algorithm")) if isinstance(entry, dict) else (None, None, None)
    if not isinstance(name, str) or not isinstance(digest, str) or by != algorithm:
        raise _broken(f"{what}: a file without name or digest, or by another algorithm than the others")
    if not _HEX.fullmatch(digest) or len(digest) != DIGESTS.get(algorithm, len(digest)):
        raise _broken(f"{what}: {printable(name)}: not a digest of {printable(algorithm, 40)}")
    found = _RANGE.fullmatch(name) if sharded else None
    if sharded and (found is None or int(found[2]) >= int(found[3])):
        raise _broken(f"{what}: {printable(name)}: not a file with a range of bytes")
    path = check_relative(found[1] if found else name, what)
    return Resource(path, digest, int(found[2]), int(found[3])) if found else Resource(path, digest)


def _root(subjects: Any, what: str) -> Digest:
    subject = subjects[0] if isinstance(subjects, list) and len(subjects) == 1 else None
    name, digest = (subject.get("name"), subject.get("digest")) if isinstance(subject, dict) else (None, None)
    if not isinstance(name, str) or not name or not isinstance(digest, dict):
        raise _broken(f"{what}: is not about exactly one model")
    try:
        return Digest(str(digest.get("sha256")))
    except AirgapError as error:
        raise _broken(f"{what}: {error.message}") from None


def _keys(value: Any, needed: AbstractSet[str], what: str, allowed: AbstractSet[str] = frozenset()) -> None:
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | allowed:
        raise _broken(f"{what}: not of the form it says it has")


def _base64(text: Any, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise _broken(f"{what}: not base64 in its one form, or empty")
    return data


def _broken(why: str) -> AirgapError:
    return InvalidFileError(why, hint=_DISTRUST)


def _unknown(why: str) -> AirgapError:
    return UnknownShapeError(why, hint=_SIGN_AGAIN)
