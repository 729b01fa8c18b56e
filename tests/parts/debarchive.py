"""A Debian archive made on the spot: packages by `dpkg-deb`, indexes, a Release signed by a real `gpg` key, served over HTTP.

    with debarchive.archive(tmp_path) as made:
        made.package("app", "1.0", depends="lib")
        made.publish()
        desk.write_intent(f"name: debs, kind: apt, suite: stable, mirror: '{made.mirror}', keyring: '{made.keyring}', packages: [app]")
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from parts import httpd
from parts.images import need, tool

SUITE = "stable"
NOW = datetime.now(UTC)


@dataclass
class Archive:
    """An archive; what is published is what the server gives."""

    folder: Path
    server: httpd.Server
    packages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    user: str = "archive@example.org"

    @property
    def mirror(self) -> str:
        return f"{self.server.origin}/debian"

    @property
    def keyring(self) -> Path:
        return self.folder / "archive.gpg"

    def gpg(self, *arguments: str | Path, data: bytes = b"") -> bytes:
        home = self.folder / "gnupg"
        home.mkdir(mode=0o700, exist_ok=True)
        command = ["gpg", "--homedir", home, "--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def make_key(self, user: str) -> None:
        self.gpg("--quick-generate-key", user, "ed25519", "sign", "never")

    def package(self, name: str, version: str, **fields: str) -> Path:
        """Build a package that installs one file; `fields` are control fields, `_` for `-`."""
        root = self.folder / "build" / f"{name}-{version}"
        (root / "DEBIAN").mkdir(parents=True)
        stated = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "Ada <ada@example.org>", "Description": name}
        stated |= {key.replace("_", "-").title(): value for key, value in fields.items()}
        control = "".join(f"{key}: {value}\n" for key, value in stated.items())
        (root / "DEBIAN" / "control").write_text(control)
        target = root / "usr" / "share" / name
        target.mkdir(parents=True)
        (target / "hello").write_text(f"{name} {version}\n")
        path = f"pool/main/{name[0]}/{name}/{name}_{version.rpartition(':')[2]}_amd64.deb"  # names of files have no epoch
        out = self.folder / path.rsplit("/", 1)[-1]
        tool("dpkg-deb", "--root-owner-group", "--build", root, out)
        self.packages[path] = (control, out.read_bytes())
        return out

    def index(self) -> bytes:
        """Return the index of packages."""
        return "\n".join(
            f"{control}Filename: {path}\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\n"
            for path, (control, raw) in sorted(self.packages.items())
        ).encode()

    def release(self, *, days: int | None = None) -> bytes:
        """Return the Release; ``days`` from now it ends."""
        plain = self.index()
        files = {"main/binary-amd64/Packages": plain, "main/binary-amd64/Packages.xz": lzma.compress(plain)}
        lines = ["Origin: Debian", "Version: 12.1", f"Suite: {SUITE}", f"Codename: {SUITE}", "Architectures: amd64", "Components: main"]
        lines.append(f"Date: {format_datetime(NOW - timedelta(days=30), usegmt=True)}")
        lines += [f"Valid-Until: {format_datetime(NOW + timedelta(days=days), usegmt=True)}"] if days is not None else []
        lines += ["SHA256:", *(f" {hashlib.sha256(raw).hexdigest()} {len(raw)} {path}" for path, raw in files.items()), ""]
        return "\n".join(lines).encode()

    def publish(self, *, user: str | None = None, days: int | None = None) -> bytes:
        """Serve the archive as it is now; return its InRelease."""
        signed = self.gpg("--local-user", user or self.user, "--clearsign", "--digest-algo", "SHA512", data=self.release(days=days))
        plain = self.index()
        self.serve(f"dists/{SUITE}/InRelease", signed)
        self.serve(f"dists/{SUITE}/main/binary-amd64/Packages", plain)
        self.serve(f"dists/{SUITE}/main/binary-amd64/Packages.xz", lzma.compress(plain))
        for path, (_, raw) in self.packages.items():
            for plus in ("+", "%2b", "%2B"):  # servers take them for one name
                self.serve(path.replace("+", plus), raw)
        return signed

    def publish_flat(self) -> None:
        """Serve the same packages as a flat repository below ``flat/``."""
        plain = self.index().replace(b"Filename: pool/", b"Filename: ./pool/")
        files = {"Packages": plain, "Packages.xz": lzma.compress(plain)}
        lines = ["Origin: Vendor", f"Date: {format_datetime(NOW - timedelta(days=30), usegmt=True)}", "SHA256:"]
        lines += [f" {hashlib.sha256(raw).hexdigest()} {len(raw)} {path}" for path, raw in files.items()]
        signed = self.gpg("--local-user", self.user, "--clearsign", "--digest-algo", "SHA512", data="\n".join([*lines, ""]).encode())
        for path, raw in {"InRelease": signed, **files}.items():
            self.serve(f"flat/{path}", raw)
        for path, (_, raw) in self.packages.items():
            for plus in ("+", "%2b", "%2B"):
                self.serve(f"flat/{path.replace('+', plus)}", raw)
                self.serve(f"flat/./{path.replace('+', plus)}", raw)

    def serve(self, path: str, raw: bytes) -> None:
        self.server.serve(f"/debian/{path}", raw)


@contextlib.contextmanager
def archive(folder: Path) -> Iterator[Archive]:
    """Serve an archive with two keys: its own, which its keyring has, and one of a stranger."""
    need("apt-get", "gpg", "dpkg-deb")
    folder.mkdir(parents=True, exist_ok=True)
    with httpd.Server() as server:
        made = Archive(folder, server)
        made.make_key(made.user)
        made.make_key("stranger@example.org")
        made.keyring.write_bytes(made.gpg("--export", made.user))
        yield made
