"""How a page is made: one HTML file that loads nothing, with a policy that lets only its own style and script act.

Rules: every text is escaped by the template engine and loses control characters, among them those that reverse the direction of
writing; style and script stand in the page and are named by their digests, so that nothing else can act in it; what the
script does is a convenience, and the page is whole without it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from manifests import canonical
from manifests.paths import printable

MAX_TEXT = 4000  # characters of one cell
MARKS = {"good": "✓", "bad": "✕", "warn": "!", "unknown": "?", "neutral": "-"}  # beside every colour stands a sign and a word
_LOADER = PackageLoader("audit.evidence")


def render(template: str, style: str, script: str | None = None, **values: Any) -> bytes:
    """Return a page of ``template`` with the files ``style`` and ``script`` in it; the same values are always the same bytes."""
    css = _source(style)
    code = _source(script) if script else ""
    acting = f"; script-src '{_digest(code)}'" if code else ""
    rules = f"default-src 'none'; style-src '{_digest(css)}'{acting}; base-uri 'none'; form-action 'none'"
    text = _environment().get_template(template).render(css=Markup(css), code=Markup(code), rules=rules, **values)  # noqa: S704 - our own files
    return text.encode("utf-8", "backslashreplace")


def size(count: int) -> str:
    """Write a number of bytes with a binary unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - binary units
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def counted(count: int, what: str) -> str:
    """Write a number with the thing that is counted, in the plural where it is due."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def grouped(text: str) -> str:
    """Write a digest in groups of four characters, to be read aloud and compared."""
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=_LOADER,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"marks": MARKS, "counted": counted}
    made.filters |= {"size": size, "stamp": canonical.stamp, "number": "{:,}".format, "grouped": grouped}
    made.filters["inside_type"] = lambda facts: dict(facts).get("type", "")
    return made


@functools.cache
def _source(name: str) -> str:
    return _LOADER.get_source(_environment(), name)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _clean(value: Any) -> Any:
    """Drop control characters from every text that is put into the page; markup of the template itself stays."""
    if not isinstance(value, str) or isinstance(value, Markup) or (len(value) <= MAX_TEXT and value.isprintable()):
        return value
    return printable(value, MAX_TEXT)
