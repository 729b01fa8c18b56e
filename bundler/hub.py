"""A Hugging Face hub, asked through its own client: which commit a revision is, which files it has, who may read them.

Rules: the token of this machine goes to the endpoint this machine is configured for (``HF_ENDPOINT``) and to no other,
whatever an intent names; what the hub answers is hostile: counts and sizes are bounded, digests must be well formed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoFile

from airgap_images.oci import MAX_BLOB
from airgap_images.remote.http import Address, Credentials, HostToken, NoCredentials
from manifests.errors import AirgapError, InvalidFileError, NetworkError, UsageError
from manifests.paths import printable

TIMEOUT = 60  # seconds for the first answer
MAX_FILES = 100_000
MAX_ENTRIES = 2 * MAX_FILES  # folders are listed too
MAX_NAMES = 12  # revisions named in a hint

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRANSPORT = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)  # the HTTP library's own base class, and OSError
_GARBLED = (ValueError, KeyError, TypeError, AttributeError)  # what the client raises for an answer of another form
_FAILURES: tuple[type[Exception], ...] = (*_TRANSPORT, *_GARBLED)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Revision:
    """What a hub says of one revision of a model; the texts are its claims."""

    repo: str
    commit: str
    gated: str
    licence: tuple[tuple[str, str], ...]
    pipeline: str
    library: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a commit: size in bytes, git's blob id, and the sha256 if it is stored outside of git."""

    path: str
    size: int
    blob: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Hub:
    """One model repository on one endpoint, asked with ``token``; ``what`` names the component in errors."""

    what: str
    repo: str
    endpoint: str
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, what: str, repo: str, endpoint: str | None) -> Hub:
        """Return ``repo`` on ``endpoint``, by default the one this machine is configured for."""
        address = Address.parse(endpoint or constants.ENDPOINT)
        if endpoint and address.user is not None:
            raise InvalidFileError(f"{what}: endpoint carries a user name", hint="set HF_TOKEN; the lock is read by many")
        return cls(what, repo, address.url.rstrip("/"), token_for(address))

    def url(self, commit: str, path: str) -> str:
        """Return the address of a file as of ``commit``."""
        return f"{self.endpoint}/{self.repo}/resolve/{commit}/{quote(path)}"

    @property
    def host(self) -> str:
        """Return the host that was asked, with its port if that is not the usual one."""
        return urlsplit(self.endpoint).netloc.rpartition("@")[2].lower()

    @property
    def credentials(self) -> Credentials:
        """Return the token for this endpoint's origin."""
        return HostToken(Address.parse(self.endpoint).origin, self.token) if self.token else NoCredentials()

    def revision(self, name: str) -> Revision:
        """Return what revision ``name`` is; raises UsageError if there is no such model or revision, NetworkError if it may not be read."""
        info: ModelInfo = self._asked(lambda: self._api.model_info(self.repo, revision=name, timeout=TIMEOUT), name)
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise self._garbled("it names no commit")
        if info.gated:
            self._check_access()
        return Revision(
            repo=printable(str(info.id)),
            commit=info.sha,
            gated=_text(info.gated) or ("yes" if info.gated else ""),
            licence=tuple((key, text) for key in ("license", "license_name", "license_link") if (text := _claim(info.card_data, key))),
            pipeline=_text(info.pipeline_tag),
            library=_text(info.library_name),
        )

    def _check_access(self) -> None:
        """Raise if a gated model may not be read, rather than at the first byte of the build."""
        try:
            self._api.auth_check(self.repo)
        except (GatedRepoError, RepositoryNotFoundError):
            raise self.gated() from None
        except _FAILURES:
            return  # a mirror that has no such question; the build will see

    def files(self, commit: str) -> tuple[HubFile, ...]:
        """Return every file of ``commit``, sorted by path."""
        return tuple(sorted(self._asked(lambda: self._listed(commit), commit), key=lambda file: file.path))

    @property
    def _api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=self.token or False)

    def _listed(self, commit: str) -> list[HubFile]:
        files: list[HubFile] = []
        for count, entry in enumerate(self._api.list_repo_tree(self.repo, revision=commit, recursive=True), start=1):
            if isinstance(entry, RepoFile):
                files.append(self._file(entry))
            if len(files) > MAX_FILES or count > MAX_ENTRIES:
                raise UsageError(f"{self.what}: {self.repo} holds more than {MAX_FILES} files", hint="carry parts of it from a folder")
        return files

    def _file(self, entry: RepoFile) -> HubFile:
        size, sha256 = (entry.size, None) if entry.lfs is None else (entry.lfs.size, entry.lfs.sha256)
        path: Any = entry.path  # whatever the answer held
        digests = _matches(_COMMIT, entry.blob_id) and (entry.lfs is None or _matches(_SHA256, sha256))
        if not isinstance(path, str) or type(size) is not int or not 0 <= size <= MAX_BLOB or not digests:
            raise self._garbled(f"the entry of {printable(str(path))!r} lacks a size or a digest")
        return HubFile(path, size, entry.blob_id, sha256)

    def _asked(self, question: Callable[[], T], revision: str) -> T:
        """Ask the hub; say what its refusal means."""
        try:
            return question()
        except GatedRepoError:
            raise self.gated() from None
        except RepositoryNotFoundError:
            raise self._unknown() from None
        except RevisionNotFoundError:
            raise UsageError(f"{self.what}: {self.repo} has no revision {printable(revision)!r}", hint=self._revisions()) from None
        except HFValidationError as error:
            raise UsageError(f"{self.what}: {_first_line(error)}", hint="correct `repo` and `revision`") from None
        except OfflineModeIsEnabled:
            raise UsageError(f"{self.what}: HF_HUB_OFFLINE is set, so the hub is not asked", hint="unset it to lock") from None
        except _TRANSPORT as error:
            raise self._failed(error) from None
        except _GARBLED as error:
            raise self._garbled(_first_line(error)) from None

    def gated(self) -> AirgapError:
        """Return the error for a model whose terms must be accepted first."""
        terms = f"accept the terms at {self.endpoint}/{self.repo}"
        if self.token is None:
            message = f"{self.what}: {self.repo} is gated, and there is no token"
            return NetworkError(message, hint=f"{terms}, then `hf auth login` or set HF_TOKEN")
        message = f"{self.what}: {self.repo} is gated, and the account of this token has no access"
        return NetworkError(message, hint=f"{terms} with that account and wait until access is granted")

    def _unknown(self) -> AirgapError:
        message = f"{self.what}: {self.endpoint} has no model {self.repo}, or does not show it to "
        if self.token is None:
            return UsageError(f"{message}strangers", hint="check `repo`; if it is private, `hf auth login` or set HF_TOKEN")
        return UsageError(f"{message}this token", hint="check `repo`; if it is private, the token must be of an account that may read it")

    def _failed(self, error: Exception) -> AirgapError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        message = f"{self.what}: {self.endpoint}: {_first_line(error)}"
        if status == 401:  # noqa: PLR2004 - HTTP's own number
            return NetworkError(message, hint="the token is not accepted; `hf auth whoami` tells whose it is")
        return NetworkError(message, hint="check the network, the proxy and HF_ENDPOINT, then run again")

    def _garbled(self, why: str) -> AirgapError:
        return NetworkError(f"{self.what}: {self.endpoint} does not answer as a hub does: {why}", hint="check HF_ENDPOINT")

    def _revisions(self) -> str:
        try:
            refs = self._api.list_repo_refs(self.repo)
            names = [printable(str(ref.name), 60) for ref in _first((*refs.branches, *refs.tags))]
        except _FAILURES:
            names = []
        return f"branches and tags: {', '.join(names)}" if names else "name a branch, a tag or a commit it has"


def token_for(address: Address) -> str | None:
    """Return this machine's token if ``address`` is the endpoint it is configured for, else None."""
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or address.origin != Address.parse(constants.ENDPOINT).origin:
        return None
    return get_token()


def configured_credentials() -> Credentials:
    """Return this machine's token for the endpoint it is configured for."""
    address = Address.parse(constants.ENDPOINT)
    token = token_for(address)
    return HostToken(address.origin, token) if token else NoCredentials()


def _first(items: Iterable[T]) -> list[T]:
    return list(items)[:MAX_NAMES]


def _claim(card: Any, key: str) -> str:
    value = card.get(key) if hasattr(card, "get") else None
    return _text(", ".join(item for item in value if isinstance(item, str)) if isinstance(value, list) else value)


def _text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__
