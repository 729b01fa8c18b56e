"""``airgap-bundle``: the connected side's command line. Arguments in, one call, one report out."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from airgap_images.layout import Layout, exclusive, remove_torn, require_layout, write_atomic
from airgap_images.oci import Digest
from airgap_images.remote.certificates import Certificates
from airgap_images.remote.http import Client
from airgap_images.remote.registries import Registries
from audit.terminal import Json, Report, Transfers, command, emit, lazily, note, secret, warn
from bundler import build as building
from bundler import render
from bundler.policies import upstream_cli as policies
from manifests.diff import diff as compare
from manifests.errors import AirgapError, IntegrityError, UsageError
from manifests.intent import Quantization, Serving
from manifests.lock import Lock, Target
from manifests.policy import Policy
from manifests.publickey import canonical_pem

if TYPE_CHECKING:
    import ssl
    from importlib import resources

    from audit.signers import file as keys
    from bundler import catalog as catalogs
    from bundler import identity as identities
    from bundler import model_signatures, resolve, sign, signers, sizing, timestamp
    from manifests import costs, yamlfile
    from manifests import intent as intents
    from manifests.costs import Prices
else:
    keys, resolve, sign, intents = map(lazily, ("audit.signers.file", "bundler.resolve", "bundler.sign", "manifests.intent"))
    signers, identities, model_signatures = map(lazily, ("bundler.signers", "bundler.identity", "bundler.model_signatures"))
    timestamp, sizing = map(lazily, ("bundler.timestamp", "bundler.sizing"))
    costs, yamlfile, catalogs = map(lazily, ("manifests.costs", "manifests.yamlfile", "bundler.catalog"))
    resources, ssl = map(lazily, ("importlib.resources", "ssl"))

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Build signed offline bundles of LLM platforms.")
app.add_typer(policies.app, name="policy")

IntentFile = Annotated[Path, typer.Argument(metavar="BUNDLE.YAML", help="What to carry.")]
LockFile = Annotated[Path, typer.Argument(metavar="BUNDLE.LOCK.JSON", help="What `lock` wrote and you reviewed.")]
CacheFolder = Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="Where bytes read while locking are kept.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="A file whose first line is the passphrase or PIN.")
]
KEY = "file:PATH; pkcs11:token=...;object=...?module-path=... (RFC 7512); x509:CHAIN.pem?key=URI; sigstore:."
IdentityTokenFile = Annotated[
    Path | None, typer.Option("--identity-token-file", metavar="FILE", help="For sigstore: keys; else SIGSTORE_ID_TOKEN, else the CI's.")
]
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
NOT_PLANNED = (
    "whether what upstream says of container images is good: it is collected here, and a policy judges it",
    "known vulnerabilities: `build` compares what is carried with the data that a component of kind `osv` brings",
)


@app.command()
@command
def init(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE.YAML", help="File to write.")] = Path("bundle.yaml"),
    stack: Annotated[str | None, typer.Option("--from", metavar="STACK", help="A stack of the catalog, or parts joined by +.")] = None,
    as_json: Json = False,
) -> Report:
    """Write a first bundle.yaml to edit."""
    if path.exists():
        raise UsageError(f"{path}: exists already", hint="name another file; nothing is overwritten")
    plain = resources.files("bundler").joinpath("templates/bundle.yaml").read_bytes()
    write_atomic(path, catalogs.intent(catalogs.named(stack)).encode() if stack else plain)
    return Report({"written": str(path)}, f"{path}: written; edit it, then `airgap-bundle lock {path}`")


@app.command()
@command
def catalog(as_json: Json = False) -> Report:
    """List ready-made stacks and their parts: what `init --from` takes."""
    return render.catalog(tuple(catalogs.stacks().values()), tuple(catalogs.parts().values()), catalogs.as_of())


@app.command()
@command
def schema(as_json: Json = False) -> Report:
    """Print the JSON Schema of bundle.yaml, for editors."""
    found = resolve.schema()
    return Report(found, json.dumps(found, indent=1, sort_keys=True))


@app.command()
@command
def plan(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE.YAML", help="What to carry.")] = Path("bundle.yaml"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the bundle would be built.")] = Path("bundle"),
    cache: CacheFolder = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Size a model of the catalog; no file is read.")] = None,
    hardware: Annotated[bool, typer.Option("--hardware", help="Show every accelerator of the table.")] = False,
    context: Annotated[int | None, typer.Option("--context", min=1, help="Tokens of one request; else as `serving` says.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests at once; else as `serving` says.")] = None,
    quantization: Annotated[Quantization | None, typer.Option("--quantization", help="Number type of the weights.")] = None,
    prices: Annotated[Path | None, typer.Option("--prices", metavar="FILE", help="YAML with your prices; shows what tokens cost.")] = None,
    as_json: Json = False,
) -> Report:
    """Show what a bundle would hold and take, and which accelerators its models fit, without fetching what is large."""
    changed = {"max_model_len": context, "concurrency": concurrency, "quantization": quantization}
    asked = {name: value for name, value in changed.items() if value is not None}
    if model is not None:
        serving = Serving.model_validate(asked)
        return render.fitted(sizing.known(sizing.named(model), serving, Target()), serving, _prices(prices))
    intent, _ = intents.load(path)
    lock, serving = _resolve(path, _known(_lock_path(path)), cache), intent.serving.model_copy(update=asked)
    around = sizing.Around(path.absolute().parent, _cache(cache), _client(), _registries())
    found = sizing.sized(lock.components, serving, lock.target, around)
    home = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    planned = render.planned(lock, shutil.disk_usage(home).free, out, NOT_PLANNED)
    return render.with_models(planned, found, serving, _prices(prices), every=hardware)


@app.command("lock")
@command
def lock_(
    path: IntentFile,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the lock would change.")] = False,
    cache: CacheFolder = None,
    as_json: Json = False,
) -> Report:
    """Resolve bundle.yaml and pin every byte in the lock beside it."""
    beside = _lock_path(path)
    old = _known(beside)
    new = _resolve(path, old, cache)
    changes = compare(old, new) if old else ()
    stale = old is None or beside.read_bytes() != new.to_bytes()
    if check and stale:
        for change in changes[: render.MAX_CHANGES]:
            note(str(change))
        hint = f"run `airgap-bundle lock {path}` and review what moved"
        raise AirgapError(f"{beside}: {f'not up to date, {len(changes)} changes' if old else 'does not exist'}", hint=hint)
    if not check:
        remove_torn(beside)
    if stale:
        write_atomic(beside, new.to_bytes())
    return render.locked(new, beside, changes, written=stale, known=old is not None)


@app.command()
@command
def build(
    path: LockFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the bundle.")],
    link: Annotated[bool, typer.Option("--link", help="Share local files with the bundle (hard links): do not edit them later.")] = False,
    paranoid: Annotated[bool, typer.Option("--paranoid", help="Hash again what is already there.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=64, help="Files fetched at once.")] = 4,
    reuse: Annotated[list[Path] | None, typer.Option("--reuse", metavar="BUNDLE", help="Take what another bundle has from there.")] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="Judge by it what upstream signed: images, models, wheels.")
    ] = None,
    cache: CacheFolder = None,
    as_json: Json = False,
) -> Report:
    """Fetch, check and lay out what a lock pins; run again to go on after an interruption."""
    lock = Lock.load(path)
    caches = (*(require_layout(folder) for folder in reuse or ()), _cache(cache))
    options = building.Options(path.absolute().parent, caches, link=link, paranoid=paranoid, jobs=jobs, registries=_registries())
    options = replace(options, policy=_policy(policy, lock.stream), version=_version(), now=datetime.now(UTC))
    with Transfers("fetching") as watch:
        return render.built(building.build(lock, out, _client(), options, watch), out)


@app.command()
@command
def keygen(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for NAME.key and NAME.pub.")] = Path(),
    algorithm: Annotated[
        Literal["p256", "p384", "ed25519", "ml-dsa-87"], typer.Option("--algorithm", help="p256 is read by every tool.")
    ] = "p256",
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Leave the private key unencrypted.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> Report:
    """Make a signing key pair; one in a token is made with the token's own tools."""
    unprotected = no_passphrase and passphrase_file is None
    passphrase = None if unprotected else secret("passphrase for the new key", passphrase_file, new=True)
    private, public = keys.make(name, out, kind=algorithm, passphrase=passphrase)
    text = f"{private}: private, keep it secret\n{public}: public, goes into the policy"
    return Report({"private": str(private), "public": str(public)}, text)


@app.command("public-key")
@command
def public_key(
    key: Annotated[str, typer.Argument(metavar="URI", help="A key as for `sign --key`.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="NAME.pub", help="File to write; stdout when absent.")] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> Report:
    """Write the public half of a key, wherever it is kept, as a policy takes it."""
    if out is not None and out.exists():
        raise UsageError(f"{out}: exists already", hint="name another file; nothing is overwritten")
    signer = signers.local(key, lambda what: secret(what, passphrase_file))
    pem = canonical_pem(signer.public_key)
    if out is not None:
        write_atomic(out, pem.encode())
    found = {"algorithm": signer.algorithm, "keyId": signer.key_id, "pem": pem, "written": str(out) if out else None}
    return Report(found, f"{out}: written; {signer.algorithm}, key id {signer.key_id}" if out else pem.rstrip())


@app.command("sign")
@command
def sign_(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    key: Annotated[str, typer.Option("--key", metavar="URI", help=KEY)],
    serial: Annotated[int | None, typer.Option("--serial", metavar="N", min=0, help="Number in the stream; first signer only.")] = None,
    days: Annotated[
        int, typer.Option("--expires-in", metavar="DAYS", min=1, max=3650, help="Days until it is refused; first signer only.")
    ] = 365,
    previous: Annotated[str | None, typer.Option("--previous", metavar="SHA256", help="sha256 of the bundle before this one.")] = None,
    policy: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="Say who counts and who is missing under it.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the signature file; the key's when absent.")] = None,
    no_models: Annotated[bool, typer.Option("--no-models", help="Make no model.sig for each model in it.")] = False,
    stamps: Annotated[
        list[str] | None, typer.Option("--timestamp", metavar="URL", help="An authority (RFC 3161) to state when; once for each.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    identity_token_file: IdentityTokenFile = None,
    as_json: Json = False,
) -> Report:
    """Sign a bundle; run again with another person's key."""
    signer = signers.signer(key, lambda what: secret(what, passphrase_file), _identity_token(identity_token_file))
    known = _policy(policy, sign.stream(folder)) if policy else None
    signer = timestamp.stamped(signer, tuple(stamps), _client(), known) if stamps else signer
    now = _now()
    version, tool = known.version if known else None, ("airgap-bundler", _version())
    terms = sign.Terms(serial, now, now + timedelta(days=days), _hex(previous), version, tool)
    result = sign.sign(folder, signer.named(name) if name else signer, terms, known)
    models = None if no_models else model_signatures.sign(folder, signer.named(result.name))
    return render.signed(result, sign.standing(folder, known, now) if known else None, models)


@app.command("diff")
@command
def diff_(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A lock.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another lock.")],
    as_json: Json = False,
) -> Report:
    """Show what moved between two locks."""
    changes = compare(Lock.load(old), Lock.load(new))
    return Report({"changes": render.differences(changes)}, "\n".join(map(str, changes)) or "no difference")


@app.callback(invoke_without_command=True)
def _whole(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        emit(f"airgap-bundle {_version()}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()


def _resolve(path: Path, previous: Lock | None, cache: Path | None) -> Lock:
    intent, document = intents.load(path)
    store = _cache(cache)
    with exclusive(store.root / ".lock", f"{store.root}: the cache"):
        around = resolve.Surroundings(
            folder=path.absolute().parent,
            cache=store,
            client=_client(),
            now=_now(),
            warn=warn,
            step=lambda name: note(f"resolving {name}"),
            registries=_registries(),
            environment=os.environ,
        )
        return resolve.resolve(intent, document, previous, around)


def _prices(path: Path | None) -> Prices | None:
    return yamlfile.load(path).validate(costs.Prices) if path else None


def _policy(path: Path | None, stream: str) -> Policy | None:
    """Return the policy at ``path``; raises UsageError if the site would accept nothing of ``stream`` by it."""
    if path is None:
        return None
    found = Policy.load(path)
    if found.stream != stream:
        raise UsageError(f"{path}: is for stream {found.stream!r}, the bundle is of {stream!r}", hint="name the policy of that stream")
    if found.expires_at <= _now():
        raise UsageError(f"{path}: expired on {found.expires}", hint="name the site's current policy")
    return found


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock.json")


def _known(path: Path) -> Lock | None:
    return Lock.load(path) if path.exists() else None


def _cache(folder: Path | None) -> Layout:
    home = os.environ.get("AIRGAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airgap-bundler"
    return Layout.create(folder or Path(home))


def _client() -> Client:
    named = next((os.environ[name] for name in CA_VARIABLES if os.environ.get(name)), None)
    found = named or ssl.get_default_verify_paths().cafile
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    ca_file, tls = Path(found) if found else None, Certificates.load(Path.home())
    return Client(ca_file=ca_file, netrc=netrc if netrc.is_file() else None, tls=tls)


def _registries() -> Registries:
    return Registries.load(os.environ, Path.home())


def _hex(previous: str | None) -> str | None:
    try:
        return Digest(previous.removeprefix("sha256:")).hex if previous else None
    except IntegrityError:
        raise UsageError(f"--previous {previous!r} is no sha256", hint="give all 64 digits, as `sign` printed them") from None


def _identity_token(path: Path | None) -> str | None:
    return identities.from_file(path) if path else os.environ.get("SIGSTORE_ID_TOKEN")


def _now() -> datetime:
    return datetime.now(UTC)


def _version() -> str:
    return metadata.version("airgap-bundler")


