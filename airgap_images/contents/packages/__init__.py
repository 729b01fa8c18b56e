"""What is inside an image: its system, its packages, and how much of it no package accounts for.

One file for each kind of package. Rules: everything is read from the layers as they stream by, nothing is unpacked to disk or run;
what should have been read and could not be is a ``Gap``; what is seen and not read is named in ``seen``; the share of ELF files that
belong to a package says how much such a list can miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from airgap_images.contents import rootfs
from airgap_images.contents.packages import apk, dpkg, golang, java, npm, os_release, python, rpm
from airgap_images.contents.packages.package import Gap, Package, Release, Text
from airgap_images.contents.packages.seen import seen
from airgap_images.contents.packages.sieve import Kept, Seen, Sieve, Unkept
from airgap_images.contents.rootfs import Rootfs
from airgap_images.contents.tree import File
from airgap_images.layout import Layout, Progress
from airgap_images.oci import Manifest

READERS: tuple[ModuleType, ...] = (os_release, dpkg, apk, rpm, python, npm)
MAX_PACKAGES = 200_000  # of one image
LARGEST = 10  # unowned ELF files named

Found = tuple[tuple[str, File], ...]


@dataclass(frozen=True, slots=True)
class Programs:
    """ELF files of an image: how many, how many of them a package owns, how many others name their Go modules themselves.

    ``largest`` are the largest of the rest as (path, bytes).
    """

    total: int
    owned: int
    named: int
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in an image of ``files`` entries that unpack to ``size`` bytes. ``seen`` is what was not read, and how often."""

    release: Release
    packages: tuple[Package, ...]
    programs: Programs
    gaps: tuple[Gap, ...]
    seen: tuple[tuple[str, int], ...]
    files: int
    size: int


def read(layout: Layout, manifest: Manifest, progress: Progress | None = None) -> Contents:
    """Read what is inside an image; raises IntegrityError or InvalidFileError if its layers cannot be read as an image's.

    ``progress`` is told, from several threads, of the layers' bytes as they are in the store.
    """
    sieve = Sieve(READERS, archive=java.archive, seen=_seen, program=golang.program)
    return contents(rootfs.read(layout, manifest, sieve, progress))


def contents(root: Rootfs) -> Contents:
    """Return what the files of an image say."""
    found = tuple(root.tree.walk())
    texts, seen_ = _texts(root, found), Counter(file.found.what for _, file in found if isinstance(file.found, Seen))
    release = os_release.release(_release(root, texts[os_release.KIND]))
    packages: list[Package] = []
    gaps = [Gap(path, file.found.why) for path, file in found if isinstance(file.found, (Unkept, java.Archive)) and file.found.why]
    for one in _all(root, found, texts, release):
        if isinstance(one, Gap):
            gaps.append(one)
        else:
            packages.append(one)
        if len(packages) > MAX_PACKAGES:
            gaps.append(Gap("", f"more than {MAX_PACKAGES} packages; the rest is not listed"))
            break
    gaps += [Gap("", f"{count} files and folders are left out: {why}") for why, count in root.left_out]
    seen_.update("Go programs built before Go 1.18" for _, file in found if isinstance(file.found, golang.Program) and file.found.old)
    ordered = tuple(sorted(packages, key=lambda package: (package.type, package.name, package.version, package.path)))
    return Contents(release, ordered, _programs(root, found, packages), tuple(gaps), tuple(sorted(seen_.items())), root.entries, root.size)


def _all(root: Rootfs, found: Found, texts: Mapping[str, dict[str, Text]], release: Release) -> Iterator[Package | Gap]:
    for reader in READERS[1:]:
        yield from reader.packages(texts[reader.KIND], release)
    for path, file in found:
        if isinstance(file.found, golang.Program):
            yield from golang.packages(file.found, path, root.layers[file.layer])
        elif isinstance(file.found, java.Archive):
            yield from java.packages(file.found, path, root.layers[file.layer])
        elif isinstance(file.found, Seen) and file.found.what in _OLD_RPM:
            yield Gap(path, f"is an rpm database in the format {file.found.what}, which is not read")


_OLD_RPM = frozenset(rpm.OTHER.values())


def _seen(path: str, name: str) -> Seen | None:
    old = rpm.old_format(path, name)
    return Seen(old) if old else seen(path, name)


def _texts(root: Rootfs, found: Found) -> Mapping[str, dict[str, Text]]:
    texts: dict[str, dict[str, Text]] = {reader.KIND: {} for reader in READERS}
    for path, file in found:
        if isinstance(file.found, Kept):
            texts[file.found.kind][path] = Text(path, file.found.data, root.layers[file.layer])
    return texts


def _release(root: Rootfs, texts: Mapping[str, Text]) -> Text | None:
    for path in os_release.PATHS:
        file = root.tree.lookup(path, follow=True)
        if isinstance(file, File) and isinstance(file.found, Kept):
            return texts.get(path) or Text(path, file.found.data, root.layers[file.layer])
    return None


def _programs(root: Rootfs, found: Found, packages: list[Package]) -> Programs:
    programs = [(path, file) for path, file in found if isinstance(file.found, golang.Program)]
    owned: set[int] = set()
    folders: set[str] = set()
    for package in packages:
        for path in package.files:
            if path.endswith("/"):
                folders.add(path)
            else:
                owned.add(id(root.tree.lookup(path)))
    rest = [(path, file) for path, file in programs if id(file) not in owned and not _below(path, folders)]
    unnamed = [(path, file.size) for path, file in rest if not file.found.info]
    largest = tuple(sorted(unnamed, key=lambda one: (-one[1], one[0]))[:LARGEST])
    return Programs(len(programs), len(programs) - len(rest), len(rest) - len(unnamed), largest)


def _below(path: str, folders: set[str]) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:end]) + "/" in folders for end in range(1, len(parts)))
