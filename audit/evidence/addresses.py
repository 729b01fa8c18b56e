"""Which texts are addresses that a document may carry as such: http URLs and e-mail addresses of the plain forms.

Rules: a text comes from strangers; what is not plainly an address stays a text; user names and passwords in URLs are refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from packageurl import PackageURL

from airgap_images.oci import Pairs
from audit.evidence.item import LOCAL

MAX_URL = 2048  # characters
MAX_MAIL = 254  # characters, RFC 5321
_MAX_PORT = 65535
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_SAFE = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
_QUERY = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
_URL = re.compile(
    rf"https?://(?:(?:{_LABEL}\.)*{_LABEL}|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?(?:/{_SAFE})?(?:\?{_QUERY})?(?:#{_QUERY})?",
    re.IGNORECASE | re.ASCII,
)
_MAIL = re.compile(rf"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@(?:{_LABEL.replace('_', '')}\.)+[a-z]{{2,63}}", re.IGNORECASE | re.ASCII)
_MAX_LOCAL = 64  # characters before the @, RFC 5321
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|[0-9a-f:.]+")
_URL_SAFE = "/%:!$&'()*+,;=~-._"


def url(text: str | None) -> str | None:
    """Return ``text`` if it is an http or https URL in plain ASCII without a user, else None."""
    found = _URL.fullmatch(text) if text and len(text) <= MAX_URL else None
    if found is None or int(found["port"] or 0) > _MAX_PORT:
        return None
    if found["v6"]:
        try:
            ipaddress.IPv6Address(found["v6"])
        except ValueError:
            return None
    return text


def mail(text: str | None) -> str | None:
    """Return ``text`` if it is one plain e-mail address, else None."""
    if not text or len(text) > MAX_MAIL or not _MAIL.fullmatch(text):
        return None
    return text if len(text.partition("@")[0]) <= _MAX_LOCAL else None


def host(text: str | None) -> str | None:
    """Return scheme and host of an address, else None."""
    return "/".join(text.split("/")[:3]).split("?")[0].split("#")[0] if text and url(text) else None


def origin(url: str) -> str | None:
    """Return an address without user, password, query and fragment; ``local`` for a file; None if it is no address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if parts.scheme == "file":
        return LOCAL
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host):
        return None
    where = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{where}{f':{port}' if port else ''}{quote(parts.path, safe=_URL_SAFE)}"


def public(facts: Mapping[str, str]) -> Pairs:
    """Return facts in order; one that is an address loses user, password and query like every other address."""
    return tuple((key, (origin(text) or "") if "://" in text else text) for key, text in sorted(facts.items()))


def make_purl(kind: str, namespace: str | None, name: str, version: str | None, qualifiers: Mapping[str, str]) -> str | None:
    """Return a package URL, or None where the texts make none."""
    try:
        return PackageURL(kind, namespace, name, version, dict(qualifiers)).to_string()
    except (ValueError, TypeError):  # TypeError: the library's own, for a name of which nothing is left, such as "/"
        return None


def contact(text: str | None) -> str | None:
    """Return an address without user, password and query, or one of mail."""
    return (origin(text) if "://" in text else mail(text)) if text else None
