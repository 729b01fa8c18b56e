"""Container images are made to run with as little power as they need, and are there for the platform they are carried for.

Only the configuration of an image is read (OCI image-spec, "Image Configuration"); how a site starts it can take the power away again, or
add to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from airgap_images.bundle import Component, unwrap
from airgap_images.layout import Layout
from airgap_images.oci import INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Index, Manifest, parse_document
from airgap_images.platform import Platform, is_attestation
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject
from audit.checks.secrets import found
from manifests import canonical
from manifests.errors import AirgapError
from manifests.paths import printable

ID = "images"
TITLE = "Images do not run as root, hold no secret, and are there for the platform"
GATE: str | None = "images"
LIMITS = (
    "How a site starts an image is not known here: it can take rights away from it, and give it more.",
    "Files inside that run as another user (setuid) are not looked for.",
)
DOC = "docs/checks.md#images"
MAX_CONFIG = 4 << 20  # bytes
MAX_PLATFORMS = 64
MAX_LEVELS = 3
LOW_PORTS = 1024
ROOT = re.compile(r"(?:root|0)?(?::.*)?")
REMEDIES = {
    "root": "start it with a user of its own (`user:` in compose, `runAsNonRoot` in Kubernetes), or take an image that has one",
    "secret": "take an image without it, and replace the secret where it is valid",
    "platform": "if that is not on purpose, carry it for the platform of the bundle: `platform` of the component, or another tag",
    "mislabelled": "take another image: an engine would start what is not for its machine, or something else than was asked for",
    "port": "map it to a port above 1023, so that it needs no right to bind a low one",
}


def run(subject: Subject) -> Iterator[Note]:
    """Examine the configuration of every manifest of every image."""
    for component in subject.components:
        if component.form != "image":
            continue
        try:
            manifests = tuple(_manifests(subject.layout, unwrap(subject.layout, component.root)))
        except AirgapError as error:
            yield NotAssessed(ID, component.name, "", error.message)
            continue
        platforms: list[str] = []
        for entry in manifests[:MAX_PLATFORMS]:
            yield from _image(subject.layout, component, entry, platforms)
        yield from _platform(component, subject.platform, platforms)


def _manifests(layout: Layout, root: Descriptor, level: int = 0) -> Iterator[Descriptor]:
    if root.media_type in MANIFESTS:
        yield root
        return
    document = parse_document(root, layout.read(root, MAX_MANIFEST)) if root.media_type in INDEXES and level < MAX_LEVELS else None
    for entry in document.manifests if isinstance(document, Index) else ():
        if not is_attestation(entry):
            yield from _manifests(layout, entry, level + 1)


def _image(layout: Layout, component: Component, entry: Descriptor, platforms: list[str]) -> Iterator[Note]:
    try:
        manifest = Manifest.parse(layout.read(entry, MAX_MANIFEST), f"blobs/sha256/{entry.digest.hex}")
        value = canonical.parse(layout.read(manifest.config, MAX_CONFIG), "configuration", limit=MAX_CONFIG)
    except AirgapError as error:
        yield NotAssessed(ID, component.name, "", error.message)
        return
    if not isinstance(value, dict) or "rootfs" not in value:
        return  # no container image: another kind of artifact
    stated = f"{value.get('os', '')}/{value.get('architecture', '')}"
    listed = Platform.said(entry)
    platform = str(listed) or stated
    platforms.append(stated)
    yield Examined(component.name, platform)
    if listed.os not in {"", "unknown"} and f"{listed.os}/{listed.architecture}" != stated:
        message = f"its index lists it as {printable(platform, 80)}, its configuration says {printable(stated, 80)}"
        yield _finding(component, "high", message, "mislabelled")
    config = value.get("config")
    yield from _configuration(component, platform, config if isinstance(config, dict) else {})


def _configuration(component: Component, platform: str, config: dict[str, Any]) -> Iterator[Finding]:
    user = config.get("User") or ""
    if not isinstance(user, str) or ROOT.fullmatch(user):
        yield _finding(component, "medium", f"{platform}: runs as root, unless the site says otherwise", "root")
    variables = config.get("Env")
    for line in variables if isinstance(variables, list) else ():
        for kind, severity, _, value in found(line.encode("utf-8", "replace")) if isinstance(line, str) else ():
            name = printable(line.partition("=")[0], 60)
            message = f"{platform}: the variable {name} of its configuration holds a {kind} of {len(value)} characters"
            yield _finding(component, severity, message, "secret")
    ports = config.get("ExposedPorts")
    low = sorted(port for port in (ports if isinstance(ports, dict) else ()) if _is_low(port))
    if low:
        yield _finding(component, "info", f"{platform}: listens on {', '.join(low[:5])}, which only root or a granted right may", "port")


def _platform(component: Component, wanted: str | None, there: list[str]) -> Iterator[Finding]:
    if wanted and there and not any(wanted == platform or wanted.startswith(f"{platform}/") for platform in there):
        names = printable(", ".join(sorted(set(there))), 200)
        yield _finding(component, "medium", f"is for {names}, the bundle for {wanted}", "platform")


def _is_low(port: str) -> bool:
    number = port.partition("/")[0]
    return number.isdigit() and len(number) <= len(str(LOW_PORTS)) and 0 < int(number) < LOW_PORTS


def _finding(component: Component, severity: Severity, message: str, about: str) -> Finding:
    return Finding(ID, severity, component.name, "", message, REMEDIES[about], DOC, about=about)
