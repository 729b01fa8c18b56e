"""``airgap-bundle policy``: make, change, sign and explain the policy a site pins. Arguments in, one call, one report out."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from audit.terminal import Json, Report, command, lazily, secret
from manifests import canonical
from manifests.errors import UsageError
from manifests.policy import GATES

if TYPE_CHECKING:
    from audit.verify import pinned
    from bundler import identity as tokens
    from bundler import signers
    from bundler.policies import edit, entries, signing, words
    from manifests.policy import Policy
else:
    edit, entries, signing, words = map(lazily, (f"bundler.policies.{name}" for name in ("edit", "entries", "signing", "words")))
    pinned, signers, tokens = map(lazily, ("audit.verify.pinned", "bundler.signers", "bundler.identity"))

app = typer.Typer(no_args_is_help=True, help="Make, sign and explain the policy a site pins.")

PolicyPath = Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="The policy to change.")]
ReadPath = Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="The policy.")]
WhichRole = Annotated[Literal["bundle", "policy", "both"], typer.Option("--role", help="Signing of bundles, of the next policy, or both.")]
Groups = Annotated[
    list[str] | None, typer.Option("--require-any-of", metavar="A,B", help="One of these must be among them; once for each such group.")
]
ExpiresIn = Annotated[int, typer.Option("--expires-in", metavar="DAYS", min=1, max=3650, help="Days until it must be replaced.")]
Threshold = Annotated[int | None, typer.Option("--threshold", min=1, help="How many must sign from now on; as before when absent.")]
CertificateRoots = Annotated[
    list[Path] | None, typer.Option("--certificate-root", metavar="FILE", help="By certificate: that of the authority, in PEM.")
]
Leaf = Annotated[
    Path | None, typer.Option("--certificate", metavar="FILE", help="Their own certificate: algorithm and subject are read from it.")
]
Subject = Annotated[str | None, typer.Option("--subject", metavar="DN", help="The certificate's subject, whole (RFC 4514).")]
Alternative = Annotated[str | None, typer.Option("--san", metavar="NAME", help="An e-mail address or URI the certificate bears.")]
Crls = Annotated[list[Path] | None, typer.Option("--crl", metavar="FILE", help="A revocation list of an authority in the chain, in PEM.")]
TrustedRootFile = Annotated[Path | None, typer.Option("--trusted-root", metavar="FILE", help="The Sigstore instance's trusted_root.json.")]
Issuer = Annotated[str | None, typer.Option("--issuer", metavar="URL", help="By Sigstore: who must have stated that name, exactly.")]
Repository = Annotated[str | None, typer.Option("--repository", metavar="URI", help="By Sigstore: any workflow of this repository.")]


@app.command("init")
@command
def policy_init(
    path: Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="File to write.")],
    stream: Annotated[str, typer.Option("--stream", help="The stream of bundles it is for.")],
    signer: Annotated[list[str], typer.Option("--signer", metavar="NAME=FILE.pub", help="A person and their public key; once for each.")],
    threshold: Annotated[
        int | None, typer.Option("--threshold", min=1, help="How many must sign; 1 when absent, 2 of profile cnsa.")
    ] = None,
    require: Groups = None,
    profile: Annotated[
        Literal["default", "cnsa"], typer.Option("--profile", help="cnsa: P-384 and ML-DSA-87 both, SHA-512 sums.")
    ] = "default",
    days: ExpiresIn = 365,
    as_json: Json = False,
) -> Report:
    """Write version 1 of a policy."""
    people = {name: entries.by_key(pem) for name, pem in edit.named(signer, "--signer").items()}
    groups, expires = edit.groups_of(require or ()), _now() + timedelta(days=days)
    made = edit.first(stream, people, threshold=threshold, expires=expires, profile=profile, groups=groups)
    return words.shown(edit.create(path, made), _now())


@app.command("add-signer")
@command
def policy_add_signer(
    path: PolicyPath,
    signer: Annotated[str | None, typer.Option("--signer", metavar="NAME=FILE.pub", help="By key: a person and their public key.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="By certificate or by Sigstore: what the policy calls them.")] = None,
    certificate_root: CertificateRoots = None,
    certificate: Leaf = None,
    subject: Subject = None,
    san: Alternative = None,
    crl: Crls = None,
    algorithm: Annotated[str | None, typer.Option("--algorithm", metavar="ALG", help="That of the key in their certificate.")] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="NAME", help="By Sigstore: a workflow with its ref, or a person.")
    ] = None,
    repository: Repository = None,
    issuer: Issuer = None,
    trusted_root: TrustedRootFile = None,
    role: WhichRole = "both",
    threshold: Threshold = None,
    as_json: Json = False,
) -> Report:
    """Add somebody by key, by certificate or by Sigstore identity."""
    ways = [way for way, given in (("key", signer), ("x509", certificate_root or certificate), ("sigstore", trusted_root)) if given]
    if len(ways) != 1 or (ways != ["key"]) != (name is not None):
        hint = "--signer NAME=FILE.pub; or --name with --certificate-root; or --name with --trusted-root"
        raise UsageError("exactly one way to know them is needed: a key, a certificate or a Sigstore identity", hint=hint)
    if ways == ["key"]:
        ((known, pem),) = edit.named([signer or ""], "--signer").items()
        entry = entries.by_key(pem)
        return changed(path, lambda policy: edit.with_signer(policy, known, entry, role, threshold))
    if ways == ["x509"]:
        entry, told = entries.by_certificate(
            certificate_root or [], leaf=certificate, subject=subject, san=san, algorithm=algorithm, crls=crl or []
        )
        return changed(path, lambda policy: edit.with_signer(policy, name or "", entry, role, threshold), told)
    root = edit.trusted_root(trusted_root or Path())

    def by_sigstore(policy: Policy) -> Policy:
        root_name, roots = edit.with_root(policy, name or "", root)
        known = entries.by_sigstore(identity, repository, issuer, root_name)
        return edit.with_signer(policy.changed(trusted_roots=roots), name or "", known, role, threshold)

    return changed(path, by_sigstore)


@app.command("revoke")
@command
def policy_revoke(
    path: PolicyPath,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Signers who count no longer.")] = None,
    bundle: Annotated[list[str] | None, typer.Option("--bundle", metavar="SHA256", help="A bundle: the sha256 of its index.json.")] = None,
    blob: Annotated[list[str] | None, typer.Option("--blob", metavar="SHA256", help="A blob that no bundle may hold.")] = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> Report:
    """Let signers, bundles or blobs count no longer."""
    if not (names or bundle or blob):
        raise UsageError("nothing to revoke is named", hint="name signers, or give --bundle or --blob")
    return changed(path, lambda policy: edit.revoked(policy, names or (), bundles=bundle or (), blobs=blob or (), threshold=threshold))


@app.command("set-threshold")
@command
def policy_set_threshold(
    path: PolicyPath,
    threshold: Annotated[int, typer.Argument(metavar="N", min=1, help="How many must sign.")],
    role: WhichRole = "both",
    require: Groups = None,
    require_nobody: Annotated[bool, typer.Option("--require-nobody", help="Drop every such group.")] = False,
    as_json: Json = False,
) -> Report:
    """Ask for more or fewer signers, or for one of certain people among them."""
    if require and require_nobody:
        raise UsageError("--require-any-of and --require-nobody exclude each other", hint="give one of them")
    groups = edit.groups_of(require) if require else () if require_nobody else None
    return changed(path, lambda policy: edit.with_threshold(policy, role, threshold, groups))


@app.command("set")
@command
def policy_set(
    path: PolicyPath,
    min_serial: Annotated[int | None, typer.Option("--min-serial", min=0, help="Bundles with a lower serial are refused.")] = None,
    days: Annotated[
        int | None, typer.Option("--expires-in", metavar="DAYS", min=1, max=3650, help="Days from now until it expires.")
    ] = None,
    profile: Annotated[Literal["default", "cnsa"] | None, typer.Option("--profile", help="default or cnsa.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="NAME=refuse|warn", help=f"What a high or critical finding does: {', '.join(GATES)}."),
    ] = None,
    data_warn: Annotated[
        int | None, typer.Option("--data-warn-days", metavar="DAYS", min=0, max=3650, help="Age of vulnerability data that is warned of.")
    ] = None,
    data_refuse: Annotated[
        int | None, typer.Option("--data-refuse-days", metavar="DAYS", min=0, max=3650, help="Age of such data that no build accepts.")
    ] = None,
    trusted_root: Annotated[
        list[str] | None, typer.Option("--trusted-root", metavar="NAME=FILE", help="A newer trusted root in place of the one of that name.")
    ] = None,
    crl: Annotated[
        list[str] | None, typer.Option("--crl", metavar="NAME=FILE", help="A newer revocation list in place of those of that signer.")
    ] = None,
    as_json: Json = False,
) -> Report:
    """Change the floor of serials, the expiry, the profile, gates, the age of data, a trusted root or a revocation list."""
    roots = edit.pairs(trusted_root or (), "--trusted-root", "public=FILE")
    settings = edit.Settings(
        min_serial=min_serial,
        expires=_now() + timedelta(days=days) if days else None,
        profile=profile,
        freshness={key: days for key, days in (("warn", data_warn), ("refuse", data_refuse)) if days is not None},
        gates=edit.pairs(gate or (), "--gate", "pickle=warn"),
        roots={known: edit.trusted_root(Path(file)) for known, file in roots.items()},
        crls=edit.named(crl or (), "--crl", "alice=FILE"),
    )
    return changed(path, lambda policy: edit.with_settings(policy, settings))


@app.command("waive")
@command
def policy_waive(
    path: PolicyPath,
    check: Annotated[str, typer.Argument(metavar="CHECK", help="The check that found it, as it names itself: vulnerabilities.")],
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="Where: the component, or component/path, as the finding names it.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who decided.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why the site can live with it.")],
    about: Annotated[
        str | None, typer.Option("--about", metavar="WORD", help="What of it: CVE-2018-18074, a key; everything there when absent.")
    ] = None,
    days: Annotated[int, typer.Option("--expires-in", metavar="DAYS", min=1, max=3650, help="Days until it counts as found again.")] = 90,
    as_json: Json = False,
) -> Report:
    """Live with one finding for a time: who decided it and why goes into every report."""
    entry = {"check": check, "subject": subject, "by": by, "reason": reason, "expires": canonical.stamp(_now() + timedelta(days=days))}
    return changed(path, lambda policy: edit.with_waiver(policy, entry | ({"about": about} if about else {})))


@app.command("unwaive")
@command
def policy_unwaive(
    path: PolicyPath,
    check: Annotated[str, typer.Argument(metavar="CHECK", help="The check that found it.")],
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="Where.")],
    about: Annotated[str | None, typer.Option("--about", metavar="WORD", help="What of it, as it was waived.")] = None,
    as_json: Json = False,
) -> Report:
    """Take a waiver back before it expires."""
    return changed(path, lambda policy: edit.without_waiver(policy, (check, subject, about)))


@app.command("rotate")
@command
def policy_rotate(
    path: Annotated[Path, typer.Argument(metavar="OLD.JSON", help="The policy in force; it must stay as it is from now on.")],
    out: Annotated[Path, typer.Option("--out", metavar="NEW.JSON", help="File to write.")],
    days: ExpiresIn = 365,
    as_json: Json = False,
) -> Report:
    """Start the next version: the same rules, to be changed as you like and then signed under both versions."""
    new = edit.create(out, edit.rotated(pinned.read(path), _now() + timedelta(days=days)))
    return words.rotated(new, path, out, _now())


@app.command("sign")
@command
def policy_sign(
    path: Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="The policy to sign; from then on it is final.")],
    key: Annotated[str, typer.Option("--key", metavar="URI", help="A key as for `airgap-bundle sign`.")],
    previous: Annotated[
        Path | None, typer.Option("--previous", metavar="OLD.JSON", help="The version before: says who is missing under it.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the signature file; the key's when absent.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", metavar="FILE", help="A file whose first line is the passphrase or PIN.")
    ] = None,
    identity_token_file: Annotated[
        Path | None,
        typer.Option("--identity-token-file", metavar="FILE", help="For sigstore: keys; else SIGSTORE_ID_TOKEN, else the CI's."),
    ] = None,
    as_json: Json = False,
) -> Report:
    """Sign a policy: everybody signs the same bytes, each with a file in the folder beside it."""
    token = tokens.from_file(identity_token_file) if identity_token_file else os.environ.get("SIGSTORE_ID_TOKEN")
    signer = signers.signer(key, lambda what: secret(what, passphrase_file), token)
    return words.signed(signing.sign(path, signer.named(name) if name else signer, _now(), previous))


@app.command("show")
@command
def policy_show(path: ReadPath, as_json: Json = False) -> Report:
    """Say in sentences what a policy accepts, and its sha256."""
    return words.shown(pinned.read(path), _now())


@app.command("hash")
@command
def policy_hash(path: ReadPath, as_json: Json = False) -> Report:
    """Print a policy's sha256, once to copy and once to read aloud; the site gets it by another way than the file."""
    presented = pinned.read(path)
    _ = presented.policy  # what is no policy gets no hash to tell anybody
    return words.hashed(presented, path)


def changed(path: Path, change: Callable[[Policy], Policy], told: tuple[str, ...] = ()) -> Report:
    """Change a policy in place and explain what it is now, after what was ``told`` on the way."""
    return words.shown(edit.change(path, change), _now(), told)


def _now() -> datetime:
    return datetime.now(UTC)
