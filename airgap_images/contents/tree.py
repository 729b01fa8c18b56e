"""The merged tree of an image: what stands where after each layer (image-spec v1.1, "applying changesets").

Rules: whiteouts of a layer hide only what lower layers brought, whatever their place in it; a folder on a folder keeps what
is in it, everything else replaces what stood there with all below it; parents that are links are followed inside the
image, as engines do; a hard link is the file it points to at that moment. How far links are followed is bounded for one
name and for the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airgap_images.contents.layer import Added, Bounds, Layer, clean
from airgap_images.contents.tar import FOLDER, HARD, LINK
from airgap_images.contents.unpack import refused

MAX_LINKS = 40  # followed for one name; ELOOP of Linux
MAX_STEPS = 20_000_000  # names walked for one image
BELOW_FILE, NO_TARGET = "a name below what is no folder", "a hard link to what is not there"


class File:
    """A file, device or the like; ``path`` is what its layer calls it, ``found`` what was found in it."""

    __slots__ = ("found", "layer", "path", "size")

    def __init__(self, layer: int, path: str, size: int, found: Any) -> None:
        self.layer, self.path, self.size, self.found = layer, path, size, found


class Link:
    """A symbolic link."""

    __slots__ = ("target",)

    def __init__(self, target: str) -> None:
        self.target = target


class Folder:
    """A folder."""

    __slots__ = ("children",)

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}


Node = File | Link | Folder


class Tree:
    """The tree; ``linked`` are the files that got a further name and in which nothing was found under the first one."""

    def __init__(self, bounds: Bounds) -> None:
        self.root = Folder()
        self.linked: list[tuple[str, File]] = []
        self._bounds = bounds
        self._steps = MAX_STEPS
        self._known: dict[str, Folder] = {}  # by the path asked for; emptied when a folder or link on the way may have gone

    def join(self, at: int, layer: Layer) -> Iterator[str]:
        """Lay the layer of number ``at`` over the tree; yield why an entry was left out, for each that was."""
        for path in layer.emptied:
            folder = self._folder(path, make=False)
            if folder is not None:
                folder.children.clear()
                self._known.clear()
        for path in layer.hidden:
            where, _, name = path.rpartition("/")
            folder = self._folder(where, make=False)
            if folder is not None:
                self._forget(folder.children.pop(name, None))
        for added in layer.added:
            why = self._add(at, added)
            if why:
                yield why

    def lookup(self, path: str, *, follow: bool = False) -> Node | None:
        """Return what stands at ``path``; parents that are links are followed, ``path`` itself only with ``follow``."""
        for _ in range(MAX_LINKS):
            where, _, name = path.strip("/").rpartition("/")
            folder = self._folder(where, make=False)
            found = folder.children.get(name) if folder and name not in {"", ".", ".."} else None
            if not follow or not isinstance(found, Link):
                return found
            path = found.target if found.target.startswith("/") else f"{where}/{found.target}"
        return None

    def walk(self) -> Iterator[tuple[str, File]]:
        """Yield every file in which something was found, by path."""
        waiting: list[tuple[str, Node]] = [("", self.root)]
        while waiting:
            path, node = waiting.pop()
            if isinstance(node, File):
                yield path, node
            elif isinstance(node, Folder):
                before = f"{path}/" if path else ""
                wanted = [name for name, child in node.children.items() if getattr(child, "found", child) is not None]
                waiting += [(before + name, node.children[name]) for name in sorted(wanted, reverse=True)]

    def replace(self, path: str, old: File, new: File) -> None:
        """Put ``new`` where ``old`` still stands."""
        where, _, name = path.rpartition("/")
        folder = self._folder(where, make=False)
        if folder is not None and folder.children.get(name) is old:
            folder.children[name] = new

    def _add(self, at: int, added: Added) -> str:
        where, _, name = added.path.rpartition("/")
        folder = self._known.get(where) or self._folder(where, make=True)
        if folder is None:
            return BELOW_FILE
        before = folder.children.get(name)
        if added.kind == FOLDER and isinstance(before, Folder):
            return ""
        node = self._node(at, added)
        if node is None:
            return NO_TARGET
        if before is not node:
            folder.children[name] = node
            self._forget(before)
        return ""

    def _node(self, at: int, added: Added) -> Node | None:
        if added.kind == FOLDER:
            return Folder()
        if added.kind == LINK:
            return Link(added.target)
        if added.kind != HARD:
            return File(at, added.path, added.size, added.found)
        target = clean(added.target)
        found = self.lookup(target) if target else None
        if isinstance(found, File) and found.found is None:
            self.linked.append((added.path, found))
        return None if isinstance(found, Folder) else found

    def _forget(self, gone: Node | None) -> None:
        if isinstance(gone, (Folder, Link)):
            self._known.clear()

    def _folder(self, path: str, *, make: bool) -> Folder | None:
        """Return the folder a path leads to, through links; with ``make`` what is missing on the way is made."""
        known = self._known.get(path)
        if known is not None:
            return known
        trail, waiting, links = [self.root], path.split("/")[::-1], MAX_LINKS
        while waiting:
            self._steps -= 1
            if self._steps < 0:
                raise refused("the image has names that lead through too many links")
            child = self._step(trail, waiting.pop(), make=make)
            if child is None or isinstance(child, File):
                return None
            if isinstance(child, Link):
                links -= 1
                if links < 0:
                    return None
                trail = trail[:1] if child.target.startswith("/") else trail
                waiting += child.target.split("/")[::-1]
        self._known[path] = trail[-1]
        return trail[-1]

    def _step(self, trail: list[Folder], name: str, *, make: bool) -> Node | None:
        """Go one name on from the end of ``trail``; a folder becomes its new end."""
        if name in {"", "."}:
            return trail[-1]
        if name == "..":
            if len(trail) > 1:
                trail.pop()
            return trail[-1]
        child = trail[-1].children.get(name)
        if child is None and make:
            self._bounds.entry()
            child = trail[-1].children[name] = Folder()
        if isinstance(child, Folder):
            trail.append(child)
        return child
