"""``policy.json``: whom this site trusts, how many of them must agree, and what it refuses.

The site pins this one file out of band (its sha256 on paper); everything else is reached from it. Signer kind and
algorithm are read here and nowhere else, so that no bundle can choose how it is checked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from manifests import canonical
from manifests.errors import by_rule
from manifests.identities import CertificateSigner, Exact, KeySigner, Signer, SigstoreSigner, Time, TimestampAuthority, TrustedRoot
from manifests.lock import Frozen, Name, Profile, Sha256, parse_model, read_bounded
from manifests.publickey import Algorithm, algorithm_of, canonical_pem, load_public_key
from manifests.upstream import Upstream

MAX_POLICY = 1 << 20  # bytes
MAX_SIGNERS = 256

MAX_WAIVERS = 4096
GATES = (  # the fields of `checks` in bundle.yaml that have a check
    "pickle", "remote_code", "upstream", "model_files", "chat_template", "wheels", "licences", "secrets", "images", "vulnerabilities",
    "end_of_life",
)  # fmt: skip
Gate = Annotated[str, Field(pattern=f"^({'|'.join(GATES)})$")]
CNSA: tuple[Algorithm, ...] = ("ecdsa-p384-sha384", "ml-dsa-87")  # CNSA 1.0 and 2.0 for signatures; both are required


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


class Builder(Frozen):
    """A build platform whose provenance this site believes up to ``level`` of SLSA's build track, if one of ``signed_by`` signed."""

    id: Exact
    level: int = Field(ge=1, le=3)
    signed_by: tuple[Name, ...] = Field(min_length=1, max_length=MAX_SIGNERS, strict=False)


class Waiver(Frozen):
    """One finding this site lives with until ``expires``: which check, where, what of it, who decided that, and why.

    ``subject`` is the component, or ``component/path``, as the finding names it; ``about`` is what was found there (``CVE-2018-18074``,
    a key, a licence); without it every finding of the check at that place is meant.
    """

    check: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$", description="id of the check")
    subject: str = Field(min_length=1, max_length=2048)
    about: str | None = Field(default=None, min_length=1, max_length=500)
    by: str = Field(min_length=1, max_length=200, description="who decided")
    reason: str = Field(min_length=1, max_length=2000)
    expires: Time

    @property
    def means(self) -> tuple[str, str, str | None]:
        """What is waived: check, subject and, unless everything there is meant, what of it."""
        return self.check, self.subject, self.about


class Freshness(Frozen):
    """How old vulnerability data may be when a bundle is built, in days; at the site its age is shown and only ``warn`` is heeded."""

    warn: int = Field(default=7, ge=0, le=3650)
    refuse: int = Field(default=30, ge=0, le=3650)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.warn > self.refuse:
            raise ValueError(f"data of {self.warn} days would be warned of after it is refused at {self.refuse}")
        return self


class Policy(Frozen):
    """The whole file. ``previous`` is the sha256 of the version before this one; version 1 has none."""

    policyVersion: Literal[1] = 1  # noqa: N815 - the version of this format
    version: int = Field(ge=1, le=1 << 31, description="counts up with every change")
    expires: Time
    stream: Name
    profile: Profile = "default"
    previous: Sha256 | None = None
    min_serial: int = Field(default=0, ge=0, description="bundles below this serial are refused")
    signers: dict[Name, Signer] = Field(min_length=1, max_length=MAX_SIGNERS)
    roles: Roles
    revoked: Revoked = Field(default_factory=Revoked)
    gates: dict[Gate, Literal["refuse", "warn"]] = Field(default_factory=dict, description="what a grave finding does, by gate")
    waivers: tuple[Waiver, ...] = Field(default=(), max_length=MAX_WAIVERS, strict=False)
    freshness: Freshness = Field(default_factory=Freshness, description="how old vulnerability data may be, in days")
    trusted_roots: dict[Name, TrustedRoot] = Field(default_factory=dict, max_length=MAX_SIGNERS, description="Sigstore instances, by name")
    timestamp_authorities: dict[Name, TimestampAuthority] = Field(default_factory=dict, max_length=MAX_SIGNERS)
    slsa: tuple[Builder, ...] = Field(default=(), max_length=MAX_SIGNERS, strict=False)
    upstream: Upstream = Field(default_factory=Upstream, description="whom to believe about what other people made")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        owners: dict[str, str] = {}
        for name, signer in self.signers.items():
            other = owners.setdefault(signer.fingerprint, name)
            if other != name:
                raise ValueError(f"signers {other!r} and {name!r} have the same key or name; one of them is one signer")
        certified = [(name, signer) for name, signer in self.signers.items() if isinstance(signer, CertificateSigner)]
        for (one, wide), (other, narrow) in itertools.permutations(certified, 2):
            if wide.subject in {None, narrow.subject} and wide.san in {None, narrow.san}:
                raise ValueError(f"whoever is {other!r} is {one!r} too, by the names that must match; one of them is one signer")
        for names in (self.roles.bundle.signers, self.roles.policy.signers, *(builder.signed_by for builder in self.slsa)):
            unknown = sorted(set(names) - set(self.signers))
            if unknown:
                raise ValueError(f"a role names {unknown[0]!r}, who is not among the signers")
        gone = sorted(set(self.revoked.signers) - set(self.signers))
        if gone:
            raise ValueError(f"revokes {gone[0]!r}, who is not among the signers; whoever is revoked stays, so that the key is known")
        if (self.previous is None) != (self.version == 1):
            raise ValueError("version 1 has no `previous`, and every later version has the sha256 of the one before")
        return self

    @model_validator(mode="after")
    def _waived(self) -> Self:
        meant = [waiver.means for waiver in self.waivers]
        if len(set(meant)) != len(meant):
            raise ValueError("two waivers mean the same")
        return self

    @model_validator(mode="after")
    def _roots(self) -> Self:
        own = {name: signer.trusted_root for name, signer in self.signers.items() if isinstance(signer, SigstoreSigner)}
        for name, root in [*own.items(), *self.upstream.roots_named.items()]:
            if root not in self.trusted_roots:
                raise ValueError(f"{name!r} names the trusted root {root!r}, which is not there")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        for what, role in (("bundle", self.roles.bundle), ("policy", self.roles.policy)):
            missing = self.missing(role, set(role.signers) - set(self.revoked.signers))
            if missing:
                raise ValueError(f"role {what} can never be met: {missing}")
        if self.profile == "cnsa":
            for name, signer in self.signers.items():
                if signer.alg not in CNSA:
                    raise ValueError(f"signer {name!r} uses {signer.alg}; profile cnsa takes {' and '.join(CNSA)} only")
        return self

    def missing(self, role: Role, names: Iterable[str]) -> str | None:
        """Say what is missing for ``names`` to act in ``role`` under this policy's profile, or None."""
        counted = frozenset(names) & set(role.signers) - set(self.revoked.signers)
        if missing := role.missing(counted):
            return missing
        if self.profile == "cnsa":
            lacking = [alg for alg in CNSA if alg not in {self.signers[name].alg for name in counted}]
            if lacking:
                return f"no signer with {lacking[0]}, which profile cnsa requires beside {CNSA[1 - CNSA.index(lacking[0])]}"
        return None

    def revoked_key(self, key_id: str) -> str | None:
        """Return which revoked signer a key (sha256 in hex of its SubjectPublicKeyInfo) is of, None if of nobody; a key has one owner."""
        known = ((name, self.signers.get(name)) for name in self.revoked.signers)
        return next((name for name, signer in known if isinstance(signer, KeySigner) and signer.key_id == key_id), None)

    @classmethod
    def parse(cls, raw: bytes, what: str = "policy.json") -> Self:
        """Parse hostile bytes; raises InvalidFileError."""
        with by_rule("1.policy"):
            value = canonical.parse(raw, what, limit=MAX_POLICY)
            return parse_model(cls, value, what, "correct the policy, then `airgap-bundle policy show`")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and parse the policy at ``path``."""
        return cls.parse(read_bounded(path, MAX_POLICY), str(path))

    def to_bytes(self) -> bytes:
        """Return the one encoding of this policy; a section that says nothing is left out."""
        value = self.model_dump(mode="json", exclude_none=True)
        return canonical.readable({key: part for key, part in value.items() if key not in _SILENT or part != _SILENT[key]})

    @property
    def expires_at(self) -> datetime:
        """Return when this policy stops to be accepted."""
        return canonical.moment(self.expires)

    def changed(self, **fields: Any) -> Policy:
        """Return this policy with some fields replaced, given as JSON values; raises InvalidFileError if that makes no policy."""
        return _checked(self.model_dump(mode="json", exclude_none=True) | fields)


def first_policy(
    stream: str, signers: dict[str, dict[str, Any]], *, threshold: int, expires: datetime, profile: Profile = "default"
) -> Policy:
    """Return version 1 of a policy; ``signers`` maps names to their entries, all of them in both roles."""
    role = {"threshold": threshold, "signers": sorted(signers)}
    value = {
        "version": 1,
        "expires": canonical.stamp(expires),
        "stream": stream,
        "profile": profile,
        "signers": signers,
        "roles": {"bundle": role, "policy": role},
    }
    return _checked(value)


def signer_entry(pem: str) -> dict[str, str]:
    """Return the policy entry of a public key; the key is written anew in its one canonical form."""
    key = load_public_key(pem)
    return {"type": "key", "alg": algorithm_of(key), "key": canonical_pem(key)}


def _checked(value: Any) -> Policy:
    return parse_model(Policy, value, "policy", "correct the names, keys or threshold")


_SILENT: dict[str, Any] = {
    "profile": "default", "previous": None, "trusted_roots": {}, "timestamp_authorities": {}, "slsa": [],
    "waivers": [], "freshness": Freshness().model_dump(mode="json"),
    "upstream": Upstream().model_dump(mode="json"),
}  # fmt: skip
