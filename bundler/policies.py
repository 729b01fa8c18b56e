"""``airgap-bundle policy``: make, change and explain the policy a site pins. Arguments in, one call, one report out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import typer

from airgap_images.layout import write_atomic
from audit.terminal import Json, Report, command
from bundler import render
from manifests import canonical
from manifests.errors import UsageError
from manifests.lock import read_bounded
from manifests.policy import MAX_POLICY, Policy, first_policy
from manifests.publickey import UpstreamAlgorithm
from manifests.upstream import Upstream, key_entry

app = typer.Typer(no_args_is_help=True, help="Make and explain the policy a site pins.")

PolicyPath = Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="The policy to change.")]
SignerList = Annotated[list[str], typer.Option("--signer", metavar="NAME=FILE.pub", help="A person and their public key.")]
KEY = "name the .pub file: PEM, ECDSA P-256 or P-384, Ed25519; of who signs images also RSA"
T = TypeVar("T")


@app.command("init")
@command
def policy_init(
    path: Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="File to write.")],
    stream: Annotated[str, typer.Option("--stream", help="The stream of bundles it is for.")],
    signer: SignerList,
    threshold: Annotated[int, typer.Option("--threshold", min=1, help="How many of them must sign.")] = 1,
    days: Annotated[int, typer.Option("--expires-in", min=1, max=3650, help="Days until it must be replaced.")] = 365,
    as_json: Json = False,
) -> Report:
    """Write version 1 of a policy."""
    if path.exists():
        raise UsageError(f"{path}: exists already", hint="change it with `airgap-bundle policy add-signer`, or name another file")
    keys, expires = _files(signer, "--signer"), datetime.now(UTC) + timedelta(days=days)
    return _written(path, _keyed(lambda: first_policy(stream, keys, threshold=threshold, expires=expires)))


@app.command("add-signer")
@command
def policy_add_signer(
    path: PolicyPath,
    signer: Annotated[str, typer.Option("--signer", metavar="NAME=FILE.pub", help="A person and their public key.")],
    threshold: Annotated[int | None, typer.Option("--threshold", min=1, help="A new threshold; unchanged when absent.")] = None,
    as_json: Json = False,
) -> Report:
    """Write the next version of a policy, with one more signer."""
    ((name, pem),) = _files([signer], "--signer").items()
    return _written(path, _keyed(lambda: Policy.load(path).with_signer(name, pem, threshold=threshold)))


@app.command("upstream-key")
@command
def policy_upstream_key(
    path: PolicyPath,
    identity: Annotated[str, typer.Option("--identity", metavar="NAME=FILE.pub", help="Someone who signs images, and their key.")],
    algorithm: Annotated[str | None, typer.Option("--algorithm", help="Unless the usual one of that key: ecdsa-p384-sha256.")] = None,
    as_json: Json = False,
) -> Report:
    """Write the next version of a policy, with one more upstream signer known by a key."""
    if algorithm is not None and algorithm not in get_args(UpstreamAlgorithm):
        raise UsageError(f"--algorithm {algorithm!r} is not one", hint=f"one of {', '.join(get_args(UpstreamAlgorithm))}")
    ((name, pem),) = _files([identity], "--identity").items()
    return _changed(path, lambda section: section.with_identity(name, key_entry(pem, algorithm)))


@app.command("upstream-sigstore")
@command
def policy_upstream_sigstore(
    path: PolicyPath,
    identity: Annotated[str, typer.Option("--identity", metavar="NAME", help="What the policy calls them.")],
    san: Annotated[str, typer.Option("--san", metavar="URI|E-MAIL", help="What the certificate says, exactly: a workflow or a person.")],
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="Who must have stated that, exactly.")],
    trusted_root: Annotated[Path, typer.Option("--trusted-root", metavar="FILE", help="The Sigstore instance's trusted_root.json.")],
    as_json: Json = False,
) -> Report:
    """Write the next version of a policy, with one more upstream signer known by a Sigstore certificate."""
    root = canonical.parse(read_bounded(trusted_root, MAX_POLICY), str(trusted_root), limit=MAX_POLICY)

    def add(section: Upstream) -> Upstream:
        name = next((known for known, held in section.trusted_roots.items() if held == root), identity)
        if section.trusted_roots.get(name, root) != root:
            raise UsageError(f"the policy has another trusted root called {name!r}", hint="choose another name for the identity")
        entry = {"type": "sigstore", "identity": san, "issuer": issuer, "trusted_root": name}
        return section.with_identity(identity, entry, {name: root})

    return _changed(path, add)


@app.command("upstream-image")
@command
def policy_upstream_image(
    path: PolicyPath,
    match: Annotated[str, typer.Option("--match", metavar="GLOB", help="Over registry/repository: * within a segment, ** across them.")],
    signed_by: Annotated[list[str] | None, typer.Option("--signed-by", metavar="NAME", help="Who may sign them; one must have.")] = None,
    attestation: Annotated[
        list[str] | None, typer.Option("--attestation", metavar="TYPE=NAME", help="A predicate type they must have, and who may sign it.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Put it before the other rules: the first that matches decides.")] = False,
    as_json: Json = False,
) -> Report:
    """Write the next version of a policy, with one more rule about images."""
    wanted: dict[str, list[str]] = {}
    for text in attestation or ():
        predicate, _, name = text.rpartition("=")
        if not predicate or not name:
            raise UsageError(f"--attestation {text!r} is not TYPE=NAME", hint="for example https://slsa.dev/provenance/v1=vendor")
        wanted.setdefault(predicate, []).append(name)
    attestations = [{"predicate": predicate, "by": names} for predicate, names in wanted.items()]
    rule = {"match": match, "signed_by": signed_by or [], "attestations": attestations}
    return _changed(path, lambda section: section.with_image(rule, first=first))


@app.command("show")
@command
def policy_show(
    path: Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="The policy to explain.")], as_json: Json = False
) -> Report:
    """Say in sentences what a policy accepts, and its sha256."""
    return _told(path)


def _files(options: list[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in options:
        name, separator, file = text.partition("=")
        if not separator or not file or name in found:
            raise UsageError(f"{option} {text!r} is not NAME=FILE.pub, each name once", hint=f"for example {option} alice=keys/alice.pub")
        found[name] = read_bounded(Path(file), MAX_POLICY).decode(errors="replace")
    return found


def _keyed(make: Callable[[], T]) -> T:
    """Return what ``make`` returns; raises UsageError where a key it is given is none, or is of another kind."""
    try:
        return make()
    except ValueError as error:
        raise UsageError(str(error), hint=KEY) from None


def _changed(path: Path, change: Callable[[Upstream], Upstream]) -> Report:
    policy = Policy.load(path)
    return _written(path, policy.with_upstream(_keyed(lambda: change(policy.upstream))))


def _written(path: Path, policy: Policy) -> Report:
    write_atomic(path, policy.to_bytes())
    return _told(path)


def _told(path: Path) -> Report:
    raw = read_bounded(path, MAX_POLICY)
    return render.policy(Policy.parse(raw, str(path)), hashlib.sha256(raw).hexdigest(), datetime.now(UTC))
