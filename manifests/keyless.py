"""The one form of a keyless signature file: a Sigstore bundle v0.3 with a certificate, one entry of a log, and an envelope.

Verifiers of such bundles pass over much: other spellings of a number or of base64, further signatures below a checkpoint, an index
that nothing signs. Here none of that may be there, so that no two files say the same thing. Two kinds of entry are known:
``hashedrekord`` 0.0.2 (Rekor v2), whose time is a timestamp authority's, and ``dsse`` 0.0.1 (Rekor v1), whose time the log promises.
"""

from __future__ import annotations

import base64
import re
from typing import Any

MAX_TIMESTAMPS = 8  # in one file
MAX_HASHES = 64  # of a proof: enough for 2^64 entries
V1, V2 = ("dsse", "0.0.1"), ("hashedrekord", "0.0.2")
_ENTRY = frozenset({"logIndex", "logId", "kindVersion", "inclusionProof", "canonicalizedBody"})
_PROMISED = frozenset({"integratedTime", "inclusionPromise"})
_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
_NOTE = re.compile(r"([^\n]+)\n([^\n]+)\n([^\n]+)\n(?:[^\n]+\n)*\n\N{EM DASH} (\S+) (\S+)\n")  # C2SP signed-note and tlog-checkpoint


def check(value: Any) -> None:
    """Raise ValueError, KeyError or TypeError unless ``value`` is a keyless signature in its one form."""
    _keys(value, "mediaType", "verificationMaterial", "dsseEnvelope")
    _keys(value["dsseEnvelope"], "payload", "payloadType", "signatures")
    (signature,) = value["dsseEnvelope"]["signatures"]
    _keys(signature, "sig")
    _bytes(value["dsseEnvelope"]["payload"], signature["sig"])
    material = value["verificationMaterial"]
    stamps = _timestamps(material)
    _keys(material, "certificate", "tlogEntries", *(("timestampVerificationData",) if stamps else ()))
    _keys(material["certificate"], "rawBytes")
    _bytes(material["certificate"]["rawBytes"])
    (entry,) = material["tlogEntries"]
    if _entry(entry) == V2 and not stamps:
        raise ValueError("no time is stated")


def log(value: Any) -> str:
    """Return which log (base64 of its key id) a checked signature says its entry is of."""
    return str(value["verificationMaterial"]["tlogEntries"][0]["logId"]["keyId"])


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return a bundle as clients and logs write it without what means nothing: fields at their default, signatures of witnesses."""
    material = dict(value["verificationMaterial"])
    if not material.get("timestampVerificationData", {}).get("rfc3161Timestamps"):
        material.pop("timestampVerificationData", None)
    material["tlogEntries"] = [_plain_entry(entry) for entry in material["tlogEntries"]]
    envelope = dict(value["dsseEnvelope"])
    envelope["signatures"] = [{key: part for key, part in signature.items() if part} for signature in envelope["signatures"]]
    return value | {"verificationMaterial": material, "dsseEnvelope": envelope}


def _plain_entry(entry: dict[str, Any]) -> dict[str, Any]:
    proof = dict(entry["inclusionProof"])
    note, _, signatures = str(proof["checkpoint"]["envelope"]).partition("\n\n")
    own = [line for line in signatures.splitlines(keepends=True) if line.split(" ")[1:2] == [_signer(note)]]
    proof["checkpoint"] = {"envelope": f"{note}\n\n{''.join(own)}"}
    proof.setdefault("hashes", [])
    return {key: part for key, part in entry.items() if not (key in _PROMISED and part in (None, {}, "0"))} | {"inclusionProof": proof}


def _signer(note: str) -> str:
    """Return under which name a log signs: its origin's, without the number of the tree that Rekor v1 adds."""
    return note.partition("\n")[0].partition(" ")[0]


def _timestamps(material: dict[str, Any]) -> list[Any]:
    if "timestampVerificationData" not in material:
        return []
    _keys(material["timestampVerificationData"], "rfc3161Timestamps")
    stamps = material["timestampVerificationData"]["rfc3161Timestamps"]
    if not isinstance(stamps, list) or not 0 < len(stamps) <= MAX_TIMESTAMPS:
        raise ValueError("no timestamps, or too many")
    for stamp in stamps:
        _keys(stamp, "signedTimestamp")
    _bytes(*(stamp["signedTimestamp"] for stamp in stamps))
    return stamps


def _entry(entry: Any) -> tuple[str, str]:
    _keys(entry["kindVersion"], "kind", "version")
    kind = (entry["kindVersion"]["kind"], entry["kindVersion"]["version"])
    if kind not in (V1, V2):
        raise ValueError("an entry of another kind")
    _keys(entry, *_ENTRY, *(_PROMISED if kind == V1 else ()))
    _keys(entry["logId"], "keyId")
    _bytes(entry["logId"]["keyId"], entry["canonicalizedBody"])
    _numbers(entry["logIndex"])
    if kind == V1:
        _numbers(entry["integratedTime"])
        _keys(entry["inclusionPromise"], "signedEntryTimestamp")
        _bytes(entry["inclusionPromise"]["signedEntryTimestamp"])
    _proof(entry["inclusionProof"], entry)
    if kind == V2 and entry["logIndex"] != entry["inclusionProof"]["logIndex"]:
        raise ValueError("two numbers of one entry")
    return kind


def _proof(proof: Any, entry: Any) -> None:
    _keys(proof, "logIndex", "rootHash", "treeSize", "hashes", "checkpoint")
    _keys(proof["checkpoint"], "envelope")
    if not isinstance(proof["hashes"], list) or len(proof["hashes"]) > MAX_HASHES:
        raise TypeError("no proof")
    _numbers(proof["logIndex"], proof["treeSize"])
    _bytes(proof["rootHash"], *proof["hashes"])
    note = _NOTE.fullmatch(proof["checkpoint"]["envelope"])
    if note is None:
        raise ValueError("not a checkpoint with one signature")
    origin, size, root, signer, signature = note.groups()
    _bytes(signature)
    own = base64.b64decode(signature)[:4] == base64.b64decode(entry["logId"]["keyId"])[:4]
    if (size, root, signer, own) != (proof["treeSize"], proof["rootHash"], _signer(origin), True):
        raise ValueError("the checkpoint is of another tree, or another's")


def _keys(value: Any, *names: str) -> None:
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ValueError("not exactly the fields of this form")


def _numbers(*texts: Any) -> None:
    if not all(isinstance(text, str) and _NUMBER.fullmatch(text) for text in texts):
        raise ValueError("not a number in its one form")


def _bytes(*texts: Any) -> None:
    for text in texts:
        if not text or base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
            raise ValueError("not base64 in its one form, or empty")
