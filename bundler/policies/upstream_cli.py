"""``airgap-bundle policy``: whom to believe about what other people made, about times and about builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from audit.terminal import Json, Report, command, lazily
from bundler.policies.cli import Alternative, CertificateRoots, Crls, Leaf, PolicyPath, Subject, app, changed
from manifests.errors import UsageError
from manifests.publickey import UpstreamAlgorithm

if TYPE_CHECKING:
    from bundler.policies import edit, entries
    from manifests.policy import Policy
    from manifests.upstream import Upstream
else:
    edit, entries = map(lazily, (f"bundler.policies.{name}" for name in ("edit", "entries")))

__all__ = ["app"]

IdentityName = Annotated[str, typer.Option("--identity", metavar="NAME", help="What the policy calls them.")]
SignedBy = Annotated[list[str] | None, typer.Option("--signed-by", metavar="NAME", help="Who may sign them; one must have.")]
Signers = Annotated[list[str], typer.Option("--signed-by", metavar="NAME", help="Who may sign them; one must have.")]
First = Annotated[bool, typer.Option("--first", help="Put it before the other rules: the first that matches decides.")]


@app.command("upstream-key")
@command
def policy_upstream_key(
    path: PolicyPath,
    identity: Annotated[str, typer.Option("--identity", metavar="NAME=FILE.pub", help="Somebody who signs upstream, and their key.")],
    algorithm: Annotated[
        str | None, typer.Option("--algorithm", metavar="ALG", help="Unless the usual one of that key: ecdsa-p384-sha256.")
    ] = None,
    as_json: Json = False,
) -> Report:
    """Name somebody upstream by their key."""
    if algorithm is not None and algorithm not in get_args(UpstreamAlgorithm):
        raise UsageError(f"--algorithm {algorithm!r} is not one", hint=f"one of {', '.join(get_args(UpstreamAlgorithm))}")
    ((name, pem),) = edit.named([identity], "--identity").items()
    entry = entries.by_upstream_key(pem, algorithm)
    return _upstream(path, lambda section: section.with_identity(name, entry))


@app.command("upstream-certificate")
@command
def policy_upstream_certificate(
    path: PolicyPath,
    identity: IdentityName,
    certificate_root: CertificateRoots = None,
    certificate: Leaf = None,
    subject: Subject = None,
    san: Alternative = None,
    crl: Crls = None,
    algorithm: Annotated[str | None, typer.Option("--algorithm", metavar="ALG", help="That of the key in their certificate.")] = None,
    as_json: Json = False,
) -> Report:
    """Name somebody upstream by their certificate."""
    entry, told = entries.by_certificate(
        certificate_root or [], leaf=certificate, subject=subject, san=san, algorithm=algorithm, crls=crl or []
    )
    return changed(path, lambda policy: edit.with_upstream(policy, lambda section: section.with_identity(identity, entry)), told)


@app.command("upstream-sigstore")
@command
def policy_upstream_sigstore(
    path: PolicyPath,
    identity: IdentityName,
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="Who must have stated that name, exactly.")],
    trusted_root: Annotated[Path, typer.Option("--trusted-root", metavar="FILE", help="The Sigstore instance's trusted_root.json.")],
    san: Annotated[
        str | None, typer.Option("--san", metavar="URI|E-MAIL", help="What the certificate says, exactly: a workflow or a person.")
    ] = None,
    repository: Annotated[str | None, typer.Option("--repository", metavar="URI", help="Or any workflow of this repository.")] = None,
    as_json: Json = False,
) -> Report:
    """Name somebody upstream by their Sigstore identity."""
    root = edit.trusted_root(trusted_root)

    def change(policy: Policy) -> Policy:
        name, roots = edit.with_root(policy, identity, root)
        entry = entries.by_sigstore(san, repository, issuer, name)
        section = policy.upstream.with_identity(identity, entry).model_dump(mode="json", exclude_none=True)
        return policy.changed(trusted_roots=roots, upstream=section)

    return changed(path, change)


@app.command("upstream-image")
@command
def policy_upstream_image(
    path: PolicyPath,
    match: Annotated[str, typer.Option("--match", metavar="GLOB", help="Over registry/repository: * within a segment, ** across them.")],
    signed_by: SignedBy = None,
    attestation: Annotated[
        list[str] | None, typer.Option("--attestation", metavar="TYPE=NAME", help="A predicate type they must have, and who may sign it.")
    ] = None,
    first: First = False,
    as_json: Json = False,
) -> Report:
    """Add a rule about images: who must have signed those that match."""
    wanted: dict[str, list[str]] = {}
    for text in attestation or ():
        predicate, _, name = text.rpartition("=")
        if not predicate or not name:
            raise UsageError(f"--attestation {text!r} is not TYPE=NAME", hint="for example https://slsa.dev/provenance/v1=vendor")
        wanted.setdefault(predicate, []).append(name)
    attestations = [{"predicate": predicate, "by": names} for predicate, names in wanted.items()]
    rule = {"match": match, "signed_by": signed_by or [], "attestations": attestations}
    return _upstream(path, lambda section: section.with_image(rule, first=first))


@app.command("upstream-model")
@command
def policy_upstream_model(
    path: PolicyPath,
    match: Annotated[str, typer.Option("--match", metavar="GLOB", help="Over host/organisation/name, or the name of a component.")],
    signed_by: Signers,
    first: First = False,
    as_json: Json = False,
) -> Report:
    """Add a rule about models: who must have signed those that match (OpenSSF Model Signing)."""
    return _upstream(path, lambda section: section.with_rule("models", _rule(match, signed_by), first=first))


@app.command("upstream-wheel")
@command
def policy_upstream_wheel(
    path: PolicyPath,
    match: Annotated[str, typer.Option("--match", metavar="GLOB", help="Over the project's name: lower case, with `-` between words.")],
    signed_by: Signers,
    first: First = False,
    as_json: Json = False,
) -> Report:
    """Add a rule about wheels: whose attestation (PEP 740) those that match must have."""
    return _upstream(path, lambda section: section.with_rule("wheels", _rule(match, signed_by), first=first))


@app.command("add-authority")
@command
def policy_add_authority(
    path: PolicyPath,
    name: Annotated[str, typer.Option("--name", help="What the policy calls it.")],
    root: Annotated[list[Path], typer.Option("--root", metavar="FILE", help="The root its certificate hangs from, in PEM.")],
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Its own certificate, where its answers do not carry it.")
    ] = None,
    as_json: Json = False,
) -> Report:
    """Believe a timestamp authority (RFC 3161) about when something was signed."""
    entry = entries.authority(root, certificate)
    return changed(path, lambda policy: edit.with_authority(policy, name, entry))


@app.command("add-builder")
@command
def policy_add_builder(
    path: PolicyPath,
    id_: Annotated[str, typer.Option("--id", metavar="URI", help="The build platform, as its provenance names it.")],
    level: Annotated[int, typer.Option("--level", min=1, max=3, help="Up to which SLSA build level it is believed.")],
    signed_by: Annotated[list[str], typer.Option("--signed-by", metavar="NAME", help="Signers whose provenance of it counts.")],
    as_json: Json = False,
) -> Report:
    """Believe provenance (SLSA) of a build platform."""
    return changed(path, lambda policy: edit.with_builder(policy, {"id": id_, "level": level, "signed_by": signed_by}))


@app.command("remove")
@command
def policy_remove(
    path: PolicyPath,
    what: Annotated[
        Literal["identity", "authority", "root", "builder", "image", "model", "wheel"],
        typer.Argument(metavar="WHAT", help="identity, authority, root, builder; image, model or wheel for a rule."),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; of a rule its pattern, of a builder its URI.")],
    as_json: Json = False,
) -> Report:
    """Take out an upstream identity, an authority, a builder, a trusted root, or a rule. Signers are revoked instead."""
    return changed(path, lambda policy: edit.without(policy, what, name))


def _rule(match: str, signed_by: list[str]) -> dict[str, Any]:
    return {"match": match, "signed_by": signed_by}


def _upstream(path: Path, change: Callable[[Upstream], Upstream]) -> Report:
    return changed(path, lambda policy: edit.with_upstream(policy, change))
