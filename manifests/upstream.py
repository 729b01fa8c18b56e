"""The policy's ``upstream`` section: whom this site believes about container images other people made.

Rules: an image is judged by the first rule whose pattern matches ``registry/repository``; a rule names identities, and an identity
says by itself how it is checked (key with algorithm, or certificate identity with issuer and trusted root). Nothing of that is
ever taken from a signature.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from manifests.errors import InvalidFileError
from manifests.lock import Frozen, Name, parse_model
from manifests.publickey import UpstreamAlgorithm, UpstreamPublicKey, canonical_pem, key_id, load_upstream_key, upstream_algorithms

MAX_NAMED = 256  # identities, roots or rules in one policy
TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot"  # its media type's start; the version follows
CORRECT = "correct the names, keys or patterns"

_PATTERN = r"^(?:\[[0-9a-f:*]+\])?[a-z0-9._:/*-]+$"  # brackets stand around an IPv6 address only
Pattern = Annotated[str, Field(max_length=255, pattern=_PATTERN, description="glob over registry/repository")]


def _exact(text: str) -> str:
    if "*" in text or not text.isprintable() or text != text.strip():
        raise ValueError("must be written out exactly, without patterns and blanks around it")
    return text


def _root(value: dict[str, Any]) -> dict[str, Any]:
    if not str(value.get("mediaType", "")).startswith(TRUSTED_ROOT):
        raise ValueError(f"not a Sigstore trusted root (mediaType {TRUSTED_ROOT}...)")
    return value


Exact = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_exact)]
TrustedRoot = Annotated[dict[str, Any], AfterValidator(_root)]


class UpstreamKey(Frozen):
    """An upstream signer known by one public key, used with exactly one algorithm."""

    type: Literal["key"]
    alg: UpstreamAlgorithm
    key: str = Field(max_length=8192)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fitting = upstream_algorithms(load_upstream_key(self.key))
        if self.alg not in fitting:
            raise ValueError(f"alg is {self.alg} but the key is for {' or '.join(fitting)}")
        return self

    @property
    def public_key(self) -> UpstreamPublicKey:
        """Return the key, ready to verify with."""
        return load_upstream_key(self.key)

    @property
    def words(self) -> str:
        """Say who this is, for people."""
        return f"{self.alg}, key id {key_id(self.public_key)}"


class SigstoreIdentity(Frozen):
    """An upstream signer known by what a Sigstore certificate says: this exact identity, stated by this exact issuer."""

    type: Literal["sigstore"]
    identity: Exact
    issuer: Exact
    trusted_root: Name

    @property
    def words(self) -> str:
        """Say who this is, for people."""
        return f"{self.identity} as stated by {self.issuer}, certificates and logs of {self.trusted_root}"


Identity = Annotated[UpstreamKey | SigstoreIdentity, Field(discriminator="type")]
By = Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_NAMED, strict=False)]


class RequiredAttestation(Frozen):
    """An attestation an image must have: of this predicate type, signed by one of these."""

    predicate: Exact
    by: By


class ImageRule(Frozen):
    """What images of a repository need: a signature by one of ``signed_by``, and every one of ``attestations``."""

    match: Pattern
    signed_by: tuple[Name, ...] = Field(default=(), max_length=MAX_NAMED, strict=False)
    attestations: tuple[RequiredAttestation, ...] = Field(default=(), max_length=MAX_NAMED, strict=False)

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.signed_by and not self.attestations:
            raise ValueError("a rule that names nobody would accept everything; name who signs")
        kinds = [wanted.predicate for wanted in self.attestations]
        if len(set(kinds)) != len(kinds):
            raise ValueError("a predicate stands twice in a rule")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return everyone the rule names."""
        return (*self.signed_by, *(name for wanted in self.attestations for name in wanted.by))


class Upstream(Frozen):
    """The whole section."""

    trusted_roots: dict[Name, TrustedRoot] = Field(default_factory=dict, max_length=MAX_NAMED)
    identities: dict[Name, Identity] = Field(default_factory=dict, max_length=MAX_NAMED)
    images: tuple[ImageRule, ...] = Field(default=(), max_length=MAX_NAMED, strict=False)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name, identity in self.identities.items():
            if isinstance(identity, SigstoreIdentity) and identity.trusted_root not in self.trusted_roots:
                raise ValueError(f"identity {name!r} names the trusted root {identity.trusted_root!r}, which is not there")
        for rule in self.images:
            unknown = sorted(set(rule.names) - set(self.identities))
            if unknown:
                raise ValueError(f"the rule for {rule.match} names {unknown[0]!r}, who is not among the identities")
        patterns = [rule.match for rule in self.images]
        if len(set(patterns)) != len(patterns):
            raise ValueError("a pattern stands twice; the first rule that matches decides, so the second never would")
        return self

    def rule(self, name: str) -> ImageRule | None:
        """Return the first rule that matches ``registry/repository``, or None if the policy says nothing of it."""
        return next((rule for rule in self.images if matches(rule.match, name)), None)

    def with_identity(self, name: str, entry: dict[str, str], roots: dict[str, Any] | None = None) -> Upstream:
        """Return the section with one more identity, and the trusted roots it needs."""
        if name in self.identities:
            raise InvalidFileError(f"identity {name!r} is in the policy already", hint="choose another name; a new key is a new identity")
        value = self.model_dump(mode="json")
        value["identities"][name] = entry
        value["trusted_roots"] |= roots or {}
        return parse_model(Upstream, value, "policy", CORRECT)

    def with_image(self, rule: dict[str, Any], *, first: bool = False) -> Upstream:
        """Return the section with one more rule, after the others or before them."""
        value = self.model_dump(mode="json")
        value["images"].insert(0 if first else len(value["images"]), rule)
        return parse_model(Upstream, value, "policy", CORRECT)


def matches(pattern: str, name: str) -> bool:
    """Say whether a glob matches a whole name: ``*`` stays within a segment, ``**`` goes over any number of them."""
    places = {0}  # how far the name can be read by what was read of the pattern; never more than its length
    for part in re.findall(r"\*\*|\*|.", pattern):
        if part == "**":
            places = set(range(min(places), len(name) + 1))
        elif part == "*":
            places = {end for start in places for end in range(start, _segment_end(name, start) + 1)}
        else:
            places = {place + 1 for place in places if name[place : place + 1] == part}
        if not places:
            return False
    return len(name) in places


def key_entry(pem: str, algorithm: str | None = None) -> dict[str, str]:
    """Return the policy entry of an upstream public key, with the algorithm usual for it unless another is named."""
    key = load_upstream_key(pem)
    return {"type": "key", "alg": algorithm or upstream_algorithms(key)[0], "key": canonical_pem(key)}


def _segment_end(name: str, start: int) -> int:
    end = name.find("/", start)
    return len(name) if end < 0 else end
