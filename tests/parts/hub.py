"""A server that speaks the Hugging Face hub's protocol, for the real client: models with commits, branches, pages, gates.

    with hub.Hub() as server:
        commit = server.publish("acme/tiny", {"config.json": b"{}", "model.safetensors": weights})

Two origins, as on the real hub: one for the API and for files in git, another ``storage`` for what git only points to.
Both remember every request (``server.api.requests``) and can misbehave through ``httpd``'s routes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from parts import httpd

LARGE = (".safetensors", ".bin", ".gguf", ".pt")  # stored outside of git
DENIED = {"RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404, "GatedRepo": 403}

Answer = tuple[int, dict[str, str], bytes]


class DeniedError(Exception):
    """An error code of the hub."""

    def __init__(self, code: str, status: int | None = None, message: str = "") -> None:
        super().__init__(code)
        self.code, self.status, self.message = code, status or DENIED[code], message or code


@dataclass(frozen=True)
class File:
    """One file of a commit with the names git and LFS give it."""

    data: bytes
    large: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def blob(self) -> str:
        raw = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    def entry(self, path: str) -> dict[str, Any]:
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}} if self.large else {}
        return {"type": "file", "oid": self.blob, "size": len(self.data), "path": path} | lfs


@dataclass
class Repo:
    """One model: its commits, its names for them, and who may read it."""

    name: str
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gated: str | bool = False
    private: bool = False
    readers: set[str] = field(default_factory=set)  # tokens that may read what is gated or private
    card: dict[str, Any] = field(default_factory=dict)
    downloads: int = 0

    def commit(self, revision: str) -> str:
        found = self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)
        if found is None:
            raise DeniedError("RevisionNotFound")
        return found


class Hub:
    """The server. ``page`` is the number of entries in one page of a listing; ``tokens`` are the tokens of known accounts."""

    def __init__(self, *, page: int = 1000) -> None:
        self.api, self.storage = httpd.Server(), httpd.Server()
        self.api.routes = _Fallback(httpd.Route(answer=self._answer))
        self.page = page
        self.tokens: set[str] = set()
        self.repos: dict[str, Repo] = {}
        self.tamper: Callable[[str, Any], Any] = lambda _kind, value: value  # changes the JSON of an answer
        self.listings: dict[int, list[dict[str, Any]]] = {}  # made once per commit
        self.swapped: dict[str, bytes] = {}  # other content for files in git, by path

    def __enter__(self) -> Self:
        self.api.__enter__()
        self.storage.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.api.__exit__()
        self.storage.__exit__()

    @property
    def endpoint(self) -> str:
        return self.api.origin

    def publish(self, name: str, files: dict[str, bytes], *, branch: str = "main", **of_repo: Any) -> str:
        """Commit ``files`` as the whole content of ``branch`` and return the commit; ``of_repo`` are fields of ``Repo``."""
        repo = self.repos.setdefault(name, Repo(name))
        for key, value in of_repo.items():
            setattr(repo, key, value)
        content = {path: File(data, path.endswith(LARGE)) for path, data in files.items()}
        listing = json.dumps([name, branch, len(repo.commits), sorted((path, file.sha256) for path, file in content.items())])
        commit = hashlib.sha1(listing.encode()).hexdigest()
        repo.commits[commit] = content
        repo.branches[branch] = commit
        for file in content.values():
            if file.large:
                self.storage.serve(f"/lfs/{file.sha256}", file.data, headers={"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"})
        return commit

    def files_sent(self) -> list[str]:
        """Return the paths of file content that was asked for, from either origin."""
        api = [request.path for request in self.api.requests if "/resolve/" in request.path and request.method == "GET"]
        return api + [request.path for request in self.storage.requests]

    def _answer(self, request: httpd.Request) -> Answer:
        try:
            return self._dispatch(request, unquote(urlsplit(request.path).path))
        except DeniedError as denied:
            headers = {"X-Error-Code": denied.code, "X-Error-Message": denied.message}
            return _json({"error": denied.message}, denied.status, headers)

    def _dispatch(self, request: httpd.Request, path: str) -> Answer:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            message = "Invalid credentials in Authorization header"
            return _json({"error": message}, 401, {"X-Error-Message": message})
        found = re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)/(revision|tree|paths-info|refs|auth-check)(?:/(.*))?", path)
        if found:
            return self._api(request, self._repo(found[1], token), found[2], found[3] or "", token)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+|[^/]+)", path)
        if found:
            return self._info(self._repo(found[1], token), "main")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)", path)
        if found:
            return self._resolve(request, self._repo(found[1], token), found[2], token)
        raise DeniedError("EntryNotFound")

    def _repo(self, name: str, token: str) -> Repo:
        repo = self.repos.get(name)
        if repo is None or (repo.private and token not in repo.readers):
            raise DeniedError("RepoNotFound", 404 if token else 401)
        return repo

    def _api(self, request: httpd.Request, repo: Repo, verb: str, rest: str, token: str) -> Answer:
        match verb:
            case "revision":
                return self._info(repo, rest)
            case "tree":
                return self._tree(request, repo, rest)
            case "paths-info":
                given = request.body.decode()
                wanted = json.loads(given)["paths"] if given.startswith("{") else parse_qs(given).get("paths", [])
                files = repo.commits[repo.commit(rest)]
                return _json([files[path].entry(path) for path in wanted if path in files])
            case "auth-check":
                _check_gate(repo, token)
                return _json({})
        named = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags), "converts": ("convert", {})}
        return _json(
            {
                key: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit} for name, commit in names.items()]
                for key, (kind, names) in named.items()
            }
        )

    def _info(self, repo: Repo, revision: str) -> Answer:
        commit = repo.commit(revision)
        repo.downloads += 1
        value = {
            "_id": commit[:24],
            "id": repo.name,
            "modelId": repo.name,
            "author": repo.name.split("/")[0],
            "sha": commit,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": repo.downloads,
            "likes": repo.downloads,
            "lastModified": f"2026-01-01T00:00:{repo.downloads % 60:02}.000Z",
            "createdAt": "2025-01-01T00:00:00.000Z",
            "tags": ["transformers", *(f"license:{self_said}" for self_said in [repo.card.get("license")] if self_said)],
            "pipeline_tag": "text-generation",
            "library_name": "transformers",
            "cardData": repo.card,
            "siblings": [{"rfilename": path} for path in sorted(repo.commits[commit])],
        }
        return _json(self.tamper("info", value))

    def _tree(self, request: httpd.Request, repo: Repo, rest: str) -> Answer:
        revision = next((name for name in (*repo.commits, *repo.branches, *repo.tags) if f"{rest}/".startswith(f"{name}/")), rest)
        entries = self._entries(repo.commits[repo.commit(revision)])
        query = parse_qs(urlsplit(request.path).query)
        start = int(query.get("cursor", ["0"])[0])
        more = f"{self.endpoint}{urlsplit(request.path).path}?recursive=true&expand=false&cursor={start + self.page}"
        headers = {"Link": f'<{more}>; rel="next"'} if start + self.page < len(entries) else {}
        return _json(self.tamper("tree", entries[start : start + self.page]), headers=headers)

    def _entries(self, files: dict[str, File]) -> list[dict[str, Any]]:
        """Return folders and files of a commit as a listing has them."""
        known = self.listings.get(id(files))
        if known:
            return known
        folders = sorted({path.rsplit("/", at)[0] for path in files for at in range(1, path.count("/") + 1)})
        entries = [{"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path} for path in folders]
        entries += [file.entry(path) for path, file in sorted(files.items())]
        return self.listings.setdefault(id(files), entries)

    def _resolve(self, request: httpd.Request, repo: Repo, rest: str, token: str) -> Answer:
        names = (*repo.commits, *repo.branches, *repo.tags)
        revision = next((name for name in names if rest.startswith(f"{name}/")), rest.split("/", 1)[0])
        commit, path = repo.commit(revision), rest[len(revision) + 1 :]
        _check_gate(repo, token)
        file = repo.commits[commit].get(path)
        if file is None:
            return _json({"error": "EntryNotFound"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{file.blob}"'}
        if file.large:
            linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
            return 302, headers | linked | {"Location": f"{self.storage.origin}/lfs/{file.sha256}?signature=secret"}, b""
        data = self.swapped.get(path, file.data)
        ranged = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if not ranged:
            return 200, headers, data
        start = int(ranged[1])
        return 206, headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]


class _Fallback(dict[str, httpd.Route]):
    """Routes with one for everything that has none."""

    def __init__(self, route: httpd.Route) -> None:
        super().__init__()
        self.route = route

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, default) or self.route


def _check_gate(repo: Repo, token: str) -> None:
    if repo.gated and token not in repo.readers:
        raise DeniedError("GatedRepo", 403 if token else 401, f"Access to model {repo.name} is restricted.")


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return status, {"Content-Type": "application/json"} | (headers or {}), json.dumps(value).encode()


def file_url(endpoint: str, repo: str, commit: str, path: str) -> str:
    """Return the address the hub has a file at."""
    return f"{endpoint}/{repo}/resolve/{commit}/{quote(path)}"
