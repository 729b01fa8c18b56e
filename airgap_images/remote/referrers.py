"""What else a registry holds about an image: the referrers API (distribution-spec 1.1) and, where there is none, the fallback tag.

Rules: nothing listed is believed to be about the image before its own ``subject`` says so, nor to be of the type that is
listed (cosign 2.5 lists a wrong one): who asks fetches every manifest and looks. Pages are followed on the same registry and
repository only, and are bounded. "There is none" and "it did not say" are two answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urljoin

from airgap_images.oci import IMAGE_INDEX, MAX_MANIFEST, Descriptor, Digest, Index
from airgap_images.reference import Reference
from airgap_images.remote.http import Client
from airgap_images.remote.mirrors import Mirrors
from airgap_images.remote.registry import NO_MIRRORS, find
from airgap_images.remote.web import Address, Credentials, HttpError, Response, TransferError
from manifests.errors import AirgapError, InvalidFileError, NetworkError

MAX_REFERRERS = 4096  # descriptors read of one list; images in use have a few
MAX_PAGES = 64  # of one list
NOT_FOUND = 404
NO_API = frozenset({400, NOT_FOUND, 405, 406, 501})  # what registries without the API answer, and what then is in the tag

_LINK = re.compile(r"<([^<>]*)>((?:\s*;[^,<]*)*)")
_NEXT = re.compile(r';\s*rel\s*=\s*"?next"?\s*(?:;|$)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """The descriptors a registry lists, each digest once, and why that may not be all; ``problem`` is empty when it is."""

    entries: tuple[Descriptor, ...] = ()
    problem: str = ""


def referrers(
    client: Client, credentials: Credentials, ref: Reference, digest: Digest, *, mirrors: Mirrors = NO_MIRRORS
) -> tuple[Descriptor, ...]:
    """Return everything the registry lists for ``digest`` in the repository of ``ref``; raises NetworkError if it may be more."""
    answer = ask(client, credentials, ref, digest, mirrors=mirrors)
    if answer.problem:
        raise NetworkError(f"{ref.at(digest)}: referrers: {answer.problem}", hint="ask the registry's owner whether it lists referrers")
    return answer.entries


def ask(client: Client, credentials: Credentials, ref: Reference, digest: Digest, *, mirrors: Mirrors = NO_MIRRORS) -> Answer:
    """Return what the registry lists for ``digest``, and in words what kept it from listing all.

    The registry itself is asked before its mirrors, which may hold the image and not what speaks of it.
    """
    first: Answer | None = None
    tag = replace(ref, tag=fallback_tag(digest), digest=None)
    for base in reversed(mirrors.bases(ref.at(digest))):
        pages = _Pages(client, credentials, f"{base}/referrers/{digest}")
        answer = _ask(pages, lambda: _listed(find(client, credentials, tag, mirrors=mirrors)))
        if not answer.problem:
            return answer
        first = first or answer
    return first or Answer(problem="no registry may be asked")


def fallback_tag(digest: Digest) -> str:
    """Return the tag under which registries without the API keep the list (distribution-spec, "Referrers Tag Schema")."""
    return f"sha256-{digest.hex}"


def said(error: AirgapError) -> str:
    """Say why there was no answer, in words that are the same for the same cause, whoever asked."""
    if isinstance(error, TransferError):
        return "no whole answer arrived"
    # A refusal put into words stands where it was caught (`from None`); any other context is not this error's cause.
    refusal = error.__context__ if error.__suppress_context__ and not isinstance(error, HttpError) else error
    return f"the server answered {refusal.status}" if isinstance(refusal, HttpError) else error.message


def _ask(pages: _Pages, tag: Callable[[], Answer]) -> Answer:
    refused = None
    try:
        return pages.read()
    except HttpError as error:
        refused = error
    except AirgapError as error:
        return Answer(pages.all, said(error))
    if pages.entries:  # it has the API, and broke off
        return Answer(pages.all, said(refused))
    fallback = _fallback(tag)
    known = refused.status == NOT_FOUND or (refused.status in NO_API and bool(fallback.entries))
    return fallback if known or fallback.problem else Answer(fallback.entries, said(refused))


class _Pages:
    """One list, page after page; ``entries`` holds what was read also when a later page fails."""

    def __init__(self, client: Client, credentials: Credentials, url: str) -> None:
        self._client = client
        self._credentials = credentials
        self._url = url
        self.entries: dict[Digest, Descriptor] = {}

    @property
    def all(self) -> tuple[Descriptor, ...]:
        return tuple(self.entries.values())

    def read(self) -> Answer:
        url = self._url
        for _ in range(MAX_PAGES):
            response = self._client.get(url, limit=MAX_MANIFEST, headers=(f"Accept: {IMAGE_INDEX}",), credentials=self._credentials)
            for entry in Index.parse(response.body, "the registry's list").manifests:
                self.entries.setdefault(entry.digest, entry)
                if len(self.entries) > MAX_REFERRERS:
                    self.entries.popitem()
                    return Answer(self.all, f"more than {MAX_REFERRERS} are listed; the others were not looked at")
            following = self._next(response)
            if following is None:
                return Answer(self.all)
            url = following
        return Answer(self.all, f"the list has more than {MAX_PAGES} pages; the others were not looked at")

    def _next(self, response: Response) -> str | None:
        """Return the address of the next page; raises InvalidFileError unless it is a page of this very list."""
        target = next((found[1] for found in _LINK.finditer(response.header("link") or "") if _NEXT.search(found[2])), None)
        if target is None:
            return None
        first, following = Address.parse(self._url), Address.parse(urljoin(response.url, target))
        if (following.origin, following.target.partition("?")[0]) != (first.origin, first.target):
            raise InvalidFileError("the registry names a next page elsewhere; it was not followed", hint="distrust this registry")
        return following.url


def _fallback(tag: Callable[[], Answer]) -> Answer:
    try:
        return tag()
    except AirgapError as error:
        return Answer(problem=said(error))


def _listed(held: tuple[Descriptor, bytes] | None) -> Answer:
    """Return what a fallback tag lists; where there is none, nothing is listed."""
    entries = {entry.digest: entry for entry in (Index.parse(held[1], "the fallback tag").manifests if held else ())}
    if len(entries) > MAX_REFERRERS:
        return Answer(tuple(entries.values())[:MAX_REFERRERS], f"more than {MAX_REFERRERS} are listed; the others were not looked at")
    return Answer(tuple(entries.values()))
