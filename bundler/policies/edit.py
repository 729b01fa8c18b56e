"""Change a policy: one file in place, until it is signed. What a change makes is checked as a whole before anything is written.

Rules: an edit never counts the version up; a policy with signatures beside it is final, and ``rotated`` starts the next version; a
change after which a role could never act is refused, with what to do first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from airgap_images.layout import alone, remove_torn, write_atomic
from audit.verify.pinned import Presented, read, signatures_folder
from manifests import canonical
from manifests.errors import InvalidFileError, UsageError
from manifests.lock import Profile, read_bounded
from manifests.policy import CNSA, MAX_POLICY, Policy, first_policy
from manifests.upstream import Upstream

RoleName = Literal["bundle", "policy", "both"]
Groups = tuple[tuple[str, ...], ...]
CHANGING = "a policy is being changed"
CNSA_NEEDS = "name one with a P-384 key and one with an ML-DSA-87 key: `airgap-bundle keygen NAME --algorithm p384`, and `ml-dsa-87`"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``policy set`` changes; None, or nothing of a name, stays as it is. ``crls`` are PEM, ``roots`` JSON values."""

    min_serial: int | None
    expires: datetime | None
    profile: Profile | None
    freshness: dict[str, int]
    gates: dict[str, str]
    roots: dict[str, Any]
    crls: dict[str, str]


def change(path: Path, edit: Callable[[Policy], Policy]) -> Presented:
    """Replace the policy at ``path`` by what ``edit`` makes of it and return it; raises UsageError if it is signed already."""
    with alone(path.absolute().parent, CHANGING):
        remove_torn(path)
        found = read(path)
        if found.files:
            message = f"{path}: is signed ({', '.join(name for name, _ in found.files)}), so it is final"
            raise UsageError(message, hint=f"start the next version: `airgap-bundle policy rotate {path} --out NEW`")
        raw = edit(Policy.parse(found.raw, str(path))).to_bytes()
        if raw != found.raw:
            write_atomic(path, raw)
    return Presented(raw)


def create(path: Path, policy: Policy) -> Presented:
    """Write a new policy; raises UsageError if the file, or a folder of signatures for it, exists."""
    with alone(path.absolute().parent, CHANGING):
        for there in (path, signatures_folder(path)):
            if there.exists():
                raise UsageError(f"{there}: exists already", hint="name another file; nothing is overwritten")
        write_atomic(path, policy.to_bytes())
    return Presented(policy.to_bytes())


def first(
    stream: str, signers: dict[str, dict[str, Any]], *, threshold: int | None, expires: datetime, profile: Profile, groups: Groups
) -> Policy:
    """Return version 1; raises UsageError if what is asked can never be met."""
    least = len(CNSA) if profile == "cnsa" else 1
    if threshold is not None and threshold < least:
        message = f"threshold {threshold} is less than profile cnsa asks: {CNSA[0]} and {CNSA[1]} are two signers at least"
        raise UsageError(message, hint=f"--threshold {least} or more, or none")
    hint = CNSA_NEEDS if profile == "cnsa" else "name more signers, or lower --threshold"
    wanted = threshold or min(least, len(signers))
    made = attempt(lambda: first_policy(stream, signers, threshold=wanted, expires=expires, profile=profile), hint)
    return attempt(lambda: with_threshold(made, "both", None, groups), hint) if groups else made


def with_signer(policy: Policy, name: str, entry: dict[str, Any], role: RoleName, threshold: int | None) -> Policy:
    """Return the policy with one more signer who may act in ``role``, and that role's new threshold if one is given."""
    if name in policy.signers:
        gone = " and is revoked" if name in policy.revoked.signers else ""
        raise UsageError(f"signer {name!r} is in the policy already{gone}", hint="choose another name; a new key is a new signer")
    roles = policy.roles.model_dump(mode="json")
    for each in _roles(role):
        roles[each]["signers"].append(name)
        roles[each]["threshold"] = threshold or roles[each]["threshold"]
    return policy.changed(signers=_entries(policy) | {name: entry}, roles=roles)


def revoked(
    policy: Policy, names: Iterable[str], *, bundles: Iterable[str] = (), blobs: Iterable[str] = (), threshold: int | None = None
) -> Policy:
    """Return the policy that no longer accepts these signers, bundles and blobs; raises UsageError if a role could never act again."""
    known = policy.revoked.model_dump(mode="json")
    names = tuple(names)
    strangers = sorted(set(names) - set(policy.signers))
    if strangers:
        raise UsageError(f"{strangers[0]!r} is no signer of this policy", hint=f"there are: {', '.join(sorted(policy.signers))}")
    for field, more in (("signers", names), ("roots", map(sha256_of, bundles)), ("blobs", map(sha256_of, blobs))):
        known[field] = list(dict.fromkeys([*known[field], *more]))
    roles = policy.roles.model_dump(mode="json")
    for role in roles.values():
        role["threshold"] = threshold or role["threshold"]
    hint = (
        "add somebody first (`policy add-signer`), or ask for fewer in the same command (`--threshold N`); where somebody is required, "
        "say first who else may stand for them (`policy set-threshold --require-any-of`)"
    )
    return attempt(lambda: policy.changed(revoked=known, roles=roles), hint)


def with_threshold(policy: Policy, role: RoleName, threshold: int | None, groups: Groups | None) -> Policy:
    """Return the policy with another threshold and, unless None, other required groups in ``role``."""
    roles = policy.roles.model_dump(mode="json")
    for each in _roles(role):
        roles[each]["threshold"] = threshold or roles[each]["threshold"]
        if groups is not None:
            roles[each]["require_any_of"] = [list(group) for group in groups]
    return attempt(lambda: policy.changed(roles=roles), "ask for fewer, or add signers first: `airgap-bundle policy add-signer`")


def with_upstream(policy: Policy, edit: Callable[[Upstream], Upstream]) -> Policy:
    """Return the policy with another section about what other people made."""
    return policy.changed(upstream=edit(policy.upstream).model_dump(mode="json", exclude_none=True))


def with_root(policy: Policy, name: str, root: Any) -> tuple[str, dict[str, Any]]:
    """Return what a Sigstore trusted root is called in the policy, ``name`` if it is new, and all of the policy's with it."""
    found = next((known for known, held in policy.trusted_roots.items() if held == root), name)
    if policy.trusted_roots.get(found, root) != root:
        hint = f"choose another name, or replace that root: `airgap-bundle policy set --trusted-root {found}=FILE`"
        raise UsageError(f"the policy has another trusted root called {found!r}", hint=hint)
    return found, policy.trusted_roots | {found: root}


def with_authority(policy: Policy, name: str, entry: dict[str, Any]) -> Policy:
    """Return the policy with one more timestamp authority."""
    if name in policy.timestamp_authorities:
        raise UsageError(f"authority {name!r} is in the policy already", hint="choose another name, or remove that one first")
    value = policy.model_dump(mode="json", exclude_none=True)["timestamp_authorities"]
    return policy.changed(timestamp_authorities=value | {name: entry})


def with_builder(policy: Policy, entry: dict[str, Any]) -> Policy:
    """Return the policy with one more build platform, or another level and other signers for it."""
    value = policy.model_dump(mode="json", exclude_none=True)["slsa"]
    return policy.changed(slsa=[*(each for each in value if each["id"] != entry["id"]), entry])


def with_waiver(policy: Policy, entry: dict[str, Any]) -> Policy:
    """Return the policy with one more waiver, or another decision about what one meant already."""
    kept = [waiver.model_dump(mode="json", exclude_none=True) for waiver in policy.waivers if waiver.means != _meant(entry)]
    return attempt(lambda: policy.changed(waivers=[*kept, entry]), "see `airgap-bundle policy waive --help`")


def without_waiver(policy: Policy, meant: tuple[str, str, str | None]) -> Policy:
    """Return the policy without the waiver of (check, subject, about); raises UsageError if there is none."""
    kept = [waiver for waiver in policy.waivers if waiver.means != meant]
    if len(kept) == len(policy.waivers):
        there = ", ".join(" ".join(filter(None, waiver.means)) for waiver in policy.waivers)
        raise UsageError("the policy waives no such thing", hint=f"there are: {there or 'none'}")
    return policy.changed(waivers=[waiver.model_dump(mode="json", exclude_none=True) for waiver in kept])


def _meant(entry: dict[str, Any]) -> tuple[str, str, str | None]:
    return entry["check"], entry["subject"], entry.get("about")


def without(policy: Policy, what: str, name: str) -> Policy:
    """Return the policy without an identity, authority, root or builder, or without the rule (image, model, wheel) of that pattern.

    Raises UsageError if it is not there, or something else still names it.
    """
    value = policy.model_dump(mode="json", exclude_none=True)
    field, section, key = {
        "identity": ("upstream", value["upstream"], "identities"),
        "authority": ("timestamp_authorities", value, "timestamp_authorities"),
        "root": ("trusted_roots", value, "trusted_roots"),
        "builder": ("slsa", value, "slsa"),
    }.get(what) or ("upstream", value["upstream"], f"{what}s")
    there = section[key]
    names = list(there) if isinstance(there, dict) else [entry.get("match") or entry["id"] for entry in there]
    if name not in names:
        raise UsageError(f"the policy has no {what} {name!r}", hint=f"there are: {', '.join(names) or 'none'}")
    if isinstance(there, dict):
        del there[name]
    else:
        del there[names.index(name)]
    return attempt(lambda: policy.changed(**{field: value[field]}), "remove first what names it")


def with_settings(policy: Policy, settings: Settings) -> Policy:
    """Return the policy with these settings; raises UsageError for a trusted root or a signer that is not there."""
    fields: dict[str, Any] = {"min_serial": settings.min_serial, "profile": settings.profile}
    fields["expires"] = canonical.stamp(settings.expires) if settings.expires else None
    fields["gates"] = {**policy.gates, **settings.gates} if settings.gates else None
    fields["freshness"] = policy.freshness.model_dump(mode="json") | settings.freshness if settings.freshness else None
    unknown = sorted(set(settings.roots) - set(policy.trusted_roots))
    if unknown:
        there = ", ".join(sorted(policy.trusted_roots)) or "none"
        raise UsageError(f"the policy has no trusted root {unknown[0]!r}", hint=f"there are: {there}; a new one comes with who needs it")
    fields["trusted_roots"] = policy.trusted_roots | settings.roots if settings.roots else None
    given = {name: value for name, value in fields.items() if value is not None}
    if not given and not settings.crls:
        raise UsageError("nothing to change is given", hint="see `airgap-bundle policy set --help`")
    hint = CNSA_NEEDS if settings.profile == "cnsa" else "see `airgap-bundle policy set --help`"
    changed = attempt(lambda: policy.changed(**given), hint)
    for name, pem in settings.crls.items():
        changed = _with_crl(changed, name, pem)
    return changed


def _with_crl(policy: Policy, name: str, pem: str) -> Policy:
    value = policy.model_dump(mode="json", exclude_none=True)
    section, field = (value["signers"], "signers") if name in policy.signers else (value["upstream"]["identities"], "upstream")
    if section.get(name, {}).get("type") != "x509":
        raise UsageError(f"{name!r} is nobody this policy knows by certificate", hint="name a signer of kind x509, see `policy show`")
    section[name]["crls"] = [pem]
    return policy.changed(**{field: value[field]})


def rotated(presented: Presented, expires: datetime) -> Policy:
    """Return the next version: the same, but for version, expiry and the sha256 of the one before."""
    old = presented.policy
    return old.changed(version=old.version + 1, previous=presented.sha256, expires=canonical.stamp(expires))


def sha256_of(text: str) -> str:
    """Return a sha256 as a policy has it, however a person wrote it; raises UsageError."""
    bare = text.strip().lower().removeprefix("sha256:")
    if len(bare) != hashlib.sha256().digest_size * 2 or set(bare) - set("0123456789abcdef"):
        raise UsageError(f"{text!r} is no sha256", hint="64 digits 0-9 and a-f, as `airgap-audit inspect` and `sha256sum` print")
    return bare


def groups_of(texts: Iterable[str]) -> Groups:
    """Return the groups that ``--require-any-of A,B`` names."""
    found = tuple(tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip())) for text in texts)
    if not all(found):
        raise UsageError("--require-any-of names nobody", hint="names of signers with commas between: --require-any-of alice,hsm")
    return found


def named(options: Iterable[str], option: str, example: str = "alice=keys/alice.pub") -> dict[str, str]:
    """Return the texts of the files that options of the form NAME=FILE name."""
    return {name: text_of(Path(path)) for name, path in pairs(options, option, example).items()}


def pairs(options: Iterable[str], option: str, example: str) -> dict[str, str]:
    """Return what options of the form NAME=VALUE say; raises UsageError for another form, or a name given twice."""
    found: dict[str, str] = {}
    for text in options:
        name, separator, value = text.partition("=")
        if not separator or not value or not name or name in found:
            raise UsageError(f"{option} {text!r} is not of the form {example}, each name once", hint=f"for example {option} {example}")
        found[name] = value
    return found


def text_of(path: Path) -> str:
    """Return the text of a file that goes into a policy."""
    return read_bounded(path, MAX_POLICY).decode(errors="replace")


def trusted_root(path: Path) -> Any:
    """Return a Sigstore instance's ``trusted_root.json``; what it is is checked with the policy."""
    return canonical.parse(read_bounded(path, MAX_POLICY), str(path), limit=MAX_POLICY)


def attempt(make: Callable[[], T], hint: str) -> T:
    """Return what ``make`` returns; what it cannot make is a UsageError with this hint."""
    try:
        return make()
    except InvalidFileError as error:
        raise UsageError(error.message.replace(": document: ", ": ", 1), hint=hint) from None
    except ValueError as error:
        raise UsageError(str(error), hint=hint) from None


def _roles(role: RoleName) -> tuple[Literal["bundle", "policy"], ...]:
    return ("bundle", "policy") if role == "both" else (role,)


def _entries(policy: Policy) -> dict[str, Any]:
    return {name: signer.model_dump(mode="json", exclude_none=True) for name, signer in policy.signers.items()}
