"""Kind ``huggingface``: a model on a Hugging Face hub becomes a model tree that the hub's own client loads offline.

A revision becomes a commit. Files stored outside of git are pinned by the sha256 the hub states and not downloaded
while locking; the others are small, downloaded, and must be the git blob the hub names. A file whose blob is in the old
lock is not downloaded again.

The tree is the client's cache, with plain files instead of links: ``models--org--name/snapshots/<commit>/...``, the
name that was asked for in ``refs/`` (and no other: ask for ``main`` inside only if ``main`` is what was locked), and in
``trees/`` the listing by which the client notices missing files. It lists what is carried, so that a selection counts
as whole. Point ``HF_HUB_CACHE`` at the tree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from airgap_images.layout import CHUNK
from airgap_images.oci import Descriptor, Digest
from airgap_images.remote.http import Client, Credentials, HttpError
from airgap_images.remote.registries import Registries
from bundler.fetch import Silent, fetch_unpinned
from bundler.folder import Selection
from bundler.hub import Hub, HubFile, Revision, configured_credentials
from bundler.sources import Context
from bundler.sources.model import MAX_CARD, MAX_CONFIG, card_claims, config_claims
from manifests.errors import AirgapError, IntegrityError, UsageError
from manifests.lock import MAX_INLINE, Frozen, Inline, LockedComponent, Pin
from manifests.paths import check_disjoint, check_relative, printable

MAX_IN_GIT = 1 << 30  # bytes of one file that is not stored outside of git; hubs refuse above 10 MB
AT_ONCE = 8  # downloads of small files at once
BLOB, LFS = "git_blob", "lfs_sha256"  # keys of evidence
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SHOWN = 3  # names in one warning
TREE_FORMAT = 1  # of the client's trees/<commit>.json

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Options(Frozen):
    """Which model, as of when, and which of its files."""

    repo: str = Field(
        max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?$", description="such as org/name"
    )
    revision: str = Field(default="main", min_length=1, max_length=200, description="branch, tag or commit")
    include: tuple[str, ...] = Field(default=(), strict=False, description="glob patterns of paths to take; all when absent")
    exclude: tuple[str, ...] = Field(default=(), strict=False, description="glob patterns of paths to leave out")
    accepted: str | None = Field(
        default=None, min_length=1, max_length=500, description="of a gated model: who accepted its terms, and when"
    )
    repo_type: Literal["model"] = Field(default="model", description="only models for now")
    endpoint: str | None = Field(
        default=None, max_length=500, pattern=r"^https?://", description="hub to ask, without a token; HF_ENDPOINT when absent"
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The commit that is carried: of the files ``listed`` there the selected ``files``; ``asked`` is the revision's own name."""

    hub: Hub
    asked: str
    revision: Revision
    listed: tuple[HubFile, ...]
    files: tuple[HubFile, ...]

    @property
    def commit(self) -> str:
        """Return the commit."""
        return self.revision.commit

    @property
    def folder(self) -> str:
        """Return the client's name for the repository's folder."""
        return f"models--{self.hub.repo.replace('/', '--')}"


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return the selected files of the model as of its commit.

    Raises UsageError if there is no such model, revision or file, NetworkError if it may not be read.
    """
    snapshot = _snapshot(name, options)
    digests = _digests(snapshot, context)
    claims = _claims(snapshot, digests, context)
    facts = _facts(snapshot, claims) | ({"accepted": options.accepted} if options.accepted else {})
    _warn(snapshot, facts, context)
    return LockedComponent(
        name=name,
        kind="huggingface",
        form="tree",
        role=role,
        model=True,
        identity={"repo": options.repo, "revision": options.revision, "commit": snapshot.commit},
        facts=facts,
        files=tuple(sorted((_pin(snapshot, file, digests[file.path]) for file in snapshot.files), key=lambda pin: pin.path)),
        inline=tuple(_inline(snapshot, context)),
    )


def credentials(_client: Client, _registries: Registries) -> Credentials:
    """Return this machine's token, for the hub it is configured for and no other host."""
    return configured_credentials()


def blob_id(raw: Iterable[bytes], size: int) -> str:
    """Return git's name for a file of ``size`` bytes: the sha1 of a header and the content."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for part in raw:
        digest.update(part)
    return digest.hexdigest()


def _snapshot(name: str, options: Options) -> Snapshot:
    hub = Hub.of(name, options.repo, options.endpoint)
    revision = hub.revision(options.revision)
    listed = hub.files(revision.commit)
    selection = Selection(options.include, options.exclude)
    files = tuple(file for file in listed if selection.wants(check_relative(file.path, f"{name}: {options.repo}")))
    if not files:
        raise UsageError(f"{name}: none of the {len(listed)} files of {options.repo} is selected", hint="check `include` and `exclude`")
    check_disjoint(tuple(file.path for file in files), name)
    return Snapshot(hub, options.revision, revision, listed, files)


def _digests(snapshot: Snapshot, context: Context) -> dict[str, str]:
    """Return the sha256 of every file: stated by the hub, known from the old lock, or of what is downloaded now."""
    old = context.previous.files if context.previous else ()
    known = {pin.evidence[BLOB]: pin.sha256 for pin in old if BLOB in pin.evidence}
    stated = {file.path: file.sha256 or known.get(file.blob, "") for file in snapshot.files}
    missing = [file for file in snapshot.files if not stated[file.path]]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        try:
            found = list(pool.map(lambda file: _download(snapshot, file, context), missing))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return stated | {file.path: digest for file, digest in zip(missing, found, strict=True)}


def _download(snapshot: Snapshot, file: HubFile, context: Context) -> str:
    """Bring a file that is in git into the cache; it must be the blob the hub names."""
    hub = snapshot.hub
    what = f"{hub.what}: {printable(file.path)}"
    if file.size > MAX_IN_GIT:
        raise UsageError(f"{what}: {file.size} bytes in git, at most {MAX_IN_GIT} are taken", hint="leave it out with `exclude`")
    try:
        digest, size = fetch_unpinned(
            context.client,
            hub.url(snapshot.commit, file.path),
            context.cache,
            credentials=hub.credentials,
            label=what,
            watch=Silent(),
            limit=file.size,
        )
    except HttpError as error:
        if dict(error.headers).get("x-error-code") == "GatedRepo":
            raise hub.gated() from None
        raise
    with open(context.cache.path(digest), "rb") as stored:
        blob = blob_id(iter(lambda: stored.read(CHUNK), b""), size)
    if size != file.size or blob != file.blob:
        message = f"{what}: came as git blob {blob} of {size} bytes, the hub lists {file.blob} of {file.size}"
        raise IntegrityError(message, hint="distrust the hub or what stands between; lock again from another network")
    return digest.hex


def _pin(snapshot: Snapshot, file: HubFile, digest: str) -> Pin:
    evidence = {LFS: file.sha256} if file.sha256 else {BLOB: file.blob}
    path = check_relative(f"{snapshot.folder}/snapshots/{snapshot.commit}/{file.path}", snapshot.hub.what)
    return Pin(path=path, url=snapshot.hub.url(snapshot.commit, file.path), size=file.size, sha256=digest, evidence=evidence)


def _inline(snapshot: Snapshot, context: Context) -> Iterator[Inline]:
    if not _COMMIT.fullmatch(snapshot.asked):
        yield Inline(path=check_relative(f"{snapshot.folder}/refs/{snapshot.asked}", snapshot.hub.what), text=snapshot.commit)
    listing = {"format_version": TREE_FORMAT, "files": {file.path: _entry(file) for file in snapshot.files}}
    text = json.dumps(listing, indent=1)
    if len(text) <= MAX_INLINE:
        yield Inline(path=f"{snapshot.folder}/trees/{snapshot.commit}.json", text=text)
    else:
        count = len(snapshot.files)
        context.warn(f"{snapshot.hub.what}: {count} files are too many for the client's own listing; it will not notice missing ones")


def _entry(file: HubFile) -> dict[str, str | int]:
    entry: dict[str, str | int] = {"size": file.size, "blob_id": file.blob}
    return entry | ({LFS: file.sha256, "lfs_size": file.size} if file.sha256 else {})


def _facts(snapshot: Snapshot, claims: dict[str, str]) -> dict[str, str]:
    files, listed, revision = snapshot.files, snapshot.listed, snapshot.revision
    facts = {"files": str(len(files)), "bytes": str(sum(file.size for file in files)), "host": snapshot.hub.host}
    facts |= {"upstream_files": str(len(listed))} if len(listed) != len(files) else {}
    said = {"gated": revision.gated, "pipeline": revision.pipeline, "library": revision.library}
    return facts | {key: text for key, text in said.items() if text} | claims


def _claims(snapshot: Snapshot, digests: dict[str, str], context: Context) -> dict[str, str]:
    """Return what card and configuration say; what the hub says of the licence only if the card is not carried."""
    present = {file.path: file for file in snapshot.files}
    claims = {} if "README.md" in present else dict(snapshot.revision.licence)
    for path, limit, read in (("README.md", MAX_CARD, card_claims), ("config.json", MAX_CONFIG, config_claims)):
        if path not in present:
            continue
        what = f"{snapshot.hub.what}: {path}"
        try:
            claims |= read(_read(snapshot, present[path], digests[path], limit, context), what)
        except AirgapError as error:
            context.warn(f"{snapshot.hub.what}: what {path} says is not recorded: {error}")
    return claims


def _read(snapshot: Snapshot, file: HubFile, sha256: str, limit: int, context: Context) -> bytes:
    if file.sha256 or file.size > limit:
        raise UsageError(f"it is stored outside of git, or larger than {limit} bytes", hint="read it yourself")
    digest = Digest(sha256)
    if not context.cache.has(digest, file.size):  # known from the old lock, and the cache was emptied
        _download(snapshot, file, context)
    return context.cache.read(Descriptor("text/plain", digest, file.size), limit)


def _warn(snapshot: Snapshot, facts: dict[str, str], context: Context) -> None:
    hub, revision = snapshot.hub, snapshot.revision
    if "license" not in facts:
        context.warn(f"{hub.what}: no licence is stated")
    if revision.gated:
        context.warn(f"{hub.what}: gated; whoever uses it must have accepted the terms at {hub.endpoint}/{hub.repo}")
    if revision.repo.lower() != hub.repo.lower():
        context.warn(f"{hub.what}: the hub answers for {hub.repo} with {revision.repo}; the model may have been renamed")
    pickled = [file.path for file in snapshot.files if file.path.lower().endswith(PICKLES)]
    if pickled and any(file.path.endswith(".safetensors") for file in snapshot.files):
        shown = ", ".join(printable(path, 60) for path in pickled[:SHOWN]) + (", ..." if len(pickled) > SHOWN else "")
        patterns = ", ".join(f'"*{suffix}"' for suffix in PICKLES if any(path.lower().endswith(suffix) for path in pickled))
        context.warn(f"{hub.what}: pickled files beside safetensors ({shown}); `exclude: [{patterns}]` leaves them out")
