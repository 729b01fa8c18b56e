"""A Python package index with real wheels and source archives made on the spot, for real uv and pip.

    with pyindex.Index() as index:
        index.add("app", "1.0", requires=["lib>=2"], tags=("cp312-cp312-manylinux_2_28_x86_64",))

The Simple API in JSON, or in HTML as older indexes speak it; metadata beside the wheels, as large indexes have it, and attestations
(PEP 740) where a test gives them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any, Self

from packaging.utils import canonicalize_name
from parts import httpd

UPLOADED = "2026-01-02T03:04:05Z"
BACKEND = """
import os, pathlib
pathlib.Path(os.environ["RAN"]).write_text("a build backend ran")
def prepare_metadata_for_build_wheel(*_): raise SystemExit("ran")
def build_wheel(*_): raise SystemExit("ran")
def get_requires_for_build_wheel(*_): return []
"""


@dataclass
class Index:
    """The index; ``html`` without JSON, ``user`` as ``name:password`` it asks for, ``hashes`` whether it states any."""

    html: bool = False
    user: str = ""
    hashes: bool = True
    server: httpd.Server = field(default_factory=httpd.Server)
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()

    @property
    def url(self) -> str:
        return f"{self.server.origin}/simple"

    @property
    def authorization(self) -> str | None:
        return f"Basic {base64.b64encode(self.user.encode()).decode()}" if self.user else None

    def add(
        self,
        project: str,
        version: str,
        *,
        requires: tuple[str, ...] | list[str] = (),
        tags: tuple[str, ...] = ("py3-none-any",),
        sdist: bool = False,
        static: bool = True,
        python: str = "",
        yanked: str = "",
        uploaded: str = UPLOADED,
    ) -> None:
        """Publish a release with one wheel per tag, and a source archive whose backend leaves a trace when it runs."""
        lines = [f"Metadata-Version: {'2.2' if static else '2.1'}", f"Name: {project}", f"Version: {version}"]
        lines += [f"Requires-Python: {python}"] if python else []
        lines += [f"Requires-Dist: {line}" for line in requires] + ([] if static else ["Dynamic: Requires-Dist"])
        metadata = "\n".join(lines).encode() + b"\n"
        name = project.replace("-", "_")
        made = {f"{name}-{version}-{tag}.whl": _wheel(name, version, tag, metadata) for tag in tags}
        if sdist:
            made[f"{name}-{version}.tar.gz"] = _sdist(f"{name}-{version}", metadata)
        for filename, data in made.items():
            said = {"requires-python": python or None, "yanked": yanked or False, "upload-time": uploaded}
            self._publish(project, filename, data, metadata, said)
        self._list(project)

    def drop(self, project: str, version: str) -> None:
        """Take a release away."""
        project = canonicalize_name(project)
        self.files[project] = [file for file in self.files[project] if f"-{version}" not in file["filename"]]
        self._list(project)

    def attest(self, filename: str, raw: bytes, *, url: str = "", **faults: Any) -> str:
        """Serve `raw` as the provenance of a file (PEP 740) and list it, or name another address instead; return the address."""
        ((project, file),) = ((p, f) for p, files in self.files.items() for f in files if f["filename"] == filename)
        path = f"/integrity/{project}/{filename}/provenance"
        kind = {"Content-Type": "application/vnd.pypi.integrity.v1+json"}
        own = self.server.serve(path, raw, **({"headers": kind, "authorization": self.authorization} | faults))
        file["provenance"] = url or own
        self._list(project)
        return str(file["provenance"])

    def _publish(self, project: str, filename: str, data: bytes, metadata: bytes, said: dict[str, Any]) -> None:
        url = self.server.serve(f"/files/{filename}", data, authorization=self.authorization)
        sha256 = hashlib.sha256(data).hexdigest() if self.hashes else None
        entry = {"filename": filename, "url": url, "size": len(data), "hashes": {"sha256": sha256} if sha256 else {}} | said
        if filename.endswith(".whl"):
            self.server.serve(f"/files/{filename}.metadata", metadata, authorization=self.authorization)
            entry["core-metadata"] = {"sha256": hashlib.sha256(metadata).hexdigest()}
        self.files.setdefault(canonicalize_name(project), []).append(entry)

    def _list(self, project: str) -> None:
        project = canonicalize_name(project)
        if self.html:
            body, kind = "".join(map(_anchor, self.files[project])).encode(), "text/html"
        else:
            value = {"meta": {"api-version": "1.3"}, "name": project, "files": self.files[project]}
            body, kind = json.dumps(value).encode(), "application/vnd.pypi.simple.v1+json"
        headers = {"Content-Type": kind, "Cache-Control": "max-age=0"}
        self.server.serve(f"/simple/{project}/", body, headers=headers, authorization=self.authorization, challenge="Basic realm=x")


def _anchor(file: dict[str, Any]) -> str:
    fragment = f"#sha256={file['hashes']['sha256']}" if file["hashes"] else ""
    said = f' data-requires-python="{escape(file["requires-python"])}"' if file["requires-python"] else ""
    said += f' data-yanked="{escape(file["yanked"])}"' if file["yanked"] else ""
    said += f' data-provenance="{escape(file["provenance"])}"' if file.get("provenance") else ""
    return f'<a href="{file["url"]}{fragment}"{said}>{file["filename"]}</a>\n'


def _wheel(name: str, version: str, tag: str, metadata: bytes) -> bytes:
    info = f"{name}-{version}.dist-info"
    files = {f"{name}.py": f"version = {version!r}\ntag = {tag!r}\n".encode(), f"{info}/METADATA": metadata}
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    record = [f"{path},sha256={_urlsafe(data)},{len(data)}" for path, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return out.getvalue()


def _sdist(folder: str, metadata: bytes) -> bytes:
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, data in (("PKG-INFO", metadata), ("pyproject.toml", project.encode()), ("backend.py", BACKEND.encode())):
            member = tarfile.TarInfo(f"{folder}/{path}")
            member.size = len(data)
            member.mtime = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
