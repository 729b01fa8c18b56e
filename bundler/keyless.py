"""Sign with an identity instead of a key: ``sigstore:`` is the public Sigstore instance, ``sigstore:FILE`` that of a client trust config.

The identity token is given or is that of the CI this runs in; no browser is opened. It goes to the instance's certificate authority and
nowhere else, a message least of all. What the instance returns is put into its one form and verified here as a site will, offline,
against the instance's own trusted root and the token's identity, before anybody sees it; every timestamp asked for must be there.
``sigstore:FILE?identity=NAME`` signs only if the certificate bears exactly that name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from audit.signers import Ask, Hint
from audit.verify import keyless, x509
from bundler.identity import WAYS, Identity, read
from manifests import canonical
from manifests import keyless as form
from manifests.errors import AirgapError, InvalidFileError, NetworkError, SiteError, TrustError, UsageError
from manifests.lock import read_bounded
from manifests.paths import printable
from manifests.statement import Envelope, SignerKind

TOKEN = "identity token"  # noqa: S105 - what is asked for, not one
MAX_CONFIG = 4 << 20  # bytes of a client trust config; the public one has some 20 KB
MAX_NAME = 64  # characters of a signature file's name
PATIENCE = 120.0  # seconds for one exchange; the client itself would wait for ever
SHOWN = 200  # characters of what a service answered
AUTHORITY, LOG = "the certificate authority", "the transparency log"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Instance:
    """A Sigstore instance: how the client reaches it, and what to believe of it (a trusted root, as JSON)."""

    config: Any
    root: bytes


@dataclass(frozen=True, slots=True)
class KeylessSigner:
    """A signer with an identity token and an instance that certifies it."""

    name: str
    identity: Identity
    instance: Instance

    @property
    def kind(self) -> SignerKind:
        """Return ``sigstore``."""
        return "sigstore"

    def envelope(self, payload: bytes, hint: Hint | None = None) -> Envelope:  # noqa: ARG002 - no key, so no hint of one
        """Return a verified signature over exactly ``payload``.

        Raises NetworkError where a service does not answer, UsageError where the token is refused, TrustError where what came back
        does not verify.
        """
        with _warnings() as warned:
            bundle = self._made(payload, warned)
        try:
            value = canonical.parse(bundle.encode(), "bundle", limit=MAX_CONFIG)
            found = Envelope.parse(canonical.compact(form.plain(value)), "what the instance returned")
        except (InvalidFileError, KeyError, TypeError, AttributeError) as error:
            raise TrustError(f"sigstore: the instance returned a signature in a form that no site accepts: {error}", hint=_ODD) from None
        self._check(found, payload)
        return found

    def made(self, envelope: Envelope) -> bool:
        """Say whether the certificate in ``envelope`` names this identity."""
        said = x509.fulcio(envelope.chain[0]) if envelope.kind == "sigstore" else None
        return said is not None and said.identity in self.identity.names and said.issuer == self.identity.issuer

    def named(self, name: str) -> KeylessSigner:
        """Return the same signer under another name."""
        return replace(self, name=name)

    def _made(self, payload: bytes, warned: list[str]) -> str:
        from sigstore.dsse import Statement  # noqa: PLC0415 - takes a third of a second
        from sigstore.oidc import IdentityToken  # noqa: PLC0415
        from sigstore.sign import SigningContext  # noqa: PLC0415

        token, config = self.identity.token, self.instance.config
        context = _exchange("the client trust config", token, lambda: SigningContext.from_trust_config(config))
        asked = len(config.signing_config.get_tsas())
        with contextlib.ExitStack() as stack:
            certified = _exchange(AUTHORITY, token, lambda: stack.enter_context(context.signer(IdentityToken(token))))
            try:
                bundle = _exchange(LOG, token, lambda: str(certified.sign_dsse(Statement(payload)).to_json()))
            except TrustError:
                if not warned or not asked:
                    raise
                bundle = "{}"
        stamps = _stamps(bundle)
        if stamps < asked:
            reason = f": {printable(warned[0], SHOWN)}" if warned else ""
            raise NetworkError(f"sigstore: {stamps} of {asked} timestamp authorities answered{reason}", hint="try again in a moment")
        return bundle

    def _check(self, envelope: Envelope, payload: bytes) -> None:
        """Verify what came back as a site will, by the token's own identity."""
        said = x509.fulcio(envelope.chain[0])
        if said is None or said.identity not in self.identity.names or said.issuer != self.identity.issuer:
            named = f"{said.identity} as stated by {said.issuer}" if said else "nobody"
            message = f"sigstore: the certificate names {printable(named)}, the token {printable(self.identity.names[0])}"
            raise TrustError(f"{message} as stated by {printable(self.identity.issuer)}", hint=_NAMED)
        question = keyless.Question(envelope.raw, None, said.identity, self.identity.issuer, self.instance.root, whole=True)
        (answer,) = keyless.judge([question])
        if answer.result != "good" or answer.payload != keyless.payload_digest(payload) or envelope.payload != payload:
            reason = answer.reason or "it is over something else"
            raise TrustError(f"sigstore: the signature that was just made does not verify: {reason}", hint=_ODD)


_ODD = "the instance and the trusted root in its client trust config do not fit each other, or somebody is between: do not use it"
_NAMED = "if that is who you are to this instance, say so: --key 'sigstore:FILE?identity=NAME'"


def open_signer(rest: str, ask: Ask) -> KeylessSigner:
    """Return the signer for an instance; ``ask`` for ``TOKEN`` returns an identity token, or nothing where the CI's is to be used.

    Raises UsageError without a usable token or config, NetworkError if the CI or the public instance does not answer, SiteError
    without the client.
    """
    path, _, wanted = rest.partition("?identity=")
    _check_client()
    identity = read(ask(TOKEN).strip() or _ambient(), datetime.now(UTC))
    if wanted:
        identity = replace(identity, names=(wanted,))
    return KeylessSigner(short(identity.names[0]), identity, _custom(Path(path)) if path else _public())


def short(identity: str) -> str:
    """Return a name for the signature file of an identity: of a person the mailbox, of a workflow its path."""
    whole = identity.partition("://")[2].partition("/")[2] or identity.partition("://")[2] or identity
    kept = whole.partition("@")[0] or whole
    name = re.sub(r"[^a-z0-9]*[^a-z0-9._-]+[^a-z0-9]*", "-", kept.lower())[-MAX_NAME:].strip("._-")
    return name or "keyless"


def _check_client() -> None:
    try:
        import sigstore.sign  # noqa: F401, PLC0415
    except ImportError:
        raise SiteError("sigstore: the client is not installed here", hint="pip install 'airgap-bundler[build]'") from None


def _ambient() -> str:
    """Return the token of the CI this runs in, as the client finds it in the environment."""
    from sigstore.errors import Error  # noqa: PLC0415
    from sigstore.oidc import detect_credential  # noqa: PLC0415

    try:
        found = _within(detect_credential)
    except Error as error:
        raise UsageError(f"sigstore: the CI this runs in gives no identity token: {printable(str(error), SHOWN)}", hint=WAYS) from None
    except Exception as error:  # noqa: BLE001 - of one of the libraries that ask
        raise _explained("the token service of the CI this runs in", error, "") from None
    if not found:
        raise UsageError("sigstore: an identity token is needed, and there is none", hint=WAYS)
    return found


def _custom(path: Path) -> Instance:
    from sigstore.errors import Error  # noqa: PLC0415
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415

    raw = read_bounded(path, MAX_CONFIG)
    value = canonical.parse(raw, str(path), limit=MAX_CONFIG)
    try:
        config = ClientTrustConfig.from_json(raw.decode())
        _ = (config.trusted_root, config.signing_config)  # both are read now, and refused now
        return Instance(config, canonical.compact(value["trustedRoot"]))
    except (Error, ValueError, KeyError, TypeError) as error:
        reason = printable(" ".join(str(error).split()), SHOWN)
        hint = "name a file with trustedRoot and signingConfig: sigstore:FILE"
        raise InvalidFileError(f"{path}: not a Sigstore client trust config: {reason}", hint=hint) from None


def _public() -> Instance:
    """Return the public instance as its TUF repository describes it today."""
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415

    config = _exchange("the public instance's trust repository", "", ClientTrustConfig.production)
    return Instance(config, config.trusted_root._inner.to_json().encode())  # noqa: SLF001 - the library has no other way to write it


def _exchange(what: str, token: str, call: Callable[[], T]) -> T:
    """Return what one exchange with a service returns; raises one of our errors, with the token nowhere in it."""
    try:
        return _within(call)
    except TimeoutError:
        raise NetworkError(f"sigstore: {what} did not answer for {PATIENCE:g} s", hint=_RETRY) from None
    except Exception as error:  # noqa: BLE001 - what the client raises of what a service answers is private to it
        raise _explained(what, error, token) from None


_RETRY = "check the network and the addresses in the client trust config, then sign again; nothing was written"


def _explained(what: str, error: Exception, token: str) -> AirgapError:
    from requests import RequestException  # noqa: PLC0415
    from sigstore.errors import Error  # noqa: PLC0415
    from sigstore.errors import NetworkError as Unreachable  # noqa: PLC0415

    causes = tuple(_causes(error))
    response = next((found for cause in causes if (found := getattr(cause, "response", None)) is not None), None)
    if response is not None:
        said = f"{what} answered {response.status_code}: {_clean(response.text, token)}"
        if what == AUTHORITY and 400 <= response.status_code < 500:  # noqa: PLR2004 - of HTTP: the request is at fault
            return UsageError(f"sigstore: {said}", hint=f"it does not accept this token, or its issuer; {WAYS}")
        return NetworkError(f"sigstore: {said}", hint=_RETRY)
    if any(isinstance(cause, (RequestException, Unreachable, OSError)) for cause in causes):
        return NetworkError(f"sigstore: {what} could not be reached: {_clean(str(error), token)}", hint=_RETRY)
    said = f"{what}: {_clean(f'{type(error).__name__}: {error}', token)}"
    if isinstance(error, (Error, ValueError)):
        return TrustError(f"sigstore: what came back cannot be used; {said}", hint=_ODD)
    return NetworkError(f"sigstore: {said}", hint=_RETRY)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _clean(text: str, token: str) -> str:
    return printable(" ".join((text.replace(token, "(the token)") if token else text).split()), SHOWN)


def _within(call: Callable[[], T]) -> T:
    """Return what ``call`` returns, in a thread that is given up after ``PATIENCE`` seconds; raises TimeoutError."""
    results: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - raised again by the one who waits
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError
    return results[0]


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what the client only warns of: that a timestamp authority failed is one."""
    told: list[str] = []
    logger, handler = logging.getLogger("sigstore"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _stamps(bundle: str) -> int:
    material = json.loads(bundle).get("verificationMaterial", {})
    return len(material.get("timestampVerificationData", {}).get("rfc3161Timestamps", ()))
