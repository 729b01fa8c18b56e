"""Turn a component into items: what it is by its form and its files, so that a new kind of source is described too.

An image is one item, and every package inside it a further one. A model is one item with its files. Any other tree is one
item, and every wheel in it is a further one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote, urlsplit

from packageurl import PackageURL

from airgap_images.bundle import TreeFile
from airgap_images.contents.packages.core_metadata import Metadata
from airgap_images.layout import Layout
from airgap_images.oci import Pairs
from audit.checks import is_model
from audit.evidence import images, wheels
from audit.evidence.agreement import OWN
from audit.evidence.item import LOCAL, Content, Coverage, File, Item, Licence, What
from audit.verify.walk import Silent, Watch
from manifests.errors import AirgapError
from manifests.lock import Pin
from manifests.paths import printable

NOT_LOOKED_INTO = "what is inside was not looked into"
AS_LOCKED = "recorded when it was locked"
UNSTATED = frozenset({"", "other", "unknown"})
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|[0-9a-f:.]+")
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9.:_/-]*[a-z0-9]")
_URL_SAFE = "/%:!$&'()*+,;=~-._"


def items(layout: Layout, content: Content, watch: Watch | None = None) -> Iterator[Item]:
    """Yield the items of one component, the component itself first; ``watch`` is told how the reading of images goes."""
    if content.component.form == "image":
        yield from images.items(layout, content, _image(content), watch or Silent())
        return
    packages = [file for file in content.files if _is_wheel(file)]
    if content.component.name in OWN:
        yield _single(content, "made by the bundler, signed with the rest") if len(content.files) == 1 else _tree(content, 0)
    elif is_model(content.component, content.files):
        yield _model(content)
    elif len(content.files) == 1 and not packages:
        yield _single(content, NOT_LOOKED_INTO)
    else:
        yield _tree(content, len(packages))
    pins = {pin.path: pin for pin in content.locked.files} if content.locked else {}
    found = [_wheel(layout, content, file, pins.get(file.path)) for file in packages]
    yield from sorted(found, key=lambda item: (item.name, item.ref))


def origin(url: str) -> str | None:
    """Return an address without user, password, query and fragment; ``local`` for a file; None if it is no address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if parts.scheme == "file":
        return LOCAL
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host):
        return None
    where = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{where}{f':{port}' if port else ''}{quote(parts.path, safe=_URL_SAFE)}"


def _whole(
    content: Content,
    what: What,
    coverage: Coverage,
    *,
    name: str | None = None,
    version: str | None = None,
    purl: str | None = None,
    licences: tuple[Licence, ...] = (),
    producer: str | None = None,
    origin: str | None = None,
) -> Item:
    component = content.component
    return Item(
        ref=f"component:{component.name}",
        component=component.name,
        kind=component.kind,
        role=component.role,
        what=what,
        name=name or component.name,
        version=version,
        sha256=component.root.digest.hex,
        size=content.size,
        coverage=Coverage("unreadable", content.problem) if content.problem else coverage,
        purl=purl,
        licences=licences,
        producer=producer,
        origin=origin,
        files=tuple(File(file.path, file.digest.hex, file.size) for file in content.files if not _is_wheel(file)),
        facts=_public(content.facts),
    )


def _is_wheel(file: TreeFile) -> bool:
    return file.path.endswith(".whl")


def _image(content: Content) -> Item:
    local = "transport" in content.facts  # taken from the machine it was locked on: `ref` says where it lay there
    reference = content.facts.get("reference" if local else "ref", "").partition("@")[0]
    repository, tag = _split(reference)
    digest = content.facts.get("digest") or f"sha256:{content.component.root.digest.hex}"
    usable = bool(_REPOSITORY.fullmatch(repository))
    name = repository.rsplit("/", 1)[-1] if usable else content.component.name
    qualifiers = {"repository_url": "" if local else repository, "tag": tag} if usable else {}
    return _whole(
        content,
        "image",
        Coverage("listed", NOT_LOOKED_INTO),
        name=repository if usable else content.component.name,
        version=tag or digest,
        purl=_purl("oci", None, name, digest, {key: text for key, text in qualifiers.items() if text}),
        licences=_image_licences(content.facts),
        origin=_hosts(content),
    )


def _image_licences(facts: dict[str, str]) -> tuple[Licence, ...]:
    stated = facts.get("licenses", "")
    return (Licence(printable(stated), "label of the image, which may be that of its base image"),) if stated.strip() else ()


def _split(reference: str) -> tuple[str, str]:
    """Split ``host:port/path:tag``; the colon of a tag comes after the last slash."""
    folder, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{folder}{slash}{name}", tag


def _model(content: Content) -> Item:
    facts = content.facts
    repository, commit = facts.get("repo", ""), facts.get("commit")
    namespace, _, name = repository.rpartition("/")
    fetched = content.component.kind == "huggingface" and bool(name)
    return _whole(
        content,
        "model",
        Coverage("listed", f"licence and architecture as {AS_LOCKED}; weights are not interpreted"),
        name=repository or None,
        version=commit,
        purl=_purl("huggingface", namespace or None, name, commit, {}) if fetched and commit else None,
        licences=_stated_licences(facts),
        producer=namespace or None,
        origin=_hosts(content),
    )


def _stated_licences(facts: dict[str, str]) -> tuple[Licence, ...]:
    for key in ("license", "license_name"):
        text = facts.get(key, "")
        if text.strip().lower() not in UNSTATED:
            return (Licence(printable(text), f"model card, {AS_LOCKED}"),)
    return ()


def _tree(content: Content, packages: int) -> Item:
    reason = f"{packages} of them are wheels, listed one by one" if packages else NOT_LOOKED_INTO
    return _whole(content, "files", Coverage("listed", reason), version=content.facts.get("version"), origin=_hosts(content))


def _single(content: Content, reason: str) -> Item:
    file = content.files[0]
    source = _origin_of(content, file.path)
    name = file.path.rsplit("/", 1)[-1]
    fetched = source is not None and source != LOCAL
    purl = _purl("generic", None, name, None, {"checksum": str(file.digest), "download_url": source or ""}) if fetched else None
    whole = _whole(content, "file", Coverage("listed", reason), name=name, version=content.facts.get("version"), purl=purl, origin=source)
    return replace(whole, sha256=file.digest.hex)


def _wheel(layout: Layout, content: Content, file: TreeFile, pin: Pin | None) -> Item:
    named = wheels.from_filename(file.path)
    stated, coverage = _stated(layout, file, named)
    name, version = named or (file.path.rsplit("/", 1)[-1], None)
    return Item(
        ref=f"component:{content.component.name}/{file.path}",
        component=content.component.name,
        kind=content.component.kind,
        role=content.component.role,
        what="package",
        name=name,
        version=version,
        sha256=file.digest.hex,
        size=file.size,
        coverage=coverage,
        path=file.path,
        purl=_purl("pypi", None, name, version, {}) if named else None,
        licences=tuple(Licence(text, f"METADATA, {field}") for text, field in stated.licences) if stated else (),
        producer=stated.author if stated else None,
        origin=origin(pin.url) if pin else None,
        facts=_public(pin.evidence) if pin else (),
    )


def _stated(layout: Layout, file: TreeFile, named: tuple[str, str] | None) -> tuple[Metadata | None, Coverage]:
    if named is None:
        return None, Coverage("unreadable", "its file name is not that of a wheel")
    try:
        found = wheels.metadata(layout, file)
    except (wheels.UnreadableError, AirgapError) as error:
        return None, Coverage("unreadable", str(error))
    if (found.name, found.version) != named:
        said = f"its METADATA says {printable(found.name, 80)} {printable(found.version, 80)}"
        return None, Coverage("unreadable", f"{said}, its file name {named[0]} {named[1]}")
    return found, Coverage("read", "name, version, licence and author as its METADATA states")


def _origin_of(content: Content, path: str) -> str | None:
    if content.locked is None:
        return LOCAL if content.component.name in OWN else None
    pins = {pin.path: pin for pin in content.locked.files}
    return origin(pins[path].url) if path in pins else LOCAL


def _hosts(content: Content) -> str | None:
    """Return the hosts a component's files came from; the lock may have named a mirror."""
    if content.locked is None:
        return None
    found = {_host(origin(pin.url)) for pin in content.locked.files}
    return ", ".join(sorted(host for host in found if host)) or LOCAL


def _host(address: str | None) -> str | None:
    return address if address in {None, LOCAL} else "/".join(str(address).split("/")[:3])


def _public(facts: dict[str, str]) -> Pairs:
    """Return facts in order; one that is an address loses user, password and query like every other address."""
    return tuple((key, (origin(text) or "") if "://" in text else text) for key, text in sorted(facts.items()))


def _purl(kind: str, namespace: str | None, name: str, version: str | None, qualifiers: dict[str, str]) -> str | None:
    try:
        return PackageURL(kind, namespace, name, version, qualifiers).to_string()
    except (ValueError, TypeError):  # TypeError: the library's own, for a name of which nothing is left, such as "/"
        return None
