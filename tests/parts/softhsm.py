"""Real PKCS#11 tokens in software: SoftHSM, in a folder of its own, with keys made inside it by `pkcs11-tool`.

    made = softhsm.token(tmp_path)                     # a token "bob" with a PIN
    made.make("ed25519", "sign", "01")                 # a key that never leaves it
    signers.signer(made.uri(object="sign"), ask)       # in this process: inside `with made.here():`
    subprocess.run(..., env={**os.environ, **made.environment})
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from parts.images import find, need

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "tr0ub4dor-of-the-token"
SO_PIN = "s3cret-of-the-officer"
KINDS = {"p256": "EC:prime256v1", "p384": "EC:secp384r1", "ed25519": "EC:edwards25519", "p521": "EC:secp521r1", "rsa": "rsa:2048"}


@dataclass(frozen=True)
class Token:
    """One token; several in one folder stand beside each other, as in several slots."""

    folder: Path
    label: str

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}

    def make(self, kind: str, label: str, own: str, *more: str) -> None:
        """Make a key pair called `label` with the id `own` (hex) inside the token."""
        self.tool("--keypairgen", "--key-type", KINDS[kind], "--label", label, "--id", own, "--usage-sign", *more)

    def tool(self, *arguments: str | Path) -> str:
        """Run `pkcs11-tool` on this token, logged in."""
        login = ("--module", MODULE, "--token-label", self.label, "--login", "--pin", "env:TOKEN_PIN")
        return _run("pkcs11-tool", *login, *arguments, environment=self.environment | {"TOKEN_PIN": PIN})

    def uri(self, **attributes: str) -> str:
        """Give the URI of something in this token; a query goes behind it with `&`."""
        named = ";".join(f"{key}={value if key == 'id' else quote(value)}" for key, value in ({"token": self.label} | attributes).items())
        return f"pkcs11:{named}?module-path={MODULE}"

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let SoftHSM in this process see this folder: it reads its settings once, when it is loaded."""
        import pkcs11

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOFTHSM2_CONF", self.environment["SOFTHSM2_CONF"])
            pkcs11.unload(str(MODULE))
            yield
            pkcs11.unload(str(MODULE))


def token(folder: Path, label: str = "bob") -> Token:
    """Make a token in `folder`; skips where SoftHSM is not installed."""
    need("softhsm2-util", "pkcs11-tool")
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    settings = f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
    (folder / "softhsm2.conf").write_text(settings)
    made = Token(folder, label)
    _run("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN, environment=made.environment)
    return made


def _run(program: str, *arguments: str | Path, environment: dict[str, str]) -> str:
    command = [str(find(program)), *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
    return done.stdout
