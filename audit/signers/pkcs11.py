"""Keys in a hardware token (PKCS#11): ``pkcs11:token=...;object=...?module-path=...`` (RFC 7512).

Rules: the key stays in the token, which is asked for one signature at a time, in a session of its own that is logged in and closed; the
URI must lead to exactly one token and one private key; a wrong PIN is never tried again; a PIN is in no message, no output and no
representation. ECDSA is asked for over a hash made here (``CKM_ECDSA``), which every token knows; Ed25519 and ML-DSA over the message.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from audit.signers import Ask, LocalSigner
from audit.signers.pkcs11_uri import Place, parse
from manifests.errors import AirgapError, SiteError, UsageError
from manifests.lock import read_bounded
from manifests.paths import NAME, printable
from manifests.publickey import ACCEPTED, HASHES, PublicKey, algorithm_of, checked, key_id, load_public_key

try:
    import pkcs11
except ImportError:  # the extra `hsm` is not installed; said when somebody asks for a token
    pkcs11 = None  # type: ignore[assignment]

MAX_LISTED = 16  # keys or tokens named in one message
MAX_PIN = 4096  # bytes of a file with a PIN
MAX_PEM = 64 << 10  # bytes of a file with a public key
CURVES: dict[bytes, tuple[ec.EllipticCurve | None, int]] = {  # CKA_EC_PARAMS -> curve (None: Ed25519), bytes of a point
    bytes.fromhex("06082a8648ce3d030107"): (ec.SECP256R1(), 65),
    bytes.fromhex("06052b81040022"): (ec.SECP384R1(), 97),
    bytes.fromhex("06032b6570"): (None, 32),  # RFC 8410
    b"\x13\x0cedwards25519": (None, 32),  # PKCS#11 3.0, section 6.3.5, which SoftHSM writes
}
LOCKS = "a token locks itself after a few wrong PINs: make sure of the PIN, then run this again"
_ONE_AT_A_TIME = threading.RLock()  # a login is the whole process's: closing one session would log out another (PKCS#11 3.0, section 5.6)


def open_signer(rest: str, ask: Ask) -> LocalSigner:
    """Return the signer whose key is where a PKCS#11 URI says; raises UsageError, or SiteError if library or token fail."""
    place = parse(rest)
    if pkcs11 is None:
        raise SiteError("keys in a token need python-pkcs11, which is not installed", hint="pip install 'airgap-bundler[hsm]'")
    with _ONE_AT_A_TIME, _told(f"library {place.module}"):
        token = _token(place)
    held = _Held(place, _pin(place, token, ask))
    with held.session() as session:
        private = _private(session, place)
        public = _public(session, private, place)
        name = _name(private, public)
    return LocalSigner(name, public, held.sign)


@dataclass(frozen=True, slots=True)
class _Held:
    """A private key in a token, and the PIN that lets it be used while this process lives."""

    place: Place
    pin: Any = field(repr=False)  # text, or the binding's mark for a token that asks for its PIN itself

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Give a session that is logged in; it is closed afterwards."""
        with _ONE_AT_A_TIME, _told(f"library {self.place.module}"):
            token = _token(self.place)
            with _told(_called(token), token):
                session = token.open(user_pin=self.pin, attribute_mapper=_mapper())
                try:
                    yield session
                finally:
                    with suppress(pkcs11.PKCS11Error):  # it may be gone; the signature is judged by itself
                        session.close()

    def sign(self, message: bytes) -> bytes:
        """Return the token's signature over ``message``, DER for ECDSA; the caller verifies it."""
        with self.session() as session:
            private = _private(session, self.place)
            algorithm = algorithm_of(_public(session, private, self.place))
            again = {"pin": self.pin} if _said(private, pkcs11.Attribute.ALWAYS_AUTHENTICATE) and isinstance(self.pin, str) else {}
            if algorithm not in HASHES:
                mechanism = pkcs11.Mechanism.EDDSA if algorithm == "ed25519" else pkcs11.Mechanism.ML_DSA
                return bytes(private.sign(message, mechanism=mechanism, **again))
            digest = hashes.Hash(HASHES[algorithm])
            digest.update(message)
            raw = private.sign(digest.finalize(), mechanism=pkcs11.Mechanism.ECDSA, **again)
            half = len(raw) // 2
            return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def _token(place: Place) -> Any:
    """Return the one token that ``place`` names; raises SiteError if it is not there, UsageError if there are several."""
    if not place.module.is_file():
        raise SiteError(f"library {place.module}: not there, or no file", hint="`module-path` is the library that came with the token")
    present = [token for slot in pkcs11.lib(str(place.module)).get_slots(token_present=True) for token in _in_slot(slot)]
    found = [token for token in present if _fits(token, place)]
    if len(found) == 1:
        return found[0]
    listed = _listed(map(_called, found or present))
    if found:
        raise UsageError(f"{len(found)} tokens fit: {listed}", hint="add `serial=` to the URI, so that it names one")
    raise SiteError(f"library {place.module}: the token is not there; it has {listed}", hint="plug it in, or correct `token=` in the URI")


def _in_slot(slot: Any) -> Iterator[Any]:
    with suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
        token = slot.get_token()
        if token.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED:
            yield token


def _fits(token: Any, place: Place) -> bool:
    said = (token.label, token.serial.decode(errors="replace").strip("\0 "), token.manufacturer_id, token.model, token.slot.slot_id)
    wanted = (place.token, place.serial, place.manufacturer, place.model, place.slot)
    return all(value is None or value == own for value, own in zip(wanted, said, strict=True))


def _called(token: Any) -> str:
    serial = token.serial.decode(errors="replace").strip("\0 ")
    return f"token {printable(token.label, 40)!r} (serial {printable(serial, 20)})"


def _pin(place: Place, token: Any, ask: Ask) -> Any:
    """Return the PIN, asked for once; raises UsageError for one that is not worth a try, of which a token has few."""
    if token.flags & pkcs11.TokenFlag.USER_PIN_LOCKED:
        raise SiteError(f"{_called(token)}: is locked after too many wrong PINs", hint="its administrator can unlock it")
    if token.flags & pkcs11.TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        return pkcs11.PROTECTED_AUTH
    pin = _from_file(place.pin_source) if place.pin_source else ask(f"PIN of {_called(token)}")
    if not pin or pin != pin.encode(errors="ignore").decode() or "\0" in pin:
        raise UsageError(f"{_called(token)}: the PIN given is empty or no text; it was not tried", hint=LOCKS)
    return pin


def _from_file(path: Path) -> str:
    raw = read_bounded(path, MAX_PIN)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path}: other users may read this PIN", hint=f"chmod 600 {path}")
    return raw.split(b"\n", 1)[0].rstrip(b"\r").decode(errors="surrogateescape")


def _private(session: Any, place: Place) -> Any:
    """Return the one private key that ``place`` names; raises UsageError, listing what is there."""
    wanted: dict[Any, Any] = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}
    if place.label is not None:
        wanted[pkcs11.Attribute.LABEL] = place.label
    if place.id is not None:
        wanted[pkcs11.Attribute.ID] = place.id
    found = _objects(session, wanted)
    if len(found) > 1:
        hint = "add `id=` to the URI, percent-encoded (`id=%01`), so that it names one"
        raise UsageError(f"{_called(session.token)}: several private keys fit: {_listed(map(_shown, found))}", hint=hint)
    if not found:
        there = _listed(map(_shown, _objects(session, {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})))
        raise UsageError(f"{_called(session.token)}: no such private key; it has {there}", hint="correct `object=` or `id=` in the URI")
    if not hasattr(found[0], "sign"):
        raise UsageError(f"{_called(session.token)}: {_shown(found[0])} may not sign", hint="make one for signing with the token's tools")
    return found[0]


def _public(session: Any, private: Any, place: Place) -> PublicKey:
    """Return the public half: that of the file named, else what the token has under the same id (or label, of a key without id)."""
    who = f"{_called(session.token)}: {_shown(private)}"
    try:
        if place.public_key:
            return load_public_key(read_bounded(place.public_key, MAX_PEM).decode(errors="replace"))
        keys = {key_id(key): key for key in _beside(session, private)}
    except ValueError as error:
        raise UsageError(f"{who}: {error}", hint="make a key for signing with the token's tools") from None
    if len(keys) != 1:
        what = "several public keys stand beside it" if keys else "neither its public key nor a certificate is in the token"
        raise UsageError(f"{who}: {what}", hint="name its public key's PEM file in the URI: `&x-public-key=file:NAME.pub`")
    return next(iter(keys.values()))


def _beside(session: Any, private: Any) -> list[PublicKey]:
    attribute, classes = pkcs11.Attribute, pkcs11.ObjectClass
    own = _said(private, attribute.ID)
    same = {attribute.ID: own} if own else {attribute.LABEL: _said(private, attribute.LABEL) or ""}
    halves = [_half(found) for found in _objects(session, same | {attribute.CLASS: classes.PUBLIC_KEY})]
    return halves or [_certified(found) for found in _objects(session, same | {attribute.CLASS: classes.CERTIFICATE})]


def _half(public: Any) -> PublicKey:
    """Return the key that a public key object holds; raises ValueError for kinds that bundles are not signed with."""
    kind = _said(public, pkcs11.Attribute.KEY_TYPE)
    if kind == pkcs11.KeyType.ML_DSA:
        return mldsa.MLDSA87PublicKey.from_public_bytes(_said(public, pkcs11.Attribute.VALUE) or b"")
    parameters = _said(public, pkcs11.Attribute.EC_PARAMS) if kind in {pkcs11.KeyType.EC, pkcs11.KeyType.EC_EDWARDS} else None
    if parameters not in CURVES:
        raise ValueError(f"the key is of a kind that is not accepted; use {ACCEPTED}")
    curve, size = CURVES[parameters]
    point = _said(public, pkcs11.Attribute.EC_POINT) or b""
    if len(point) == size + 2 and point[:2] == bytes((4, size)):  # a DER OCTET STRING, as it should be; some tokens leave that out
        point = point[2:]
    if curve is None:
        return ed25519.Ed25519PublicKey.from_public_bytes(point)
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)


def _certified(certificate: Any) -> PublicKey:
    return checked(x509.load_der_x509_certificate(_said(certificate, pkcs11.Attribute.VALUE) or b"").public_key())


def _objects(session: Any, wanted: dict[Any, Any]) -> list[Any]:
    return list(islice(session.get_objects(wanted), MAX_LISTED + 1))


def _said(thing: Any, attribute: Any) -> Any:
    """Return an attribute of an object in the token, None if it has none."""
    try:
        return thing[attribute]
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive):
        return None


def _shown(key: Any) -> str:
    label, own = _said(key, pkcs11.Attribute.LABEL) or "", _said(key, pkcs11.Attribute.ID) or b""
    return f"{printable(label, 40)!r} (id {own.hex()[:40] or 'none'})"


def _listed(texts: Iterable[str]) -> str:
    found = list(texts)
    return ", ".join(found[:MAX_LISTED]) + (" and more" if len(found) > MAX_LISTED else "") or "none"


def _name(private: Any, public: PublicKey) -> str:
    """Return a name for signature files out of the key's label, which may be any text."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", (_said(private, pkcs11.Attribute.LABEL) or "").lower())[:64].strip("-._")
    return plain if NAME.fullmatch(plain) else f"key-{key_id(public)[:8]}"


def _mapper() -> Any:
    """Return how attributes are read: a label that is no UTF-8 and a kind of key nobody knows must not stop the search."""
    mapper = pkcs11.attributes.AttributeMapper()
    pack, _ = mapper.attribute_types[pkcs11.Attribute.LABEL]
    mapper.register_handler(pkcs11.Attribute.LABEL, pack, lambda raw: raw.decode(errors="replace"))
    pack, read = mapper.attribute_types[pkcs11.Attribute.MODULUS_BITS]
    mapper.register_handler(pkcs11.Attribute.KEY_TYPE, pack, read)
    return mapper


_REASONS = {
    "PinLenRange": "the PIN has a length that this token does not accept; it was not tried again",
    "PinExpired": "the PIN has expired",
    "PinLocked": "is locked after too many wrong PINs",
    "UserPinNotInitialized": "has no user PIN yet",
    "MechanismInvalid": "cannot make this kind of signature",
    "KeyTypeInconsistent": "cannot make this kind of signature with this key",
    "KeyFunctionNotPermitted": "does not let this key sign",
    "DeviceRemoved": "was unplugged",
    "TokenNotPresent": "was unplugged",
}


@contextmanager
def _told(what: str, token: Any = None) -> Iterator[None]:
    """Turn what the library raises into one error that names ``what`` failed."""
    try:
        yield
    except AirgapError:
        raise
    except pkcs11.PinIncorrect:
        raise UsageError(f"{what}: wrong PIN, tried once{_left(token)}", hint=LOCKS) from None
    except pkcs11.PKCS11Error as error:
        reason = _REASONS.get(type(error).__name__) or _words(error)
        hint = "look at it with `pkcs11-tool --module LIBRARY -L -O`" if token else "`module-path` is the library that came with the token"
        raise SiteError(f"{what}: {reason}", hint=hint) from None


def _left(token: Any) -> str:
    """Say what a wrong PIN has led to, as far as the token tells."""
    flags = pkcs11.TokenFlag(0)
    with suppress(pkcs11.PKCS11Error):
        flags = token.slot.get_token().flags
    if flags & pkcs11.TokenFlag.USER_PIN_LOCKED:
        return "; the token has locked itself"
    return "; one try is left before it locks itself" if flags & pkcs11.TokenFlag.USER_PIN_FINAL_TRY else ""


def _words(error: Exception) -> str:
    said = printable(str(error), 300)
    if "C_GetFunctionList" in said:
        return "is not a PKCS#11 library"
    return said.removeprefix("OS exception while ") or f"failed ({type(error).__name__})"
