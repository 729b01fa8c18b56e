"""The policy's ``upstream`` section: whom this site believes about images, models and wheels other people made.

Rules: a thing is judged by the first rule whose pattern matches its name (``registry/repository`` of an image, ``host/org/name`` or
the component's name of a model, the normalised project name of a wheel); a rule names identities, and an identity says by itself how
it is checked (key with algorithm, certificate with roots, or Sigstore identity with issuer and trusted root). Nothing of that is ever
taken from a signature.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from manifests.errors import InvalidFileError
from manifests.identities import CertificateSigner, Exact, SigstoreSigner
from manifests.lock import Frozen, Name, parse_model
from manifests.publickey import UpstreamAlgorithm, UpstreamPublicKey, canonical_pem, key_id, load_upstream_key, upstream_algorithms

MAX_NAMED = 256  # identities or rules in one policy
CORRECT = "correct the names, keys or patterns"

_PATTERN = r"^(?:\[[0-9a-f:*]+\])?[a-z0-9._:/*-]+$"  # brackets stand around an IPv6 address only
Pattern = Annotated[str, Field(max_length=255, pattern=_PATTERN, description="glob over registry/repository")]


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


Identity = Annotated[UpstreamKey | CertificateSigner | SigstoreSigner, Field(discriminator="type")]
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


class SignedRule(Frozen):
    """What models, or wheels, of a name need: a signature or attestation by one of ``signed_by``."""

    match: Pattern
    signed_by: By


Rules = Annotated[tuple[SignedRule, ...], Field(max_length=MAX_NAMED, strict=False)]


class Upstream(Frozen):
    """The whole section."""

    identities: dict[Name, Identity] = Field(default_factory=dict, max_length=MAX_NAMED)
    images: tuple[ImageRule, ...] = Field(default=(), max_length=MAX_NAMED, strict=False)
    models: Rules = ()
    wheels: Rules = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        named = [*((rule.match, rule.names) for rule in self.images)]
        named += [(rule.match, rule.signed_by) for rule in (*self.models, *self.wheels)]
        for match, names in named:
            unknown = sorted(set(names) - set(self.identities))
            if unknown:
                raise ValueError(f"the rule for {match} names {unknown[0]!r}, who is not among the identities")
        for rule in self.wheels:
            other = next((name for name in rule.signed_by if not isinstance(self.identities[name], SigstoreSigner)), None)
            if other:
                raise ValueError(f"the rule for wheels {rule.match} names {other!r}; attestations of wheels (PEP 740) are keyless only")
        for rules in (self.images, self.models, self.wheels):
            patterns = [rule.match for rule in rules]
            if len(set(patterns)) != len(patterns):
                raise ValueError("a pattern stands twice; the first rule that matches decides, so the second never would")
        return self

    @property
    def roots_named(self) -> dict[str, str]:
        """Return which trusted root each identity that needs one names."""
        return {name: known.trusted_root for name, known in self.identities.items() if isinstance(known, SigstoreSigner)}

    def rule(self, name: str) -> ImageRule | None:
        """Return the first rule that matches ``registry/repository``, or None if the policy says nothing of it."""
        return next((rule for rule in self.images if matches(rule.match, name)), None)

    def model_rule(self, name: str) -> SignedRule | None:
        """Return the first rule that matches a model's name, or None."""
        return next((rule for rule in self.models if matches(rule.match, name)), None)

    def wheel_rule(self, project: str) -> SignedRule | None:
        """Return the first rule that matches a normalised project name (PEP 503), or None."""
        return next((rule for rule in self.wheels if matches(rule.match, project)), None)

    def with_identity(self, name: str, entry: dict[str, Any]) -> Upstream:
        """Return the section with one more identity."""
        if name in self.identities:
            raise InvalidFileError(f"identity {name!r} is in the policy already", hint="choose another name; a new key is a new identity")
        value = self.model_dump(mode="json")
        value["identities"][name] = entry
        return parse_model(Upstream, value, "policy", CORRECT)

    def with_image(self, rule: dict[str, Any], *, first: bool = False) -> Upstream:
        """Return the section with one more rule, after the others or before them."""
        value = self.model_dump(mode="json")
        value["images"].insert(0 if first else len(value["images"]), rule)
        return parse_model(Upstream, value, "policy", CORRECT)


    def with_rule(self, sort: Literal["models", "wheels"], rule: dict[str, Any], *, first: bool = False) -> Upstream:
        """Return the section with one more rule about models or wheels, after the others or before them."""
        value = self.model_dump(mode="json")
        value[sort].insert(0 if first else len(value[sort]), rule)
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
