"""What is seen in an image and not read by this version: named, so that nobody takes a list without it for a whole one."""

from __future__ import annotations

import re

from airgap_images.contents.packages.sieve import Seen

_PATHS = (
    (re.compile(r"(?:.*/)?conda-meta/[^/]+-[^/]+-[^/]+\.json"), "conda packages"),
    (re.compile(r"(?:.*/)?specifications/(?:default/)?[^/]+\.gemspec"), "Ruby gems"),
    (re.compile(r"(?:.*/)?vendor/composer/installed\.json"), "PHP packages (Composer)"),
    (re.compile(r"(?:.*/)?[^/]+\.rockspec"), "Lua rocks"),
    (re.compile(r"(?:.*/)?[^/]+\.deps\.json"), ".NET packages"),
    (re.compile(r"(?:.*/)?var/lib/pacman/local/[^/]+/desc"), "Arch Linux packages"),
    (re.compile(r"var/db/pkg/[^/]+/[^/]+/CONTENTS"), "Gentoo packages"),
    (re.compile(r"nix/var/nix/db/db\.sqlite"), "Nix packages"),
    (re.compile(r"(?:.*/)?usr/(?:local/)?lib/R/(?:site-)?library/[^/]+/DESCRIPTION"), "R packages"),
    (re.compile(r"(?:.*/)?lib/erlang/lib/[^/]+/ebin/[^/]+\.app"), "Erlang applications"),
    (re.compile(r"usr/lib/opkg/status|var/lib/opkg/status"), "opkg packages"),
    (re.compile(r"(?:.*/)?snap/manifest\.yaml"), "snap packages"),
)
_ENDS = (".json", ".gemspec", ".rockspec", "desc", "CONTENTS", "db.sqlite", "DESCRIPTION", ".app", "status", "manifest.yaml")


def seen(path: str, name: str) -> Seen | None:
    """Return what a file tells of, or None."""
    if not name.endswith(_ENDS):
        return None
    return next((Seen(what) for pattern, what in _PATHS if pattern.fullmatch(path)), None)
