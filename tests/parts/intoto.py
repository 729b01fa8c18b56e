"""The in-toto project's own code as a second implementation: `securesystemslib` reads the envelope, `in-toto-attestation` the statement.

    done = intoto.read(signature_file, public_pem)     # {"verified": true, "subjects": {...}, ...}, or {"refused": "why"}

Both come from the package index this machine is set up for, into a folder under `parts-cache/` that nothing else imports from, and run in a
process of their own.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from parts.images import CACHE

WHEELS = ("securesystemslib[crypto]==1.6.0", "in-toto-attestation==0.9.3")
RECIPE = 1  # count up when the wheels change
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
import in_toto_attestation.v1.statement_pb2 as messages
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
import securesystemslib
assert securesystemslib.__file__.startswith(sys.argv[1]), securesystemslib.__file__
asked = json.load(sys.stdin)
key = SSlibKey.from_crypto(load_pem_public_key(asked["pem"].encode()))
written = json.loads(asked["bundle"])["dsseEnvelope"]
written["signatures"][0]["keyid"] = key.keyid  # a hint outside of what is signed; this library tries no key without it
envelope = Envelope.from_dict(written)
try:
    envelope.verify([key], threshold=1)
except Exception as error:
    print(json.dumps({"refused": f"{type(error).__name__}: {error}"}))
    sys.exit()
message = json_format.Parse(envelope.payload, messages.Statement())
statement = Statement.copy_from_pb(message)
statement.validate()
subjects = {subject.name: dict(subject.digest) for subject in message.subject}
said = {"type": envelope.payload_type, "predicateType": message.predicate_type, "predicate": json_format.MessageToDict(message.predicate)}
print(json.dumps({"verified": True, "subjects": subjects} | said))
"""


PREDICATE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import importlib
from google.protobuf import json_format
module, message = sys.argv[2].rsplit(".", 1)
found = getattr(importlib.import_module(f"in_toto_attestation.predicates.{module}"), message)()
json_format.Parse(sys.stdin.read(), found)  # an unknown field is an error
print(json.dumps(json_format.MessageToDict(found)))
"""


def predicate(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    """Read a predicate as the project's own message of that kind (`module.Message`), where an unknown field is an error."""
    command = [sys.executable, "-I", "-c", PREDICATE, str(_installed()), kind]
    done = subprocess.run(command, input=json.dumps(value), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read(bundle: bytes, pem: str) -> dict[str, Any]:
    """Verify a signature file with a public key, and say what it says."""
    command = [sys.executable, "-I", "-c", PROGRAM, str(_installed())]
    asked = json.dumps({"bundle": bundle.decode(), "pem": pem})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _installed() -> Path:
    home = CACHE / f"in-toto-{sys.version_info.major}.{sys.version_info.minor}-{RECIPE}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / ".ready").exists():
            uv = Path(sys.executable).parent / "uv"
            options = ("--quiet", "--python", sys.executable, "--only-binary", ":all:", "--target", home)
            done = subprocess.run([uv, "pip", "install", *options, *WHEELS], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (home / ".ready").touch()
    return home
