"""Blobs taken over from another repository where a token server says who may read it: asked for, and done without if refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from parts import cargo, httpd
from parts import registry as registries

from airgap_images.layout import Layout
from airgap_images.oci import Digest
from airgap_images.placing.push import RegistryTarget
from airgap_images.placing.upload import SMALL
from airgap_images.reference import Reference
from airgap_images.remote.authentication import RegistryCredentials
from airgap_images.remote.http import Client, Retry
from airgap_images.remote.logins import Logins
from airgap_images.targets import Cargo
from manifests.rewrite import Rewrite

pytestmark = pytest.mark.parts
BIG = cargo.large(SMALL + 1)
BOTH = {"repository:site/team/b:pull,push", "repository:site/team/a:pull"}


class Behind:
    """A target behind a token server, and what was asked of both."""

    def __init__(self, folder: Path, running: registries.Registry, tokens: registries.TokenServer) -> None:
        self.running, self.tokens, self.layout = running, tokens, Layout.create(folder / "store")
        client = Client(retry=Retry(attempts=2, first=0.01))
        access = RegistryCredentials(client, Logins((registries.login(folder / "login.json", running.host),)), actions="pull,push")
        self.target = RegistryTarget(client, access, Rewrite(running.host, "site"))

    def load(self, name: str, architecture: str) -> list[int]:
        """Put an image with the big layer there and return what was counted as sent."""
        sent: list[int] = []
        root = cargo.image(self.layout, architecture, layers=(BIG,))
        self.target.load(self.layout, Cargo(name, "image", root, (f"docker.io/team/{name}:1",)), sent.append)
        return sent

    @property
    def scopes(self) -> list[set[str]]:
        """The scopes of every token that was asked for."""
        return [set(parse_qs(urlsplit(request.path).query)["scope"]) for request in self.tokens.asked]

    def answered(self, pattern: str) -> list[str]:
        """The status of every request of a pattern, as the registry's log has it."""
        return re.findall(rf'"{pattern} HTTP/1.1" ([0-9]{{3}})', self.log)

    @property
    def log(self) -> str:
        return (self.running.data.parent / "log").read_text().replace('\\"', '"')


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    with registries.token_registry(tmp_path / "registry") as (running, tokens):
        yield Behind(tmp_path, running, tokens)


MOUNT = rf"POST /v2/site/team/b/blobs/uploads/\?mount={Digest.of(BIG)}&from=site%2Fteam%2Fa"


def test_a_blob_is_mounted_with_a_token_for_both_repositories(behind: Behind) -> None:
    behind.load("a", "amd64")
    assert all(len(scope) == 1 for scope in behind.scopes), "nothing is asked for that is not needed"
    sent = behind.load("b", "arm64")
    assert behind.answered(MOUNT) == ["401", "201"]
    assert not behind.answered("PATCH /v2/site/team/b/.*?")
    assert sum(sent) >= len(BIG)
    assert [scope for scope in behind.scopes if len(scope) > 1] == [BOTH]
    behind.load("c", "riscv64")
    further = {"repository:site/team/c:pull,push", "repository:site/team/b:pull"}
    assert [scope for scope in behind.scopes if len(scope) > 1] == [BOTH, further], "one source at a time"


def test_a_source_is_asked_for_at_its_own_registry_only(behind: Behind, tmp_path: Path) -> None:
    client = Client(retry=Retry(attempts=1))
    access = RegistryCredentials(client, Logins((tmp_path / "login.json",)), actions="pull,push")
    for source in (f"{behind.running.host}/team/a", "other.example/team/a"):
        asking = access.mounting(Reference.parse(source))
        assert asking is access.mounting(Reference.parse(source)), "one token serves all blobs"
        client.send("POST", f"http://{behind.running.host}/v2/team/x/blobs/uploads/", limit=1000, credentials=asking)
    assert behind.scopes == [{"repository:team/x:pull,push", "repository:team/a:pull"}, {"repository:team/x:pull,push"}]


def test_where_the_token_server_refuses_both_at_once_the_blob_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = registries.TokenServer._answer

    def strict(self: registries.TokenServer, request: httpd.Request) -> tuple[int, dict[str, str], bytes]:
        if len(parse_qs(urlsplit(request.path).query)["scope"]) > 1:
            return 403, {}, b'{"details":"not both"}'
        return answer(self, request)

    monkeypatch.setattr(registries.TokenServer, "_answer", strict)
    with registries.token_registry(tmp_path / "registry") as (running, tokens):
        behind = Behind(tmp_path, running, tokens)
        behind.load("a", "amd64")
        behind.load("b", "arm64")
        assert behind.answered(MOUNT) == ["401"]
        assert behind.answered("PATCH /v2/site/team/b/.*?")
        assert BOTH in behind.scopes


def test_a_login_that_may_not_read_the_source_sends_the_blob(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    made = registries.TokenServer._token
    behind.load("a", "amd64")

    def without(self: registries.TokenServer, access: list[dict]) -> str:
        return made(self, [entry for entry in access if entry["actions"] != ["pull"]])

    monkeypatch.setattr(registries.TokenServer, "_token", without)
    behind.load("b", "arm64")
    assert set(behind.answered(MOUNT)) == {"401"}
    assert behind.answered("PATCH /v2/site/team/b/.*?")
