"""A page of the evidence as PDF, for archives that take nothing else.

Rules: the same page is always the same bytes: dates are those the page states, the identifier is its digest; nothing is fetched, not a
file either, so a page that names an outside resource is refused. The library is optional and is loaded only here, when a PDF is asked
for; it brings code that could open connections, which the fetcher below never reaches.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from manifests.errors import IntegrityError, SiteError
from manifests.paths import printable

HINT = "install the extra `pdf` of this program, and Pango of the system; or print the page from a browser"


def pdf(html: bytes) -> bytes:
    """Return ``html``, a page of this program, as PDF (PDF/UA-1, which readers of all kinds can follow).

    Raises SiteError if the library is not there, IntegrityError if the page asks for anything outside itself.
    """
    library = _library()
    asked: list[str] = []
    page = library.HTML(string=html.decode(), url_fetcher=_refusing(library, asked), base_url="about:blank")
    made: bytes = page.write_pdf(pdf_variant="pdf/ua-1", pdf_identifier=hashlib.sha256(html).hexdigest()[:32].encode())
    if asked:
        hint = "a page of this program asks for nothing: write it again"
        raise IntegrityError(f"the page asks for {printable(asked[0])!r}, which is outside of it", hint=hint)
    return made


def _library() -> Any:
    try:
        import weasyprint  # noqa: PLC0415 - optional, and large
    except ImportError:
        raise SiteError("the library that makes PDFs (weasyprint) is not installed", hint=HINT) from None
    except OSError as error:  # it is there, and what it needs of the system is not
        raise SiteError(f"the library that makes PDFs cannot run here: {str(error).splitlines()[0]}", hint=HINT) from None
    for name in ("weasyprint", "fontTools"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every style that only browsers know
    return weasyprint


def _refusing(library: Any, asked: list[str]) -> Any:
    """Return a fetcher that notes what is asked for and never gives it."""

    class Refusing(library.urls.URLFetcher):  # type: ignore[misc]
        def fetch(self, url: str, headers: Any = None) -> Any:  # noqa: ARG002 - the library's signature
            asked.append(url)
            raise ValueError("nothing is fetched")

    return Refusing()
