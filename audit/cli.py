"""``airgap-audit``: the isolated side's command line. Arguments in, one call, one report out."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from airgap_images.oci import Digest
from audit import feed_cli, memory_cli, repository_cli
from audit.memory_cli import Now, SiteFile, StateFolder, StoreFolder, moment, site_of
from audit.terminal import Comparing, Hashing, Json, Report, command, emit, lazily, note, secret
from audit.verify import pinned
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from manifests.errors import IntegrityError, UsageError
from manifests.policy import Policy

if TYPE_CHECKING:
    from airgap_images.targets import Target
    from audit import assess, compare, diff_words, drift, inspect, journal, known, names, reach, render, serve, signers
    from audit.checks import upstream
    from audit.evidence import write
    from audit.install import install as installing
    from audit.install import memory, receipts, status, undo
    from audit.install import store as stores
    from manifests import site
else:
    _MODULES = ("assess", "compare", "diff_words", "drift", "inspect", "journal", "known", "names", "reach", "render", "serve")
    assess, compare, diff_words, drift, inspect, journal, known, names, reach, render, serve = map(
        lazily, (f"audit.{name}" for name in _MODULES)
    )
    site = lazily("manifests.site")
    installing, memory, receipts, status, undo, stores = map(
        lazily, (f"audit.install.{name}" for name in ("install", "memory", "receipts", "status", "undo", "store"))
    )
    signers, write = map(lazily, ("audit.signers", "audit.evidence.write"))
    upstream = lazily("audit.checks.upstream")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Prove, install and account for signed offline bundles.")
journals = typer.Typer(no_args_is_help=True, help="The log of everything done to a store.")
app.add_typer(journals, name="journal")
app.add_typer(memory_cli.policies, name="policy")
app.add_typer(memory_cli.memories, name="state")
app.add_typer(feed_cli.feeds, name="feed")
app.add_typer(repository_cli.repositories, name="repository")

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder, or a store.")]
OneOf = Annotated[str | None, typer.Option("--bundle", metavar="DIGEST", help="Which bundle of a store; the newest when absent.")]
PolicyFile = Annotated[Path, typer.Option("--policy", metavar="FILE", help="The policy this site pins.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="A file whose first line is the passphrase or PIN.")
]


@app.command("verify")
@command
def verify_(
    bundle: Bundle, policy: PolicyFile, digest: OneOf = None, state: StateFolder = None, now: Now = None, as_json: Json = False
) -> Report:
    """Prove a bundle: who signed it, and that every byte is what they signed."""
    presented = pinned.read(policy)
    raw, place = presented.raw, _place(bundle, presented.raw, digest)
    known = _memory(presented, now, state, None if place.whole else bundle)
    with Hashing("proving") as watch:
        proven = verify(place, raw, memory=known or Memory(), now=moment(now), watch=watch)
    return render.verified(proven, known, *upstream.judged(proven, Policy.parse(raw)))


@app.command("inspect")
@command
def inspect_(bundle: Bundle, digest: OneOf = None, as_json: Json = False) -> Report:
    """Show what a bundle says of itself, without proving anything."""
    return render.inspected(inspect.inspect(stores.locate(bundle, digest=_digest(digest))))


@app.command("diff")
@command
def diff_(
    bundles: Annotated[list[Path], typer.Argument(metavar="[OLD] NEW", help="Two bundles; of one, how it differs from what is installed.")],
    policy: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="Prove both by it first; else only read them.")] = None,
    out: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page of its own, too.")] = None,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    now: Now = None,
    as_json: Json = False,
) -> Report:
    """Show what moved between two bundles: components, versions, files, licences, signers, vulnerabilities fixed and new."""
    if len(bundles) > 2:  # noqa: PLR2004 - an old one and a new one
        raise UsageError(f"{len(bundles)} bundles named", hint="name an old one and a new one")
    here, raw = site_of(site_file, store), pinned.read(policy).raw if policy else None
    kept = stores.Store.existing(here.store) if len(bundles) == 1 else _with_feeds(here, named=bool(store or site_file))
    stream = Policy.parse(raw).stream if raw else None
    asked = [compare.Asked(stores.locate(path, stream=stream), str(path), raw) for path in bundles]
    if kept and len(bundles) == 1:
        asked.insert(0, compare.Asked(kept.place(_current(kept).digest), f"installed in {kept.root}", raw))
    with Hashing("comparing") as watch:
        found = compare.compared(*asked, store=kept, now=moment(now), watch=watch)
    return diff_words.told(found, out)


@app.command("install")
@command
def install_(
    bundle: Bundle,
    policy: PolicyFile,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    digest: OneOf = None,
    copy: Annotated[bool, typer.Option("--copy", help="Give installed files bytes of their own instead of sharing the store's.")] = False,
    state: StateFolder = None,
    now: Now = None,
    as_json: Json = False,
) -> Report:
    """Prove a bundle and install it as a new generation."""
    presented, here = pinned.read(policy), site_of(site_file, store)
    with Hashing("proving and installing") as watch, _targets(here) as targets:
        return render.installed(
            installing.install(
                _place(bundle, presented.raw, digest),
                presented.raw,
                here,
                now=moment(now),
                copy=copy or None,
                targets=targets,
                watch=watch,
                state_folder=state,
                policy_files=presented.files,
            )
        )


@app.command("evidence")
@command
def evidence_(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the evidence.")],
    bundle: Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="What is installed when absent.")] = None,
    policy: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="The policy; when absent the one in force here.")] = None,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    state: StateFolder = None,
    now: Now = None,
    key: Annotated[str | None, typer.Option("--key", metavar="URI", help="Signs what was verified; else site.yaml's key.")] = None,
    passphrase_file: PassphraseFile = None,
    cyclonedx: Annotated[Literal["1.6", "1.7"], typer.Option("--cyclonedx", help="Which version of CycloneDX.")] = "1.6",
    spdx23: Annotated[bool, typer.Option("--spdx-2.3", help="Write SPDX 2.3, too.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write the report as PDF, too; needs the extra `pdf`.")] = False,
    as_json: Json = False,
) -> Report:
    """Prove what is installed once more and write what was found, in every format; with a key signed statements too."""
    here = site_of(site_file, store)
    verifier = _verifier(here, key, passphrase_file)
    place, presented, installed = _assessed(bundle, policy, here, state)
    with Hashing("proving and reading") as watch, _targets(here if installed else site.Site()) as targets:
        found = assess.assess(
            place,
            presented.raw,
            named=str(bundle or here.store),
            memory=_memory(presented, now, state, here.store if installed else None),
            store=installed,
            feeds_of=installed or _with_feeds(here, named=bool(store or site_file)),
            state_folder=state,
            targets=targets,
            watch=watch,
            tool=("airgap-audit", _version()),
            now=moment(now),
        )
    return render.evidence(found, write.write(out, found, verifier, write.Options(cyclonedx, spdx23=spdx23, pdf=pdf)))


@app.command("check")
@command
def check_(
    site_file: SiteFile = None, store: StoreFolder = None, state: StateFolder = None, now: Now = None, as_json: Json = False
) -> Report:
    """Find what has changed since the install - files, blobs, images, receipts, journal, state - and what became known since."""
    here = site_of(site_file, store)
    with Comparing("checking") as watch, _targets(here) as targets:
        found = drift.check(here.store, targets=targets, watch=watch, state_folder=state)
        return render.checked(found, drift.HINT, known.known(here.store, state, moment(now), watch))


@app.command("status")
@command
def status_(site_file: SiteFile = None, store: StoreFolder = None, as_json: Json = False) -> Report:
    """Show which generations the store holds and which is current."""
    return render.status(status.status(site_of(site_file, store).store))


@app.command("rollback")
@command
def rollback_(
    to: Annotated[int | None, typer.Option("--to", metavar="N", help="Which generation; the one before when absent.")] = None,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    state: StateFolder = None,
    as_json: Json = False,
) -> Report:
    """Switch back to an earlier generation; what the site remembers of serials stays."""
    here = site_of(site_file, store)
    with Hashing("checking") as watch, _targets(here) as targets:
        return render.rolled_back(undo.rollback(here.store, now=moment(None), to=to, targets=targets, watch=watch, state_folder=state))


@app.command("prune")
@command
def prune_(
    keep: Annotated[int, typer.Option("--keep", min=0, metavar="N", help="How many generations to keep beside the current one.")],
    site_file: SiteFile = None,
    store: StoreFolder = None,
    as_json: Json = False,
) -> Report:
    """Remove old generations and the blobs only they needed."""
    here = site_of(site_file, store)
    with _targets(here) as targets:
        return render.removed(undo.prune(here.store, keep=keep, now=moment(None), targets=targets))


@app.command("uninstall")
@command
def uninstall_(site_file: SiteFile = None, store: StoreFolder = None, as_json: Json = False) -> Report:
    """Remove everything that was installed and nothing else; receipts, journal and state stay."""
    here = site_of(site_file, store)
    with _targets(here) as targets:
        return render.removed(undo.uninstall(here.store, now=moment(None), targets=targets))


@app.command("images")
@command
def images_(
    form: Annotated[
        Literal["table", "values", "registries.conf", "hosts.toml", "daemon.json"], typer.Option("--as", help="In whose words.")
    ] = "table",
    registry: Annotated[str | None, typer.Option("--registry", metavar="HOST", help="A registry instead of the site's.")] = None,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    as_json: Json = False,
) -> Report:
    """Show what the images of what is installed are called at this site, for whatever pulls them there."""
    here = site_of(site_file, store)
    known = names.rewrite(here, registry)
    found = names.mapping(stores.Store.existing(here.store), known)
    ca_file = str(here.registry.ca_file) if here.registry and here.registry.ca_file and not registry else None
    return Report({"images": dict(found)}, names.written(found, known, form, ca_file).rstrip("\n"))


@app.command("serve")
@command
def serve_(
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:5000",
    certificate: Annotated[Path | None, typer.Option("--tls-cert", metavar="FILE", help="The server's certificate, in PEM.")] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key.")] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help="The token that clients must give.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Serve every bundle of the store, not only the current one.")] = False,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    as_json: Json = False,
) -> Report:
    """Serve what is installed as a read-only registry, without a copy; ends with SIGTERM or Ctrl-C."""
    here = stores.Store.existing(site_of(site_file, store).store)
    serve.serve(here, serve.Options(listen, certificate, key, token_file, every), note)
    return Report({"served": str(here.root)}, "stopped")


@journals.command("verify")
@command
def journal_verify(
    site_file: SiteFile = None,
    store: StoreFolder = None,
    head: Annotated[str | None, typer.Option("--head", metavar="SHA256", help="A head noted earlier: it must still be there.")] = None,
    as_json: Json = False,
) -> Report:
    """Check the chain of the journal."""
    return render.journal(journal.verify(stores.Store.existing(site_of(site_file, store).store).root, head=head))


@app.callback(invoke_without_command=True)
def _whole(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        emit(f"airgap-audit {_version()}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()


def _place(bundle: Path, policy_raw: bytes, digest: str | None) -> Place:
    return stores.locate(bundle, stream=Policy.parse(policy_raw).stream, digest=_digest(digest))


def _digest(text: str | None) -> Digest | None:
    try:
        return Digest(text.removeprefix("sha256:")) if text else None
    except IntegrityError:
        raise UsageError(f"--bundle {text!r} is no sha256", hint="give all 64 digits, as `airgap-audit verify` prints them") from None


def _memory(presented: pinned.Presented, now: str | None, state: Path | None, store: Path | None) -> Memory | None:
    """Return what to judge by of what this site remembers, None if neither a state's folder nor a store is named."""
    folder = state or store
    return None if folder is None else memory.remembered(presented, moment(now), folder, (store,) if store else ())[0]


def _assessed(
    bundle: Path | None, policy: Path | None, here: site.Site, state: Path | None
) -> tuple[Place, pinned.Presented, stores.Store | None]:
    """Return what evidence is about: the bundle named, or else the one that is installed, with its store, and the policy to judge by."""
    presented = pinned.read(policy) if policy else None
    if bundle is not None:
        if presented is None:
            raise UsageError("a bundle that is named needs --policy", hint="name the policy this site pins")
        return _place(bundle, presented.raw, None), presented, None
    store = stores.Store.existing(here.store)
    receipt = _current(store)
    used = memory.in_force(store, state or store.root, receipt.stream)
    return store.place(receipt.digest), presented or used or pinned.read(store.bundle(receipt.digest) / stores.POLICY), store


def _with_feeds(here: site.Site, *, named: bool) -> stores.Store | None:
    """Return the site's store for the vulnerability data in it, if the user named it and it is there."""
    return stores.Store.existing(here.store) if named and here.store.is_dir() else None


def _current(store: stores.Store) -> receipts.Receipt:
    number = store.current()
    if number is None:
        raise UsageError(f"{store.root}: nothing is installed", hint="`airgap-audit install` a bundle, or name a bundle and --policy")
    return receipts.read(store, number)


def _verifier(here: site.Site, key: str | None, passphrase_file: Path | None) -> write.Verifier | None:
    """Return who signs what was verified, None if the site has no key for that."""
    uri = key or (here.verifier.key if here.verifier else None)
    if uri is None:
        return None
    known_by = here.verifier.id if here.verifier else f"https://airgap-bundler.dev/airgap-audit/{_version()}"
    return write.Verifier(known_by, signers.signer(uri, lambda what: secret(what, passphrase_file)))


def _targets(here: site.Site) -> AbstractContextManager[tuple[Target, ...]]:
    """Return the site's targets. Only here is code that reaches them loaded, and only where the site names them."""
    return reach.targets(here, os.environ, os.uname().machine)


def _version() -> str:
    return metadata.version("airgap-bundler")
