"""``policy.json``: whom this site trusts, how many of them must agree, and what it refuses.

The site pins this one file out of band (its sha256 on paper); everything else is reached from it. Signer kind and
algorithm are read here and nowhere else, so that no bundle can choose how it is checked.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.lock import Frozen, Name, Sha256, parse_model, read_bounded
from manifests.publickey import Algorithm, PublicKey, algorithm_of, canonical_pem, key_id, load_public_key
from manifests.upstream import Upstream

MAX_POLICY = 1 << 20  # bytes
MAX_SIGNERS = 256

Gate = Annotated[str, Field(pattern="^(pickle|remote_code|upstream)$")]  # the fields of `checks` in bundle.yaml that have a check


def _time(text: str) -> str:
    canonical.moment(text)
    return text


Time = Annotated[str, AfterValidator(_time)]


class KeySigner(Frozen):
    """A person or machine known by one public key; ``key`` is PEM SubjectPublicKeyInfo (RFC 5280, RFC 7468)."""

    type: Literal["key"]
    alg: Algorithm
    key: str = Field(max_length=4096)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        found = algorithm_of(load_public_key(self.key))
        if found != self.alg:
            raise ValueError(f"alg is {self.alg} but the key is for {found}")
        return self

    @property
    def public_key(self) -> PublicKey:
        """Return the key, ready to verify with."""
        return load_public_key(self.key)

    @property
    def key_id(self) -> str:
        """Return the sha256 (hex) of the DER SubjectPublicKeyInfo: one key has one id, however it was written."""
        return key_id(self.public_key)


class Role(Frozen):
    """Who may act and how many distinct ones must; of each group in ``require_any_of`` at least one must be among them."""

    threshold: int = Field(ge=1, le=MAX_SIGNERS)
    signers: tuple[Name, ...] = Field(min_length=1, max_length=MAX_SIGNERS, strict=False)
    require_any_of: tuple[Annotated[tuple[Name, ...], Field(min_length=1, strict=False)], ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if len(set(self.signers)) != len(self.signers):
            raise ValueError("a signer stands twice in a role")
        if self.threshold > len(self.signers):
            raise ValueError(f"threshold {self.threshold} can never be met by {len(self.signers)} signers")
        strangers = sorted({name for group in self.require_any_of for name in group} - set(self.signers))
        if strangers:
            raise ValueError(f"require_any_of names {strangers[0]!r}, who is not in the role")
        return self

    def missing(self, names: frozenset[str]) -> str | None:
        """Say what is missing for ``names`` to act in this role, or None."""
        counted = names & set(self.signers)
        if len(counted) < self.threshold:
            return f"{len(counted)} of {self.threshold} needed signers"
        for group in self.require_any_of:
            if not counted & set(group):
                return f"none of {', '.join(group)}, one of whom is required"
        return None


class Roles(Frozen):
    """Who may sign bundles, and who may sign the next policy."""

    bundle: Role
    policy: Role


class Revoked(Frozen):
    """What is no longer accepted: signers by name, bundles by the sha256 of their index, blobs by sha256."""

    signers: tuple[Name, ...] = Field(default=(), strict=False)
    roots: tuple[Sha256, ...] = Field(default=(), strict=False)
    blobs: tuple[Sha256, ...] = Field(default=(), strict=False)


class Policy(Frozen):
    """The whole file."""

    policyVersion: Literal[1] = 1  # noqa: N815 - the version of this format
    version: int = Field(ge=1, le=1 << 31, description="counts up with every change")
    expires: Time
    stream: Name
    min_serial: int = Field(default=0, ge=0, description="bundles below this serial are refused")
    signers: dict[Name, KeySigner] = Field(min_length=1, max_length=MAX_SIGNERS)
    roles: Roles
    revoked: Revoked = Field(default_factory=Revoked)
    gates: dict[Gate, Literal["refuse", "warn"]] = Field(default_factory=dict, description="what a grave finding does, by gate")
    upstream: Upstream = Field(default_factory=Upstream, description="whom to believe about images other people made")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        owners: dict[str, str] = {}
        for name, signer in self.signers.items():
            other = owners.setdefault(signer.key_id, name)
            if other != name:
                raise ValueError(f"signers {other!r} and {name!r} have the same key; one key is one signer")
        for role in (self.roles.bundle, self.roles.policy):
            unknown = sorted(set(role.signers) - set(self.signers))
            if unknown:
                raise ValueError(f"a role names {unknown[0]!r}, who is not among the signers")
        return self

    @classmethod
    def parse(cls, raw: bytes, what: str = "policy.json") -> Self:
        """Parse hostile bytes; raises InvalidFileError."""
        return parse_model(cls, canonical.parse(raw, what, limit=MAX_POLICY), what, "correct the policy, then `airgap-bundle policy show`")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and parse the policy at ``path``."""
        return cls.parse(read_bounded(path, MAX_POLICY), str(path))

    def to_bytes(self) -> bytes:
        """Return the one encoding of this policy; a policy that says nothing of upstream has no such section."""
        silent = self.upstream == Upstream()
        return canonical.readable(self.model_dump(mode="json", exclude={"upstream"} if silent else None))

    @property
    def expires_at(self) -> datetime:
        """Return when this policy stops to be accepted."""
        return canonical.moment(self.expires)

    def with_signer(self, name: str, pem: str, *, threshold: int | None = None) -> Policy:
        """Return the next version of this policy, with one more signer in both roles and, if given, a new threshold."""
        if name in self.signers:
            raise InvalidFileError(f"signer {name!r} is in the policy already", hint="choose another name; a new key is a new signer")
        value = self.model_dump(mode="json")
        value["version"] += 1
        value["signers"][name] = signer_entry(pem)
        for role in value["roles"].values():
            role["signers"].append(name)
            role["threshold"] = threshold or role["threshold"]
        return _checked(value)

    def with_upstream(self, section: Upstream) -> Policy:
        """Return the next version of this policy, with another upstream section."""
        return _checked(self.model_dump(mode="json") | {"version": self.version + 1, "upstream": section.model_dump(mode="json")})


def first_policy(stream: str, signers: dict[str, str], *, threshold: int, expires: datetime) -> Policy:
    """Return version 1 of a policy; ``signers`` maps names to PEM public keys, all of them in both roles."""
    role = {"threshold": threshold, "signers": sorted(signers)}
    value = {
        "version": 1,
        "expires": canonical.stamp(expires),
        "stream": stream,
        "signers": {name: signer_entry(pem) for name, pem in signers.items()},
        "roles": {"bundle": role, "policy": role},
    }
    return _checked(value)


def signer_entry(pem: str) -> dict[str, str]:
    """Return the policy entry of a public key; the key is written anew in its one canonical form."""
    key = load_public_key(pem)
    return {"type": "key", "alg": algorithm_of(key), "key": canonical_pem(key)}


def _checked(value: Any) -> Policy:
    return parse_model(Policy, value, "policy", "correct the names, keys or threshold")
