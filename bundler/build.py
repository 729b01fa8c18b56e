"""Turn a lock into a bundle: fetch what is missing, lay out every component, check it, write the index.

Rules: a byte that is not in the lock cannot get in; ``index.json`` is written last, so an interrupted build leaves no
bundle; a folder that is built already costs a stat per blob; two builds of one lock are the same bytes. Of profile cnsa
the sha512 of every blob is computed while it arrives; of what was here before, and of what is made here, it is read once.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from airgap_images.bundle import (
    IMAGE,
    STREAM,
    Component,
    Strong,
    TreeFile,
    closure,
    component_descriptor,
    components,
    parse_index,
    strays,
    tree_files,
    wrap,
    write_index,
    write_tree,
)
from airgap_images.layout import PARTIAL, Layout, alone
from airgap_images.oci import IMAGE_INDEX, IMAGE_MANIFEST, INDEXES, MANIFESTS, Descriptor, Digest, Index, Pairs
from airgap_images.platform import Platform
from airgap_images.remote.http import Address, Client
from airgap_images.remote.registries import Registries
from airgap_images.sha512 import SHA512SUMS
from audit import checks
from audit.evidence import inventory
from audit.vulnerabilities import feeds
from audit.vulnerabilities.assess import assess as compared
from bundler import provenance, sources
from bundler.fetch import Fetched, Silent, Want, Watch, fetch
from bundler.strong import StrongSums
from manifests import canonical
from manifests.errors import FindingsError, IntegrityError, SiteError, TrustError
from manifests.lock import INDEX_FILE, Lock, LockedComponent
from manifests.paths import printable
from manifests.policy import Policy

LOCK_COMPONENT = "airgap-lock"
CHECKS_COMPONENT = "airgap-checks"
ELSEWHERE = "build into a new folder (`--reuse` takes what this one has), or remove `signatures/` from this one to have it signed anew"
LOCK_FILE = "bundle.lock.json"
MAX_REFUSED = 8  # findings in the message of a refusal
MODEL_FIELDS = {"license": "license", "architectures": "architecture", "torch_dtype": "precision", "commit": "revision"}


@dataclass(frozen=True, slots=True)
class Options:
    """How to build. ``folder`` is the lock's own; ``link`` shares local files with the bundle instead of copying them.

    ``policy`` says whose upstream signatures are believed; what the bundle holds does not depend on it. ``version`` is this tool's,
    for provenance; ``now`` decides whether waivers of the policy are in force and how old data is.
    """

    folder: Path
    caches: tuple[Layout, ...] = ()
    link: bool = False
    paranoid: bool = False
    jobs: int = 4
    policy: Policy | None = None
    version: str = "unknown"
    now: datetime | None = None
    registries: Registries = field(default_factory=Registries)


@dataclass(frozen=True, slots=True)
class Built:
    """What stands in the folder now; ``size`` in bytes; ``changed`` is False if it stood there before."""

    digest: Digest
    components: tuple[Component, ...]
    size: int
    fetched: Fetched
    changed: bool
    results: tuple[checks.CheckResult, ...]
    gate: checks.Gate


def build(lock: Lock, out: Path, client: Client, options: Options, watch: Watch | None = None) -> Built:
    """Build ``lock`` into the folder ``out``; run again after any interruption it ends the same.

    Raises FindingsError if a check refuses, TrustError if ``out`` holds a signed bundle of another lock.
    """
    layout, watch = Layout.create(out), watch or Silent()
    with alone(out, "another build is running"):
        _remove_torn(layout)
        _refuse_another(layout, lock)
        strong = StrongSums(layout) if lock.profile == "cnsa" else None
        if options.paranoid:
            _drop_damaged(layout, strong)
        fetched = fetch(
            _wants(lock, client, options.registries),
            layout,
            client,
            folder=options.folder,
            caches=options.caches,
            link=options.link,
            jobs=options.jobs,
            watch=watch,
            strong=strong,
        )
        made = [_component(layout, component) for component in lock.components]
        results = checks.run_all(_subject(layout, lock, made, options))
        gate = checks.gate(results, lock.checks, options.policy.waivers if options.policy else (), options.now)
        if gate.refused:
            raise FindingsError(_refusal(gate), hint=gate.refused[0].remedy)
        made += [_own(layout, LOCK_COMPONENT, "lock", LOCK_FILE, lock.to_bytes())]
        stated = provenance.provenance(lock, made, options.version)
        made += [_own(layout, provenance.COMPONENT, "provenance", provenance.FILE, stated)]
        made += [_own(layout, CHECKS_COMPONENT, "checks", "checks.json", _lasting(results, lock))]
        raw, changed = _write(layout, lock, made, (lambda blobs: strong.of(blobs, watch)) if strong else None)
        blobs = closure(layout, parse_index(raw))
        _remove_unreferenced(layout, blobs)
        return Built(Digest.of(raw), components(parse_index(raw)), sum(blobs.values()), fetched, changed, results, gate)


def _subject(layout: Layout, lock: Lock, made: list[Component], options: Options) -> checks.Subject:
    """Return what the checks look at; images are opened only if there is vulnerability data to compare them with."""
    locked = {component.name: component for component in lock.components}
    data = feeds.carried(layout, made, "")
    items = inventory.of_components(layout, (part for part in made if data or part.form == "tree"), locked)
    known = compared(items, data)
    return checks.Subject(
        layout,
        tuple(made),
        options.policy,
        items=items,
        vulnerabilities=known,
        locked=locked,
        now=options.now,
        building=True,
        platform=lock.target.platform,
    )


def _write(layout: Layout, lock: Lock, made: list[Component], strong: Strong | None) -> tuple[bytes, bool]:
    """Write the index and return it, and whether it is another than before; a signed one is never replaced by another."""
    before = _index_bytes(layout)
    annotations = {"airgap.bundle": lock.name, STREAM: lock.stream, "airgap.target.platform": lock.target.platform}
    if before is not None and _is_signed(layout):
        with _scratch(layout) as trial:
            same = write_index(trial, made, annotations) == before
        if not same:
            _remove_unreferenced(layout, closure(layout, parse_index(before)))
            raise TrustError(f"{layout.root}: holds a signed bundle that another version of this tool built", hint=ELSEWHERE)
        if strong and not (layout.root / SHA512SUMS).is_file():
            raise TrustError(f"{layout.root}: holds a signed bundle without {SHA512SUMS}", hint=ELSEWHERE)
    raw = write_index(layout, made, annotations, strong)
    return raw, raw != before


def _refuse_another(layout: Layout, lock: Lock) -> None:
    """Refuse a folder whose signed bundle is of another lock, before anything in it is touched."""
    raw = _index_bytes(layout)
    if raw is None or not _is_signed(layout):
        return
    own = next((part for part in components(parse_index(raw)) if part.name == LOCK_COMPONENT), None)
    held = {file.digest for file in tree_files(layout, own.root)} if own else set()
    if held != {Digest.of(lock.to_bytes())}:
        raise TrustError(f"{layout.root}: holds a signed bundle of another lock", hint=ELSEWHERE)


def _is_signed(layout: Layout) -> bool:
    return (layout.root / "signatures").exists()


def _wants(lock: Lock, client: Client, registries: Registries) -> Iterator[Want]:
    reached: dict[str, bool] = {}
    for component in lock.components:
        credentials = sources.load(component.kind).credentials(client, registries)
        for pin in component.files:
            label = f"{component.name}/{pin.path.rsplit('/', 1)[-1]}"
            accept = pin.media_type if pin.media_type in MANIFESTS | INDEXES else "*/*"
            *others, last = sources.addresses(component.kind, pin.url, registries)
            for url in (*(url for url in others if _reached(client, url, reached)), last):
                yield Want(url, Digest(pin.sha256), pin.size, label, credentials, accept)


def _reached(client: Client, url: str, known: dict[str, bool]) -> bool:
    """Say whether the server of ``url`` answers, whatever it answers; each is asked once, so that a dead one costs once."""
    origin = Address.parse(url).origin
    if origin not in known:
        known[origin] = client.hasty().answers(origin)
    return known[origin]


def _component(layout: Layout, locked: LockedComponent) -> Component:
    root = _image(layout, locked) if locked.form == "image" else _tree(layout, locked)
    facts = {**locked.facts, **locked.identity}
    described = component_descriptor(root, name=locked.name, kind=locked.kind, form=locked.form, role=locked.role, facts=facts)
    return Component(locked.name, locked.kind, locked.form, locked.role, described)


def _tree(layout: Layout, locked: LockedComponent) -> Descriptor:
    files = [TreeFile(pin.path, Digest(pin.sha256), pin.size) for pin in locked.files]
    for text in locked.inline:
        data = text.text.encode()
        files.append(TreeFile(text.path, layout.put(data), len(data)))
    model = None
    if locked.model:
        said = {**locked.facts, **locked.identity}
        model = {"name": locked.name} | {ours: said[theirs] for theirs, ours in MODEL_FIELDS.items() if theirs in said}
    return write_tree(layout, files, model=model)


def _image(layout: Layout, locked: LockedComponent) -> Descriptor:
    for text in locked.inline:  # at most one, and then it is the root
        return _some_platforms(layout, locked, text.text.encode())
    root = next(pin for pin in locked.files if pin.sha256 == locked.root)
    media_type = root.media_type or IMAGE_MANIFEST
    if media_type not in MANIFESTS | INDEXES:
        raise IntegrityError(f"{locked.name}: root has media type {printable(media_type)!r}", hint="lock again")
    platform = _platform(locked) if media_type in MANIFESTS else ()
    return wrap(layout, Descriptor(media_type, Digest(root.sha256), root.size, platform=platform))


def _some_platforms(layout: Layout, locked: LockedComponent, raw: bytes) -> Descriptor:
    """Store the index of some platforms of an image; raises IntegrityError unless it lists pinned manifests only."""
    index = Index.parse(raw, f"{locked.name}/{INDEX_FILE}")
    pinned = {(pin.media_type, pin.sha256, pin.size) for pin in locked.files}
    listed = {(entry.media_type, entry.digest.hex, entry.size) for entry in index.manifests}
    if index.artifact_type != IMAGE or len(listed) < 2 or listed - pinned:  # noqa: PLR2004 - of one the manifest itself is the root
        raise IntegrityError(f"{locked.name}/{INDEX_FILE}: not an index of several pinned manifests", hint="lock again")
    return Descriptor(IMAGE_INDEX, layout.put(raw), len(raw), artifact_type=IMAGE)


def _platform(locked: LockedComponent) -> Pairs:
    platform = Platform.of(*(*locked.identity.get("platform", "linux/amd64").split("/"), "", "")[:3])
    stated = {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}
    stated["os.version"] = locked.facts.get("os-version", "")
    return tuple(sorted((key, text) for key, text in stated.items() if text))


def _own(layout: Layout, name: str, kind: str, path: str, data: bytes) -> Component:
    root = write_tree(layout, [TreeFile(path, layout.put(data), len(data))])
    return Component(name, kind, "tree", None, component_descriptor(root, name=name, kind=kind, form="tree"))


def _lasting(results: tuple[checks.CheckResult, ...], lock: Lock) -> bytes:
    """Return the results that depend on the lock alone, so that one lock stays one bundle, whatever policy it is built under."""
    kept = tuple(result for result in results if not result.by_policy)
    return canonical.readable(checks.as_json(kept, checks.gate(kept, lock.checks)))


def _refusal(gate: checks.Gate) -> str:
    lines = [f"{checks.told(finding)} [{finding.id}]" for finding in gate.refused]
    more = f"; and {len(lines) - MAX_REFUSED} more" if len(lines) > MAX_REFUSED else ""
    return f"a check refuses this bundle: {'; '.join(lines[:MAX_REFUSED])}{more}"


def _drop_damaged(layout: Layout, strong: StrongSums | None) -> None:
    check = strong.check if strong else layout.check
    for name, info in list(layout.blobs()):
        try:
            check(Digest(name), info.st_size)
        except IntegrityError:
            (layout.root / "blobs" / "sha256" / name).unlink(missing_ok=True)


def _remove_torn(layout: Layout) -> None:
    """Remove what an interrupted write left at the top: files that never got their name."""
    for name in ("index.json", "SHA256SUMS", SHA512SUMS, "oci-layout"):
        for path in layout.root.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def _remove_unreferenced(layout: Layout, blobs: dict[Digest, int]) -> None:
    shutil.rmtree(layout.root / PARTIAL, ignore_errors=True)
    for name in strays(layout.root, blobs):
        if not name.startswith("blobs/sha256/"):
            raise SiteError(f"{layout.root / printable(name)}: does not belong to the bundle", hint="remove it, or build into a new folder")
        (layout.root / name).unlink()


def _index_bytes(layout: Layout) -> bytes | None:
    path = layout.root / "index.json"
    return path.read_bytes() if path.is_file() else None


@contextlib.contextmanager
def _scratch(layout: Layout) -> Iterator[Layout]:
    """Give a layout that shares the blobs, so that an index can be made there without touching this one."""
    folder = layout.root / PARTIAL / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "blobs").symlink_to(layout.root.absolute() / "blobs", target_is_directory=True)
    try:
        yield Layout(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
