"""What a registry's refusal to take something means, in words with the next step."""

from __future__ import annotations

from airgap_images.reference import Reference
from airgap_images.remote.registry import RegistryCredentials
from airgap_images.remote.web import Credentials, HttpError
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError, NetworkError, SiteError
from manifests.paths import printable

NOT_ALLOWED = frozenset({401, 403})
NOT_FOUND = 404
TOO_LARGE = 413
FULL = 507
MAX_SHOWN = 3  # of a registry's own error codes
MAX_ERROR = 64 << 10  # bytes of its words


def refusal(error: HttpError, ref: Reference, credentials: Credentials) -> AirgapError:
    """Return what ``error`` means for somebody who wants ``ref`` to be written."""
    where, said = f"{ref.registry}/{ref.repository}", codes(error)
    whom = f", asked {credentials.explain(ref.registry)}" if isinstance(credentials, RegistryCredentials) else ""
    answered = f"{where}: the registry answered {error.status}" + (f" {said}" if said else "")
    if error.status == FULL or "quota" in said.lower() or "no space" in said.lower():
        return SiteError(answered, hint="its storage or the quota of this place in it is full: make room there, then run again")
    if error.status in NOT_ALLOWED:
        hint = f"`docker login {ref.registry}` as somebody who may write there, or ask its owner for access"
        return NetworkError(f"{answered}{whom}", hint=hint)
    if error.status == NOT_FOUND:
        hint = "some registries want a project or repository to be made first; check host and prefix"
        return NetworkError(f"{answered}{whom}", hint=hint)
    if error.status == TOO_LARGE:
        hint = "what stands before the registry limits bodies (nginx: client_max_body_size 0), or the registry does"
        return NetworkError(answered, hint=hint)
    if error.retryable:
        return error
    return NetworkError(answered, hint="see the registry's log")


def codes(error: HttpError) -> str:
    """Return a registry's own words (distribution-spec, "error codes"): ``(DENIED: quota exceeded)``, or nothing."""
    try:
        value = canonical.parse(error.body, "answer", limit=MAX_ERROR)
    except InvalidFileError:
        return ""
    listed = value.get("errors") if isinstance(value, dict) else None
    found = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    words = [": ".join(str(entry[key]) for key in ("code", "message") if entry.get(key)) for entry in found[:MAX_SHOWN]]
    return f"({printable('; '.join(filter(None, words)))})" if any(words) else ""
