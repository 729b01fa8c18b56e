"""An OpenID Connect identity token (RFC 7519): who it says its bearer is, as a Sigstore certificate authority will put it.

A token is a secret for as long as it lives: nothing here shows one. Nothing here verifies one either: the authority it is sent to does.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from manifests import canonical
from manifests.errors import InvalidFileError, UsageError
from manifests.lock import read_bounded
from manifests.paths import printable

AUDIENCE = "sigstore"
MAX_TOKEN = 64 << 10  # characters; those in use have some 1,500
LEEWAY = timedelta(seconds=5)
GITHUB = "https://token.actions.githubusercontent.com"
_JWT = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")  # head, claims, signature; RFC 7515
WAYS = (
    "give one with --identity-token-file FILE or SIGSTORE_ID_TOKEN, for the audience `sigstore`, or sign in a CI that has one: "
    "GitHub Actions with `permissions: id-token: write`, GitLab with `id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore`"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose token it is: the names a certificate for it can bear, the likeliest first, and who states them."""

    token: str = field(repr=False)
    names: tuple[str, ...]
    issuer: str


def from_file(path: Path) -> str:
    """Return the token in a file; raises UsageError if the file cannot be read."""
    return read_bounded(path, MAX_TOKEN).decode(errors="replace").strip()


def read(token: str, now: datetime) -> Identity:
    """Return whose token it is; raises UsageError if it is none, is for another service, or is no longer (or not yet) valid."""
    claims = _claims(token)
    issuer, audience = claims.get("iss"), claims.get("aud")
    if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
        message = f"identity token: is for {printable(str(audience), 100)!r}, not for {AUDIENCE!r}"
        raise UsageError(message, hint=f"ask for one whose audience (`aud`) is {AUDIENCE}")
    _check_time(claims, now)
    names = tuple(dict.fromkeys(_names(claims)))
    if not isinstance(issuer, str) or not names:
        raise UsageError("identity token: does not say whose it is (`iss` and `sub`)", hint=WAYS)
    federated = claims.get("federated_claims")
    stated = federated.get("connector_id") if isinstance(federated, dict) else None
    return Identity(token, names, stated if isinstance(stated, str) else issuer)


def _claims(token: str) -> dict[str, Any]:
    form = _JWT.fullmatch(token) if len(token) <= MAX_TOKEN else None
    encoded = form.group(1) if form else ""
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        claims = canonical.parse(raw, "identity token", limit=MAX_TOKEN)
    except (ValueError, InvalidFileError):
        claims = None
    if not isinstance(claims, dict):
        raise UsageError("identity token: not an OpenID Connect token (a JWT)", hint=WAYS)
    return claims


def _check_time(claims: dict[str, Any], now: datetime) -> None:
    start, end = _time(claims.get("nbf", 0)), _time(claims.get("exp"))
    if start is None or end is None:
        raise UsageError("identity token: does not say until when it is valid (`exp`)", hint=WAYS)
    if end <= now:
        hint = "get a new one right before signing; they live for minutes"
        raise UsageError(f"identity token: expired at {canonical.stamp(end)}", hint=hint)
    if start > now + LEEWAY:
        raise UsageError(f"identity token: not valid before {canonical.stamp(start)}", hint="set this machine's clock")


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(value, UTC) if type(value) in (int, float) else None
    except (ValueError, OverflowError, OSError):
        return None


def _names(claims: dict[str, Any]) -> Iterator[str]:
    """Yield the subjectAltNames that Fulcio gives for claims: of workflows and pipelines, of service accounts, of people."""
    issuer = str(claims.get("iss"))
    if isinstance(ref := claims.get("job_workflow_ref"), str):
        server = "https://github.com" if issuer == GITHUB else issuer.removesuffix("/_services/token")
        yield f"{server}/{ref}"
    if isinstance(ref := claims.get("ci_config_ref_uri"), str):
        yield f"https://{ref}"
    if isinstance(account := claims.get("kubernetes.io"), dict) and isinstance(service := account.get("serviceaccount"), dict):
        yield f"https://kubernetes.io/namespaces/{account.get('namespace')}/serviceaccounts/{service.get('name')}"
    if isinstance(slug := claims.get("pipeline_slug"), str):
        yield f"https://buildkite.com/{claims.get('organization_slug')}/{slug}"
    yield from (name for name in (claims.get("email"), claims.get("sub")) if isinstance(name, str) and name)
