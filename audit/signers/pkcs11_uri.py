"""PKCS#11 URIs (RFC 7512) that name one private key on one token. Text in, a value out.

Rules: an attribute that would narrow the choice and is not known here is refused, never ignored; a PIN in the URI is refused; no value
of the query is ever shown; the library is named by its whole path, so that what is loaded is what is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from manifests.errors import UsageError
from manifests.paths import printable

MAX_URI = 4096  # characters
MAX_SLOT = 10  # digits of an unsigned 32-bit number
EXAMPLE = "pkcs11:token=TOKEN;object=LABEL?module-path=/usr/lib/softhsm/libsofthsm2.so"
_PART = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*")  # RFC 7512, section 2.3: pk11-pchar
_QUERY = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*")  # pk11-qchar
_PATH_NAMES = frozenset({"token", "serial", "manufacturer", "model", "slot-id", "object", "id", "type"})
_QUERY_NAMES = frozenset({"module-path", "pin-source", "x-public-key"})
_REFUSED = {
    "pin-value": ("a PIN in a command line can be read by everybody on this machine", "leave it out; change the PIN if it was real"),
    "module-name": ("names no one file", "write `module-path=` with the whole path of the token's library"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a private key is: the library to load, the token and the key in it. What is None may be anything.

    ``pin_source`` is a file with the PIN; ``public_key`` a PEM file for tokens that keep only the private half.
    """

    module: Path
    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot: int | None = None
    label: str | None = None
    id: bytes | None = None
    pin_source: Path | None = None
    public_key: Path | None = None


def parse(rest: str) -> Place:
    """Return what the part of a URI behind ``pkcs11:`` names; raises UsageError, which never repeats a value of the query."""
    if len(rest) > MAX_URI:
        raise _refusal(f"is longer than {MAX_URI} characters")
    path, _, query = rest.partition("?")
    named = _attributes(path.split(";"), _PATH_NAMES, _PART)
    asked = _attributes(query.split("&"), _QUERY_NAMES, _QUERY)
    texts = {name: _text(name, value) for name, value in named.items() if name != "id"}
    if texts.pop("type", "private") != "private":
        raise _refusal("`type` is not `private`", "a signature is made with a private key: write `type=private`, or leave it out")
    slot = texts.pop("slot-id", None)
    label = texts.pop("object", None)
    return Place(
        module=_module(asked),
        slot=None if slot is None else _slot(slot),
        label=label,
        id=named.get("id"),
        pin_source=_file(asked, "pin-source"),
        public_key=_file(asked, "x-public-key"),
        **texts,
    )


def _attributes(parts: list[str], known: frozenset[str], form: re.Pattern[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in parts if parts != [""] else ():
        name, separator, value = part.partition("=")
        if name in _REFUSED:
            reason, hint = _REFUSED[name]
            raise _refusal(f"`{name}`: {reason}", hint)
        if name not in known or not separator:
            said = printable(name, 40) if re.fullmatch(r"[a-z-]+", name) else "something"
            raise _refusal(f"{said!r} is not an attribute that is known here", f"known are {', '.join(sorted(known))}")
        if name in found:
            raise _refusal(f"`{name}` stands twice")
        if not form.fullmatch(value):
            raise _refusal(f"`{name}` has a character that must be percent-encoded", "write %20 for a blank, %3B for a semicolon")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _refusal(f"`{name}` is not UTF-8") from None


def _slot(text: str) -> int:
    if not re.fullmatch(rf"[0-9]{{1,{MAX_SLOT}}}", text):
        raise _refusal("`slot-id` is not a number")
    return int(text)


def _module(asked: dict[str, bytes]) -> Path:
    if "module-path" not in asked:
        raise _refusal("names no library", "add `?module-path=` with the path of the library that came with the token")
    path = Path(_text("module-path", asked["module-path"]))
    if not path.is_absolute() or "\0" in str(path):
        raise _refusal("`module-path` is not an absolute path", "write the whole path, so that what is loaded is what you name")
    return path


def _file(asked: dict[str, bytes], name: str) -> Path | None:
    if name not in asked:
        return None
    text = _text(name, asked[name])
    path = text.removeprefix("file:").removeprefix("//") if text.startswith("file:") else text
    if not (text.startswith("file:") or path.startswith("/")) or not path or "\0" in path:
        raise _refusal(f"`{name}` is not a file", f"write `{name}=file:PATH`; commands and other sources are not used")
    return Path(path)


def _refusal(reason: str, hint: str = f"write it as {EXAMPLE}") -> UsageError:
    return UsageError(f"key pkcs11: {reason}", hint=hint)
