"""The process that judges keyless signatures. A program, never imported: ``audit.verify.keyless`` starts it.

One question (JSON) on stdin, one answer on stdout. In this order: a hook that refuses sockets, programs and writing; no new
privileges, no written byte, bounded memory and time, a network namespace of its own where the system allows it; only then
the import of ``sigstore``. It needs nothing of this product.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import hashlib
import json
import os
import resource
import sys
from datetime import UTC
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # unshare(2)
PR_SET_NO_NEW_PRIVS = 38  # prctl(2)
MEMORY = 4 << 30  # bytes of address space
SECONDS = 600  # of processor time
REASON = 300  # characters
REFUSED = (
    "socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "os.fork", "pty.", "ftplib.",
    "http.", "imaplib.", "poplib.", "smtplib.", "telnetlib.", "urllib.", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link",
    "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.setxattr", "os.utime", "os.kill", "os.putenv", "shutil.", "tempfile.",
    "sqlite3.", "webbrowser.",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise on what this process has no business doing; see PEP 578."""
    if event.startswith(REFUSED):
        raise PermissionError(f"{event} is refused here")
    if event == "open":
        _, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING):
            raise PermissionError("writing is refused here")


def shut() -> None:
    """Give up what the system lets this process give up; what it does not let is still refused by the hook."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    for limit, amount in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS)):
        with contextlib.suppress(ValueError, OSError):  # already lower
            resource.setrlimit(limit, (amount, amount))


def held(text: str) -> str:
    """Return a name under which ``text`` can be read as a file, without a file."""
    fd = os.memfd_create("root")
    os.write(fd, text.encode())
    return f"/proc/self/fd/{fd}"


@functools.lru_cache(maxsize=1)  # questions about one bundle come one after the other
def read(text: str) -> Any:
    """Return a bundle taken apart; raises what the library raises on another text."""
    from sigstore.models import Bundle  # noqa: PLC0415

    return Bundle.from_json(text)


def judge(item: dict[str, Any], verifiers: list[Any]) -> dict[str, Any]:
    """Return the answer to one question; only what the library itself refuses is wrong, everything else stays open."""
    from sigstore.errors import Error  # noqa: PLC0415 - nothing of it before `shut`

    verifier = verifiers[item["root"]]
    if isinstance(verifier, Exception):
        return said("unverifiable", f"the policy's trusted root cannot be used: {verifier}")
    try:
        return verified(item, verifier)
    except (Error, ValueError) as error:
        return said("wrong", str(error))
    except Exception as error:  # noqa: BLE001 - a library's bug on hostile bytes is no verdict
        return said("unverifiable", f"the library failed: {type(error).__name__}: {error}")


def verified(item: dict[str, Any], verifier: Any) -> dict[str, Any]:
    """Return the answer to a question whose bundle verifies; raises what the library raises on another."""
    bundle = read(item["bundle"])
    if item["artifact"] is not None:
        verifier.verify_artifact(base64.b64decode(item["artifact"], validate=True), bundle, wanted(item))
        return said("good", "")
    kind, payload = verifier.verify_dsse(bundle, wanted(item))
    if kind != "application/vnd.in-toto+json":
        return said("wrong", f"payload type {kind}")
    if item["whole"] and (spare := spare_timestamps(verifier, bundle)):
        return said("wrong", f"{spare} of its timestamps do not verify")
    return said("good", "") | {"payload": hashlib.sha256(payload).hexdigest(), "time": time_of(verifier, bundle)}


def wanted(item: dict[str, Any]) -> Any:
    """Return the policy of a question: a whole identity, or a source repository, each as stated by the issuer."""
    from sigstore.verify.policy import AllOf, Identity, OIDCIssuer, OIDCIssuerV2, OIDCSourceRepositoryURI  # noqa: PLC0415

    issuer = item["issuer"]
    if not issuer or bool(item["identity"]) == bool(item["repository"]):
        raise ValueError("no issuer, or not exactly one of identity and repository to look for")
    if item["identity"]:
        return AllOf([Identity(identity=item["identity"], issuer=issuer)])
    return AllOf([OIDCSourceRepositoryURI(item["repository"]), OIDCIssuerV2(issuer), OIDCIssuer(issuer)])


def spare_timestamps(verifier: Any, bundle: Any) -> int:
    """Return how many timestamps of a verified bundle are by nobody whom the trusted root names."""
    stamped = bundle.verification_material.timestamp_verification_data
    return len(stamped.rfc3161_timestamps) - len(verifier._verify_timestamp_authority(bundle)) if stamped else 0  # noqa: SLF001 - the one way


def time_of(verifier: Any, bundle: Any) -> str | None:
    """Return the earliest time that a verified bundle's log or timestamp authority states, None if the library no longer tells."""
    try:
        times = [found.time for found in verifier._establish_time(bundle)]  # noqa: SLF001 - the one way to what was verified
    except AttributeError:
        return None
    return min(times).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if times else None


def said(result: str, reason: str) -> dict[str, Any]:
    """Return an answer."""
    return {"result": result, "reason": " ".join(reason.split())[:REASON], "payload": None, "time": None}


def verifier(path: str) -> Any:
    """Return a verifier for the trusted root at ``path``, or why there can be none."""
    from sigstore.models import TrustedRoot  # noqa: PLC0415
    from sigstore.verify import Verifier  # noqa: PLC0415

    try:
        return Verifier(trusted_root=TrustedRoot.from_file(path))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is told and nothing is good
        return error


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to everything."""
    roots = [held(text) for text in question["roots"]]
    shut()
    sys.path[:] = question["path"]
    try:
        import sigstore  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        return {"problem": "absent" if error.name == "sigstore" else str(error)}
    try:
        verifiers = [verifier(path) for path in roots]
        return {"answers": [judge(item | {"bundle": question["bundles"][item["bundle"]]}, verifiers) for item in question["items"]]}
    except Exception as error:  # noqa: BLE001 - an API that is not the one this was written for
        return {"problem": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer once."""
    sys.addaudithook(refuse)
    found = answer(json.load(sys.stdin))
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
