"""Kind ``apt``: Debian packages with all they need become a repository that the target's own apt accepts.

The tree keeps what the archive signed: ``dists/SUITE/InRelease`` as it came, the indexes it lists, and at their own paths those packages
of the archive that are carried. So the target's apt verifies upstream's signature once more, with the keyring in the tree, and no key of
ours is needed. Every package is chained to it: Release → index → sha256.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from pydantic import Field, StringConstraints, field_validator

from airgap_images.remote.http import Client, Credentials, NoCredentials
from airgap_images.remote.registries import Registries
from bundler import apttool
from bundler.apttool import Answer, Archive, Deb
from bundler.folder import locate
from bundler.sources import Context
from manifests import canonical
from manifests.errors import IntegrityError, UsageError
from manifests.lock import Frozen, Inline, LockedComponent, Pin
from manifests.paths import check_disjoint, check_relative, printable
from manifests.repository import ABOUT, FORMAT, KEYRING, About, Suite, Word

KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/ubuntu-archive-keyring.gpg")
MAX_KEYRING = 4 << 20  # bytes
MAX_STATUS = 64 << 20  # bytes of a target's dpkg status
PACKED = (".xz", ".gz", "")
Package = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+~:-]+)?$", max_length=200)]
_NAMED = re.compile(r"([a-z0-9][a-z0-9+.-]+)_([^_/]+)_([a-z0-9]+)\.deb")


class Options(Frozen):
    """Which packages, of which archive, signed by whom."""

    packages: tuple[Package, ...] = Field(min_length=1, max_length=2000, strict=False, description="names, or name=version")
    suite: Suite | tuple[Suite, ...] = Field(description="such as bookworm, or a list; a path that ends in / is a flat repository")
    components: tuple[Word, ...] = Field(default=("main",), min_length=1, strict=False, description="such as main")
    mirror: str | None = Field(
        default=None, max_length=500, pattern=r"^https?://[^\s'\"@?#]+$", description="as this machine's own sources say when absent"
    )
    keyring: str | None = Field(
        default=None, max_length=4096, description="file of the keys its Release must be signed by; Debian's when absent"
    )
    recommends: bool = Field(default=False, description="whether to carry recommended packages, too")
    status: str | None = Field(default=None, max_length=4096, description="the target's /var/lib/dpkg/status: what is there is not carried")

    @field_validator("suite", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @property
    def suites(self) -> tuple[str, ...]:
        """Return the suites as a list."""
        return (self.suite,) if isinstance(self.suite, str) else self.suite


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return the packages and everything they need; raises IntegrityError for an archive that is not signed as it must be."""
    if any(suite.endswith("/") for suite in options.suites) and len(options.suites) > 1:
        raise UsageError(f"{name}: a flat repository is a component of its own", hint="name it alone as `suite`")
    keyring = _keyring(name, options, context)
    mirror = (options.mirror or apttool.configured(options.suites[0]) or "").rstrip("/")
    if not mirror:
        hint = "name its address as `mirror`"
        raise UsageError(f"{name}: this machine's own sources name no archive of suite {options.suites[0]}", hint=hint)
    archive = Archive(mirror, options.suites, options.components, context.target.architecture, keyring)
    status = locate(context.folder, options.status, name).read_bytes() if options.status else b""
    if len(status) > MAX_STATUS:
        hint = "name the target's /var/lib/dpkg/status"
        raise UsageError(f"{name}: {printable(options.status or '')}: more than {MAX_STATUS} bytes", hint=hint)
    root = Path(tempfile.mkdtemp(prefix="airgap-apt-"))
    try:
        answer = apttool.solve(name, archive, options.packages, root, recommends=options.recommends, status=status)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return _component(name, role, options, archive, answer)


def credentials(_client: Client, _registries: Registries) -> Credentials:
    """Return no credentials beyond what the client itself takes from the host's own files."""
    return NoCredentials()


def _component(name: str, role: str | None, options: Options, archive: Archive, answer: Answer) -> LockedComponent:
    debs = sorted((_deb(name, archive.mirror, deb) for deb in answer.debs), key=lambda pin: pin.path)
    raw = archive.keyring.read_bytes()
    keys = Pin(path=KEYRING, url=f"file:{archive.keyring}", size=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    found = [(suite, text, list(_indexes(name, archive, suite, text))) for suite, text in answer.releases.items()]
    stated = {"format": FORMAT, "suites": archive.suites, "architecture": archive.architecture, "recommends": options.recommends}
    stated["components"] = () if archive.suites[0].endswith("/") else archive.components
    about = About.model_validate(stated | {"expires": any("\nValid-Until:" in text for _, text, _ in found)})
    texts = [Inline(path=f"{_folder(suite)}InRelease", text=text) for suite, text, _ in found]
    pins = (*debs, keys, *(pin for _, _, listed in found for pin in listed))
    check_disjoint(tuple(pin.path for pin in pins), name)
    return LockedComponent(
        name=name,
        kind="apt",
        form="tree",
        role=role,
        identity={
            "packages": str(len(debs)),
            "suites": " ".join(archive.suites),
            "distro": _distro(found[0][1]),
            "keyring": keys.sha256,
            "platform": f"linux/{archive.architecture}",
        },
        facts={
            "requested": " ".join(options.packages),
            "bytes": str(sum(pin.size for pin in debs)),
            "recommends": "carried" if options.recommends else "not carried",
            "target": "as its dpkg status says" if options.status else "clean",
        }
        | {f"release.{suite.strip('/') or 'flat'}": _dated(text) for suite, text, _ in found},
        files=tuple(sorted(pins, key=lambda pin: pin.path)),
        inline=(*texts, Inline(path=ABOUT, text=canonical.readable(about.model_dump(mode="json")).decode())),
    )


def _deb(name: str, mirror: str, deb: Deb) -> Pin:
    if not deb.url.startswith(f"{mirror}/"):
        raise IntegrityError(f"{name}: {printable(deb.url)} is not below the mirror", hint="name a mirror that has its packages itself")
    path = check_relative(re.sub(r"^(?:\./)+", "", unquote(deb.url.removeprefix(f"{mirror}/"))), name)  # flat ones say ./NAME
    found = _NAMED.fullmatch(unquote(deb.name))
    stated = {"package": found[1], "version": found[2], "architecture": found[3]} if found else {}
    return Pin(path=path, url=deb.url, size=deb.size, sha256=deb.sha256, evidence=stated)


def _indexes(name: str, archive: Archive, suite: str, release: str) -> Iterator[Pin]:
    """Yield the index of packages of each component, as the Release lists it; the smallest packing of it."""
    listed = {path: (size, sha256) for path, size, sha256 in apttool.indexes(release)}
    folders = [""] if suite.endswith("/") else [f"{component}/binary-{archive.architecture}/" for component in archive.components]
    for folder in folders:
        path = next((f"{folder}Packages{ending}" for ending in PACKED if f"{folder}Packages{ending}" in listed), None)
        if path is None:
            where = folder.rstrip("/") or archive.architecture
            raise UsageError(f"{name}: suite {suite} has no packages of {where}", hint="check `components` and target.platform")
        size, sha256 = listed[path]
        place = f"{_folder(suite)}{path}"
        yield Pin(path=check_relative(place, name), url=f"{archive.mirror}/{place}", size=size, sha256=sha256, evidence={"index": suite})


def _folder(suite: str) -> str:
    return suite.lstrip("/") if suite.endswith("/") else f"dists/{suite}/"


def _dated(release: str) -> str:
    """Return what a Release says of itself and when it was made."""
    said = dict(line.split(": ", 1) for line in release.splitlines() if re.match(r"(?:Origin|Codename|Version|Date): ", line))
    return printable(" ".join(said[key] for key in ("Origin", "Version", "Codename", "Date") if key in said), 200)


def _distro(release: str) -> str:
    """Return the system a Release is of, as package URLs name it: ``debian-12``, ``ubuntu-24.04``; empty for archives of others."""
    said = dict(line.split(": ", 1) for line in release.splitlines() if re.match(r"(?:Origin|Version): ", line))
    origin, version = said.get("Origin", "").strip().lower(), said.get("Version", "").strip()
    if origin not in {"debian", "ubuntu"} or not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", version):
        return ""
    return f"{origin}-{version.partition('.')[0] if origin == 'debian' else version}"


def _keyring(name: str, options: Options, context: Context) -> Path:
    there = next((Path(place) for place in KEYRINGS if Path(place).is_file()), None)
    path = locate(context.folder, options.keyring, name) if options.keyring else there
    if path is None:
        raise UsageError(f"{name}: no keyring of an archive is on this machine", hint="name the file of its keys as `keyring`")
    if path.stat().st_size > MAX_KEYRING:
        raise UsageError(f"{name}: {path} is larger than {MAX_KEYRING} bytes, and no keyring", hint="check `keyring`")
    return path.resolve()
