"""Package repositories among what is installed: how the machine's own package manager is told of them.

A repository of kind ``apt`` keeps what its archive signed; apt verifies that once more with the keyring beside it. Format of the file
that is written: deb822-style sources (sources.list(5)). Rules: nothing in the store is changed; the file is written whole or not at all;
what it says comes from the installed repository, checked word by word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airgap_images.layout import read_regular, write_atomic
from audit.install.store import CURRENT, Store
from manifests import canonical
from manifests.errors import SiteError, UsageError
from manifests.lock import parse_model
from manifests.paths import NAME, printable
from manifests.repository import ABOUT, KEYRING, About

MAX_ABOUT = 1 << 20  # bytes
FOLDER = Path("/etc/apt/sources.list.d")


@dataclass(frozen=True, slots=True)
class Added:
    """A repository the machine was told of: its name, where it stands, the file that says so, and whether that changed."""

    name: str
    folder: Path
    file: Path
    changed: bool
    about: About


def sources(store: Store, name: str) -> tuple[str, About]:
    """Return the text of a sources file for an installed repository, and what the repository says of itself.

    Raises UsageError if there is none of that name, InvalidFileError if what it says of itself is not of its form.
    """
    folder = _folder(store, name)
    raw = read_regular(folder / ABOUT, f"{name}/{ABOUT}", MAX_ABOUT)
    about = parse_model(About, canonical.parse(raw, f"{name}/{ABOUT}", limit=MAX_ABOUT), f"{name}/{ABOUT}", "distrust this bundle")
    if any(character in str(folder) for character in " \t\n"):
        raise SiteError(f"{folder}: apt reads no path with blanks", hint="keep the store in a folder without them")
    lines = {
        "Types": "deb",
        "URIs": f"file:{folder}",
        "Suites": " ".join(about.suites),
        "Components": " ".join(about.components),
        "Architectures": about.architecture,
        "Signed-By": str(folder / KEYRING),
        "Targets": "Packages",  # translations and lists of contents are not carried
        "Languages": "none",
        "By-Hash": "no",
        "Check-Valid-Until": "no" if about.expires else "",  # it passes behind the gap; how old it is, the bundle's statement says
    }
    head = f"# {name}: installed by airgap-audit; written by `airgap-audit repository add {name}`\n"
    return head + "".join(f"{key}: {value}\n" for key, value in lines.items() if value), about


def add(store: Store, name: str, file: Path | None = None) -> Added:
    """Write the sources file of an installed repository, by default where apt looks for it; raises SiteError where it cannot be written."""
    text, about = sources(store, name)
    target = file or FOLDER / f"airgap-{name}.sources"
    before = target.read_text() if target.is_file() else None
    if before != text:
        try:
            write_atomic(target, text.encode(), mode=0o644)
        except OSError as error:
            hint = "run this as root, or name another file with --out"
            raise SiteError(f"{target}: cannot be written: {error.strerror}", hint=hint) from None
    return Added(name, _folder(store, name), target, before != text, about)


def _folder(store: Store, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise UsageError(f"{printable(name, 60)!r} is no name of a component", hint="`airgap-audit status` lists what is installed")
    if store.current() is None:
        raise UsageError(f"{store.root}: nothing is installed", hint="`airgap-audit install` first")
    folder = store.root.resolve() / CURRENT / name
    if not (folder / ABOUT).is_file():
        there = sorted(path.parent.name for path in (store.root / CURRENT).glob(f"*/{ABOUT}"))
        hint = f"there are: {', '.join(there)}" if there else "a component of kind `apt` brings one"
        raise UsageError(f"{name}: no package repository is installed under this name", hint=hint)
    return folder


