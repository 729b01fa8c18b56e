"""Bundles: components as OCI manifests, a deterministic ``index.json``, ``SHA256SUMS``, and the closure of both.

A bundle of profile cnsa has ``SHA512SUMS`` beside it: the sha512 of the same files.

A *tree* is a manifest whose every layer is one raw file titled with its relative path (``oras pull`` recreates it);
above ``MAX_LAYERS`` files (or 4 MiB of long paths) it becomes several manifests under one index. A *model* is a tree that is also a
CNCF ModelPack manifest (model-spec v1). An *image* is upstream bytes, untouched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from airgap_images import sha512
from airgap_images.layout import OCI_LAYOUT, PARTIAL, Layout, write_atomic
from airgap_images.oci import (
    EMPTY_JSON,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    INDEXES,
    MANIFESTS,
    MAX_MANIFEST,
    TITLE,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Pairs,
    parse_document,
)
from airgap_images.sha512 import SHA512SUMS
from manifests import canonical
from manifests.errors import IntegrityError
from manifests.paths import NAME, check_disjoint, check_relative, printable

BUNDLE = "application/vnd.airgap.bundle.v1+json"
TREE = "application/vnd.airgap.tree.v1+json"
IMAGE = "application/vnd.airgap.image.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
MODEL_FILEPATH = "org.cncf.model.filepath"
FILE = "application/octet-stream"
REF_NAME = "org.opencontainers.image.ref.name"
STREAM = "airgap.stream"

MAX_LAYERS = 10_000  # files in one manifest
MAX_LAYER_BYTES = MAX_MANIFEST - (64 << 10)  # of all layers of one manifest, encoded; registries cap a manifest at 4 MiB
MAX_COMPONENTS = 4096
MAX_BLOBS = 4_000_000
MAX_LEVELS = 4  # index.json → tree index → manifest → blob
Strong = Callable[[Mapping[Digest, int]], Mapping[Digest, str]]  # blobs with their sizes -> the sha512 (hex) of each
TOP_LEVEL = frozenset({"oci-layout", "index.json", "blobs", "SHA256SUMS", SHA512SUMS, "signatures"})


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of a tree: relative path, digest, size in bytes."""

    path: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Component:
    """One component as ``index.json`` lists it; ``form`` is ``image`` or ``tree``."""

    name: str
    kind: str
    form: str
    role: str | None
    root: Descriptor

    @property
    def facts(self) -> dict[str, str]:
        """Further ``airgap.fact.*`` annotations: what upstream calls this component."""
        prefix = "airgap.fact."
        return {key[len(prefix) :]: value for key, value in self.root.annotations if key.startswith(prefix)}


def write_tree(layout: Layout, files: Iterable[TreeFile], *, model: dict[str, str] | None = None) -> Descriptor:
    """Store the manifest (or index of manifests) of a tree whose blobs are already stored; return its descriptor.

    ``model`` makes it a ModelPack manifest; its items describe the model (``name``, ``version``, ``licenses``).
    """
    ordered = sorted(files, key=lambda file: file.path)
    check_disjoint(tuple(file.path for file in ordered), "tree")
    manifests = [_write_manifest(layout, part, model) for part in _parts(ordered, model is not None)]
    if len(manifests) == 1:
        return manifests[0]
    body = {
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX,
        "artifactType": TREE,
        "manifests": [manifest.to_dict() for manifest in manifests],
    }
    return _store(layout, canonical.compact(body), IMAGE_INDEX, TREE)


def tree_files(layout: Layout, root: Descriptor) -> Iterator[TreeFile]:
    """Yield the files of a tree from its verified manifests; raises on an unsafe or repeated path."""
    files: list[TreeFile] = []
    for manifest in _manifests_of(layout, root):
        if len(files) + len(manifest.layers) > MAX_BLOBS:
            raise IntegrityError(f"blobs/sha256/{root.digest.hex}: more than {MAX_BLOBS} files", hint="distrust this bundle")
        files += [TreeFile(check_relative(layer.annotation(TITLE) or "", "tree"), layer.digest, layer.size) for layer in manifest.layers]
    check_disjoint(tuple(file.path for file in files), "tree")
    yield from files


def wrap(layout: Layout, image: Descriptor) -> Descriptor:
    """Return what names an image in ``index.json``: ``image`` itself, or for Docker's own types an OCI index of just that.

    Stock tools look up names among OCI types only; the image's own bytes and digest stay as they are.
    """
    if image.media_type in {IMAGE_MANIFEST, IMAGE_INDEX}:
        return image
    body = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "artifactType": IMAGE, "manifests": [image.to_dict()]}
    return _store(layout, canonical.compact(body), IMAGE_INDEX, IMAGE)


def unwrap(layout: Layout, root: Descriptor) -> Descriptor:
    """Return the image as its registry named it; an index of ours around several of its platforms is returned as it is.

    Raises IntegrityError if ``root`` should wrap an image and does not.
    """
    if root.artifact_type != IMAGE:
        return root
    document = parse_document(root, layout.read(root, MAX_MANIFEST))
    if not isinstance(document, Index) or not document.manifests:
        raise IntegrityError(f"blobs/sha256/{root.digest.hex}: not an index of images", hint="distrust this bundle")
    return document.manifests[0] if len(document.manifests) == 1 else root


def write_index(layout: Layout, components: Iterable[Component], annotations: dict[str, str], strong: Strong | None = None) -> bytes:
    """Write ``index.json``, ``SHA256SUMS`` and, with ``strong``, ``SHA512SUMS`` for ``components``; return the index bytes.

    The same components and annotations always give the same bytes. Whenever this is interrupted, the folder holds no bundle of either
    profile that it did not hold before: ``SHA512SUMS`` is written first, and removed last.
    """
    body = {
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX,
        "artifactType": BUNDLE,
        "annotations": annotations,
        "manifests": [component.root.to_dict() for component in sorted(components, key=lambda c: c.name)],
    }
    raw = canonical.compact(body)
    blobs = closure(layout, parse_index(raw))
    if strong:
        _write_root(layout.root / SHA512SUMS, sums512(raw, strong(blobs)))
    _write_root(layout.root / "index.json", raw)
    _write_root(layout.root / "SHA256SUMS", sums(raw, blobs))
    if not strong:
        (layout.root / SHA512SUMS).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # an unfinished download may lie there
        (layout.root / PARTIAL).rmdir()
    return raw


def _write_root(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def component_descriptor(
    root: Descriptor, *, name: str, kind: str, form: str, role: str | None = None, facts: dict[str, str] | None = None
) -> Descriptor:
    """Return ``root`` with the annotations by which ``index.json`` names a component."""
    annotations = {"airgap.name": name, "airgap.kind": kind, "airgap.form": form, REF_NAME: name}
    if role:
        annotations["airgap.role"] = role
    annotations |= {f"airgap.fact.{key}": value for key, value in (facts or {}).items()}
    return Descriptor(root.media_type, root.digest, root.size, tuple(sorted(annotations.items())), root.artifact_type, root.platform)


def parse_index(raw: bytes) -> Index:
    """Parse a bundle's ``index.json``; raises if it is another kind of index."""
    index = Index.parse(raw, "index.json")
    if index.artifact_type != BUNDLE or index.media_type != IMAGE_INDEX:
        raise IntegrityError("index.json: not a bundle index", hint=f"artifactType must be {BUNDLE}")
    if len(index.manifests) > MAX_COMPONENTS:
        raise IntegrityError(f"index.json: more than {MAX_COMPONENTS} components", hint="distrust this bundle")
    return index


def components(index: Index) -> tuple[Component, ...]:
    """Return the components of a bundle index; raises on a missing, unsafe or repeated name."""
    found = tuple(_component(descriptor) for descriptor in index.manifests)
    names = [component.name for component in found]
    if names != sorted(set(names)):
        raise IntegrityError("index.json: component names repeat or are not sorted", hint="distrust this bundle")
    return found


def closure(layout: Layout, index: Index) -> dict[Digest, int]:
    """Return every blob reachable from ``index`` with its size; manifests are verified as they are read.

    Raises on a blob described with two sizes, on too many blobs and on nesting beyond ``MAX_LEVELS``.
    """
    sizes: dict[Digest, int] = {}
    parsed: set[tuple[Digest, str]] = set()  # a few descriptors that all name one index must not become billions
    level = index.children
    for _ in range(MAX_LEVELS):
        following: list[Descriptor] = []
        for descriptor in level:
            known = sizes.setdefault(descriptor.digest, descriptor.size)
            if known != descriptor.size:
                raise IntegrityError(f"blobs/sha256/{descriptor.digest.hex}: described with two sizes", hint="distrust this bundle")
            if len(sizes) > MAX_BLOBS:
                raise IntegrityError(f"index.json: more than {MAX_BLOBS} blobs", hint="distrust this bundle")
            if descriptor.media_type in MANIFESTS | INDEXES and (descriptor.digest, descriptor.media_type) not in parsed:
                parsed.add((descriptor.digest, descriptor.media_type))
                document = parse_document(descriptor, layout.read(descriptor, MAX_MANIFEST))
                following += document.children if document else ()
        level = tuple(following)
        if not level:
            return sizes
    raise IntegrityError(f"index.json: nested deeper than {MAX_LEVELS} levels", hint="distrust this bundle")


def sums(index_raw: bytes, blobs: dict[Digest, int]) -> bytes:
    """Return the text of ``SHA256SUMS``: every file of the bundle but itself and the signatures, sorted by path."""
    lines = {"index.json": Digest.of(index_raw).hex, "oci-layout": Digest.of(OCI_LAYOUT).hex}
    lines |= {f"blobs/sha256/{digest.hex}": digest.hex for digest in blobs}
    return "".join(f"{value}  {name}\n" for name, value in sorted(lines.items())).encode()


def sums512(index_raw: bytes, values: Mapping[Digest, str]) -> bytes:
    """Return the text of ``SHA512SUMS``: the files that ``SHA256SUMS`` lists, with the sha512 ``values`` (hex) of the blobs."""
    return sha512.encode(_roots512(index_raw) | {f"blobs/sha256/{digest.hex}": value for digest, value in values.items()})


def listed512(raw: bytes, index_raw: bytes, blobs: Collection[Digest]) -> dict[Digest, str]:
    """Return the sha512 (hex) that ``SHA512SUMS`` states of each of ``blobs``; raises IntegrityError unless it lists just the bundle."""
    found = sha512.decode(raw)
    names = {f"blobs/sha256/{digest.hex}": digest for digest in blobs}
    roots = _roots512(index_raw)
    if found.keys() != names.keys() | roots.keys() or any(found[name] != value for name, value in roots.items()):
        raise IntegrityError(f"{SHA512SUMS}: does not list exactly this bundle", hint=sha512.SIGNED_WRONG, rule=sha512.RULE)
    return {digest: found[name] for name, digest in names.items()}


def _roots512(index_raw: bytes) -> dict[str, str]:
    return {"index.json": sha512.of(index_raw), "oci-layout": sha512.of(OCI_LAYOUT)}


def strays(root: Path, blobs: dict[Digest, int]) -> list[str]:
    """Return every name in a bundle folder that does not belong there, sorted."""
    found = [name for name in _names(root) if name not in TOP_LEVEL]
    found += [f"blobs/{name}" for name in _names(root / "blobs") if name != "sha256"]
    known = {digest.hex for digest in blobs}
    found += [f"blobs/sha256/{name}" for name in _names(root / "blobs" / "sha256") if name not in known]
    return sorted(found)


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _component(descriptor: Descriptor) -> Component:
    name, kind, form = (descriptor.annotation(f"airgap.{key}") or "" for key in ("name", "kind", "form"))
    if not NAME.fullmatch(name) or not NAME.fullmatch(kind) or form not in {"image", "tree"}:
        raise IntegrityError(f"index.json: component {printable(name)!r} lacks a valid name, kind or form", hint="distrust this bundle")
    return Component(name, kind, form, descriptor.annotation("airgap.role"), descriptor)


def _manifests_of(layout: Layout, root: Descriptor) -> Iterator[Manifest]:
    document = parse_document(root, layout.read(root, MAX_MANIFEST))
    if isinstance(document, Manifest):
        yield document
        return
    for child in document.manifests if document else ():
        manifest = parse_document(child, layout.read(child, MAX_MANIFEST))
        if not isinstance(manifest, Manifest):
            raise IntegrityError(f"blobs/sha256/{child.digest.hex}: not a manifest of a tree", hint="distrust this bundle")
        yield manifest


def _parts(ordered: list[TreeFile], model: bool) -> Iterator[list[TreeFile]]:
    part: list[TreeFile] = []
    room = MAX_LAYER_BYTES
    for file in ordered:
        size = len(canonical.compact(_layer(file, model).to_dict())) + 1
        if len(part) == MAX_LAYERS or size > room:
            yield part
            part, room = [], MAX_LAYER_BYTES
        part.append(file)
        room -= size
    yield part


def _write_manifest(layout: Layout, files: list[TreeFile], model: dict[str, str] | None) -> Descriptor:
    config, config_type = (b"{}", EMPTY_JSON) if model is None else (_model_config(files, model), MODEL_CONFIG)
    artifact = TREE if model is None else MODEL
    body = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": artifact,
        "config": Descriptor(config_type, layout.put(config), len(config)).to_dict(),
        "layers": [_layer(file, model is not None).to_dict() for file in files],
    }
    return _store(layout, canonical.compact(body), IMAGE_MANIFEST, artifact)


def _store(layout: Layout, raw: bytes, media_type: str, artifact: str) -> Descriptor:
    return Descriptor(media_type, layout.put(raw), len(raw), artifact_type=artifact)


def _layer(file: TreeFile, model: bool) -> Descriptor:
    annotations: Pairs = ((TITLE, file.path),)
    if model:
        annotations = ((MODEL_FILEPATH, file.path), *annotations)
    return Descriptor(_model_layer_type(file.path) if model else FILE, file.digest, file.size, annotations)


def _model_layer_type(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    if name.endswith((".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx")):
        kind = "weight"
    elif name.endswith((".md", ".txt", ".pdf")) or name.startswith(("license", "notice", "use_policy")):
        kind = "doc"
    elif name.endswith(".py"):
        kind = "code"
    else:
        kind = "weight.config"
    return f"application/vnd.cncf.model.{kind}.v1.raw"


def _model_config(files: list[TreeFile], model: dict[str, str]) -> bytes:
    descriptor: dict[str, object] = {key: model[key] for key in ("name", "version", "sourceURL", "revision") if key in model}
    if "license" in model:
        descriptor["licenses"] = [model["license"]]
    technical = {key: model[key] for key in ("architecture", "format", "precision") if key in model}
    return canonical.compact(
        {"descriptor": descriptor, "config": technical, "modelfs": {"type": "layers", "diffIds": [str(file.digest) for file in files]}}
    )
