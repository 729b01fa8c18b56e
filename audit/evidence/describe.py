"""Turn a component into items: what it is by its form and its files, so that a new kind of source is described too.

An image is one item, and every package inside it a further one. A model is one item with its files. Any other tree is one
item, and every wheel, Debian package and chart in it is a further one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import quote

from airgap_images.bundle import TreeFile
from airgap_images.layout import Layout
from airgap_images.oci import Descriptor
from audit.checks import is_model
from audit.evidence import addresses, edges, images, licence_texts, packaged
from audit.evidence.agreement import OWN
from audit.evidence.item import LOCAL, Content, Coverage, File, Item, Licence, What
from audit.verify.walk import Silent, Watch
from manifests.errors import AirgapError
from manifests.paths import printable

BY_US = "made by the bundler, signed with the rest"
TOOL = "airgap-bundle"
NOT_LOOKED_INTO = "what is inside was not looked into"
AS_LOCKED = "recorded when it was locked"
UNSTATED = frozenset({"", "other", "unknown"})
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9.:_/-]*[a-z0-9]")


def items(layout: Layout, content: Content, watch: Watch | None = None) -> Iterator[Item]:
    """Yield the items of one component, the component itself first; ``watch`` is told how the reading of images goes."""
    if content.component.form == "image":
        yield from images.items(layout, content, _image(content), watch or Silent())
        return
    model = is_model(content.component, content.files)
    found = () if content.component.name in OWN else tuple(packaged.read(layout, content))
    rest = _rest(content, {package.item.path for package in found})
    if content.component.name in OWN:
        own = _single(content, rest, BY_US) if len(content.files) == 1 else _tree(content, rest, ())
        yield replace(own, producer=TOOL, requires=())
    elif model:
        yield _model(layout, content, rest)
    elif len(content.files) == 1 and not found:
        yield _single(content, rest, NOT_LOOKED_INTO)
    else:
        yield _tree(content, rest, found)
    needs = edges.of_files(found)
    ordered = sorted((package.item for package in found), key=lambda item: (item.name, item.ref))
    yield from (replace(item, requires=needs.get(item.ref)) for item in ordered)


def _rest(content: Content, items: set[str | None]) -> tuple[File, ...]:
    """Return the files that are no items of their own."""
    listed = (file for file in content.files if file.path not in items)
    return tuple(File(file.path, file.digest.hex, file.size, content.sha512.get(file.digest)) for file in listed)


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
    contact: str | None = None,
    revision: str | None = None,
    files: tuple[File, ...] = (),
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
        files=files,
        facts=addresses.public(content.facts),
        contact=contact,
        revision=revision,
        sha512=content.sha512.get(component.root.digest),
    )



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
        purl=addresses.make_purl("oci", None, name, digest, {key: text for key, text in qualifiers.items() if text}),
        licences=_image_licences(content.facts),
        producer=_label(content, "vendor"),
        contact=addresses.origin(content.facts.get("url", "")) or addresses.origin(content.facts.get("source", "")),
        revision=_label(content, "revision"),
        origin=_hosts(content),
    )


def _label(content: Content, key: str) -> str | None:
    """Return what a label of the image says, which may be that of its base image."""
    return printable(content.facts.get(key, "").strip()) or None


def _image_licences(facts: dict[str, str]) -> tuple[Licence, ...]:
    stated = facts.get("licenses", "")
    return (Licence(printable(stated), "label of the image, which may be that of its base image"),) if stated.strip() else ()


def _split(reference: str) -> tuple[str, str]:
    """Split ``host:port/path:tag``; the colon of a tag comes after the last slash."""
    folder, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{folder}{slash}{name}", tag


def _model(layout: Layout, content: Content, rest: tuple[File, ...]) -> Item:
    facts = content.facts
    repository, commit = facts.get("repo", ""), facts.get("commit")
    namespace, _, name = repository.rpartition("/")
    fetched = content.component.kind == "huggingface" and bool(name)
    texts, concluded = _texts(layout, content.files)
    whole = _whole(
        content,
        "model",
        Coverage("listed", f"licence and architecture as {AS_LOCKED}; weights are not interpreted"),
        name=repository or None,
        version=commit,
        purl=addresses.make_purl("huggingface", namespace or None, name, commit, {}) if fetched and commit else None,
        licences=_stated_licences(facts),
        producer=namespace or None,
        contact=_hub_page(content, namespace),
        revision=commit,
        origin=_hosts(content),
        files=rest,
    )
    return replace(whole, concluded=concluded, facts=(*whole.facts, texts))


def _texts(layout: Layout, files: Iterable[TreeFile]) -> tuple[tuple[str, str], tuple[Licence, ...]]:
    """Return which licence texts lie beside a model, and what they are."""
    found = []
    for file in files:
        if licence_texts.is_text(file.path.rsplit("/", 1)[-1]) and file.size <= licence_texts.MAX_TEXT:
            try:
                found.append((file.path, layout.read(Descriptor("text/plain", file.digest, file.size), licence_texts.MAX_TEXT)))
            except AirgapError:
                continue  # the proof tells of it; its name alone concludes nothing
    return licence_texts.fact(found), licence_texts.conclude(found)


def _hub_page(content: Content, namespace: str) -> str | None:
    """Return the page of who published a model, where it came from one host."""
    hosts = _hosts(content)
    return addresses.url(f"{hosts}/{quote(namespace)}") if namespace and hosts and hosts != LOCAL and ", " not in hosts else None


def _stated_licences(facts: dict[str, str]) -> tuple[Licence, ...]:
    for key in ("license", "license_name"):
        text = facts.get(key, "")
        if text.strip().lower() not in UNSTATED:
            return (Licence(printable(text), f"model card, {AS_LOCKED}"),)
    return ()


def _tree(content: Content, rest: tuple[File, ...], found: tuple[packaged.Packaged, ...]) -> Item:
    reason = f"{len(found)} of them are packages, listed one by one" if found else NOT_LOOKED_INTO
    listed = Coverage("listed", reason)
    whole = _whole(content, "files", listed, version=content.facts.get("version"), origin=_hosts(content), files=rest)
    return replace(whole, requires=tuple(sorted(package.item.ref for package in found)) or None)


def _single(content: Content, rest: tuple[File, ...], reason: str) -> Item:
    file = content.files[0]
    source = _origin_of(content, file.path)
    name = file.path.rsplit("/", 1)[-1]
    fetched = source is not None and source != LOCAL
    stated = {"checksum": str(file.digest), "download_url": source or ""}
    purl = addresses.make_purl("generic", None, name, None, stated) if fetched else None
    listed = Coverage("listed", reason)
    whole = _whole(content, "file", listed, name=name, version=content.facts.get("version"), purl=purl, origin=source, files=rest)
    return replace(whole, sha256=file.digest.hex, sha512=content.sha512.get(file.digest))


def _origin_of(content: Content, path: str) -> str | None:
    if content.locked is None:
        return LOCAL if content.component.name in OWN else None
    pins = {pin.path: pin for pin in content.locked.files}
    return addresses.origin(pins[path].url) if path in pins else LOCAL


def _hosts(content: Content) -> str | None:
    """Return the hosts a component's files came from; the lock may have named a mirror."""
    if content.locked is None:
        return None
    found = {_host(addresses.origin(pin.url)) for pin in content.locked.files}
    return ", ".join(sorted(host for host in found if host)) or LOCAL


def _host(address: str | None) -> str | None:
    return address if address in {None, LOCAL} else "/".join(str(address).split("/")[:3])


