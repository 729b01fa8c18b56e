"""Certificates for one registry, kept where docker, podman and skopeo keep them: ``containers-certs.d(5)``.

Rules: a host's folder is ``certs.d/<host[:port]>``; ``*.crt`` are CAs to trust there beside the system's, ``*.cert`` with a
``*.key`` of the same name is who we are there. The first folder there is for a host is the one that counts.
"""

from __future__ import annotations

import os
from pathlib import Path

from airgap_images.remote.web import PORTS, Tls
from manifests.errors import InvalidFileError

HTTPS = f":{PORTS['https']}"


class Certificates:
    """Finds the certificates for ``host[:port]`` below ``folders``, in their order; give it to ``Client(tls=...)``."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._known: dict[str, Tls | None] = {}

    @classmethod
    def load(cls, home: Path, etc: Path = Path("/etc")) -> Certificates:
        """Return this host's: the user's, then containers', then docker's."""
        return cls((home / ".config/containers/certs.d", etc / "containers/certs.d", etc / "docker/certs.d"))

    def __call__(self, host: str) -> Tls | None:
        """Return what there is for ``host[:port]``, None if nothing; raises InvalidFileError if half of a pair is missing."""
        if host not in self._known:
            self._known[host] = self._found(host)
        return self._known[host]

    def _found(self, host: str) -> Tls | None:
        names = (host,) if _has_port(host) else (host, f"{host}{HTTPS}")  # a port that is https's own may stand there or not
        for folder in self._folders:
            for name in names:
                if os.path.isdir(folder / name):
                    return _read(folder / name)
        return None


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _read(folder: Path) -> Tls | None:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InvalidFileError(f"{folder}: cannot read: {error.strerror}", hint="check its permissions") from None
    authorities = tuple(folder / name for name in names if name.endswith(".crt"))
    certificates = [name for name in names if name.endswith(".cert")]
    for kind, other in ((".cert", ".key"), (".key", ".cert")):
        for name in names:
            if name.endswith(kind) and f"{name.removesuffix(kind)}{other}" not in names:
                message = f"{folder / name}: there is no {name.removesuffix(kind)}{other} beside it"
                raise InvalidFileError(message, hint="a client certificate is NAME.cert with NAME.key; a CA's ends in .crt")
    if len(certificates) > 1:
        raise InvalidFileError(f"{folder}: holds {len(certificates)} client certificates", hint="leave the one to be shown there")
    if not authorities and not certificates:
        return None
    own = folder / certificates[0] if certificates else None
    return Tls(next(iter(authorities), None), own, own.with_suffix(".key") if own else None, authorities[1:])
