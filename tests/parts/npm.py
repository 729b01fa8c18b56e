"""`@sigstore/verify`, the verifier of npm itself, as a second implementation: it shares no code with `sigstore` for Python, nor with us.

    verifier = verify()
    verifier.accepts(raw, root=private.trusted_root(), identity=WORKFLOW, issuer=ISSUER)
    verifier.accepts(raw, keys={hint: pem})

It comes from the package index that `npm` is set up for on this machine, into `parts-cache/`, once; no script of a package runs.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts.images import CACHE, need

# With all it needs, so that the same bytes are installed every time.
PACKAGES = ("@sigstore/verify@4.1.3", "@sigstore/bundle@5.0.1", "@sigstore/core@4.0.1", "@sigstore/protobuf-specs@0.5.2")
PROGRAM = """
const { Verifier, toTrustMaterial, toSignedEntity } = require("@sigstore/verify");
const { bundleFromJSON } = require("@sigstore/bundle");
const { TrustedRoot } = require("@sigstore/protobuf-specs");
const { createPublicKey } = require("crypto");
const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
const empty = { mediaType: "", tlogs: [], certificateAuthorities: [], ctlogs: [], timestampAuthorities: [] };
const keys = {};
for (const [hint, pem] of Object.entries(asked.keys)) {
  keys[hint] = { rawBytes: createPublicKey(pem).export({ type: "spki", format: "der" }), validFor: undefined };
}
const counts = asked.root ? {} : { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 };
const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(asked.root || empty), keys), counts);
const policy = asked.identity ? { subjectAlternativeName: asked.identity, extensions: { issuer: asked.issuer } } : undefined;
const results = asked.bundles.map((text) => {
  try {
    verifier.verify(toSignedEntity(bundleFromJSON(JSON.parse(text))), policy);
    return "";
  } catch (error) {
    return `${error.name} ${error.code || ""}: ${error.message}`;
  }
});
console.log(JSON.stringify(results));
"""


@dataclass(frozen=True)
class Npm:
    """The verifier, in its folder."""

    folder: Path

    def refusals(
        self, *bundles: bytes, root: dict | None = None, identity: str = "", issuer: str = "", keys: dict[str, str] | None = None
    ) -> list[str]:
        """Say why it refuses each bundle; an empty text for one it accepts."""
        asked = {"bundles": [raw.decode() for raw in bundles], "root": root, "identity": identity, "issuer": issuer, "keys": keys or {}}
        done = subprocess.run(
            ["node", "-e", PROGRAM], cwd=self.folder, input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def verify() -> Npm:
    """Give the verifier; skips where there is no node."""
    return Npm(installed(PACKAGES[0].rpartition("@")[2], *PACKAGES))


def installed(name: str, *packages: str) -> Path:
    """Give a folder with packages of npm, kept under `parts-cache/` as `npm-NAME`; none of their scripts is run."""
    need("node", "npm")
    made = CACHE / f"npm-{name}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            work = CACHE / f".{made.name}.work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            command = ["npm", "install", "--prefix", work, "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode:
                pytest.fail(f"npm install: {done.stderr[-400:]}")
            work.rename(made)
    return made
