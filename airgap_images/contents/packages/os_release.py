"""What system an image is: ``os-release`` (os-release(5))."""

from __future__ import annotations

import re

from airgap_images.contents.packages.package import Release, Text

KIND = "os-release"
PATHS = ("etc/os-release", "usr/lib/os-release")
MAX_FILE = 64 << 10  # bytes
_LINE = re.compile(r"([A-Z][A-Z0-9_]*)=(?:\"(.*)\"|'(.*)'|(.*))")


def limit(path: str, name: str) -> int:
    """Return how many bytes of a file may be kept."""
    return MAX_FILE if name == "os-release" and path in PATHS else 0


def release(file: Text | None) -> Release:
    """Return what the file says."""
    found: dict[str, str] = {}
    for line in file.lines() if file else ():
        if match := _LINE.fullmatch(line.strip()):
            found[match[1]] = re.sub(r"\\(.)", r"\1", match[2] or match[3] or match[4] or "")
    return Release(found.get("ID", ""), found.get("VERSION_ID", ""), found.get("PRETTY_NAME", ""))
