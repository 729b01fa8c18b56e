"""Referrers: the API with its pages, the fallback tag, and registries that refuse, lie or never end. "None" is not "no answer"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import httpd, signed
from parts import registry as registries
from parts.expect import refused
from parts.upstream import VENDOR

from airgap_images.oci import EMPTY_JSON, IMAGE_INDEX, IMAGE_MANIFEST, Digest
from airgap_images.reference import Reference
from airgap_images.remote import referrers
from airgap_images.remote.http import Client, Retry
from airgap_images.remote.mirrors import Entry, Mirrors, Place
from airgap_images.remote.web import NoCredentials
from manifests.errors import NetworkError

SUBJECT = Digest("a" * 64)
CLIENT = Client(retry=Retry(attempts=1))


def entry(number: int, **changes: object) -> dict:
    return {"mediaType": IMAGE_MANIFEST, "digest": f"sha256:{number:064x}", "size": 100, "artifactType": "application/spdx+json"} | changes


def listed(*entries: dict) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": list(entries)}).encode()


class Fake:
    """A registry in a few lines; what is not served is answered 404."""

    def __init__(self, server: httpd.Server) -> None:
        self.server = server
        self.path = f"/v2/team/x/referrers/{SUBJECT}"
        self.ref = Reference.parse(f"127.0.0.1:{server.port}/team/x:1")

    def api(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.server.serve(self.path, answer=lambda _: (status, {"Content-Type": IMAGE_INDEX} | headers, body))

    def tag(self, body: bytes, status: int = 200, media_type: str = IMAGE_INDEX) -> None:
        self.server.serve(f"/v2/team/x/manifests/sha256-{SUBJECT.hex}", answer=lambda _: (status, {"Content-Type": media_type}, body))

    def ask(self, mirrors: Mirrors = Mirrors()) -> referrers.Answer:  # noqa: B008 - a frozen value
        return referrers.ask(CLIENT, NoCredentials(), self.ref, SUBJECT, mirrors=mirrors)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with httpd.Server() as server:
        yield Fake(server)


# --- real registries


@pytest.mark.parts
def test_a_real_registry_without_the_api_and_one_with_it(tmp_path: Path) -> None:
    with registries.registry(tmp_path / "r") as running, signed.front(running, page=2) as front:
        repository = signed.Repository(running, "team/x", wrong_type=True)
        image = repository.image("1")
        pushed = {str(repository.sbom(image, str(at)).digest) for at in range(4)} | {str(repository.signature(image, VENDOR).digest)}
        for host, kind in ((running.host, EMPTY_JSON), (front.host, None)):
            found = referrers.referrers(CLIENT, NoCredentials(), Reference.parse(f"{host}/team/x:1"), image.digest)
            assert {str(one.digest) for one in found} == pushed
            assert kind is None or {one.artifact_type for one in found} == {kind}, "what is listed is passed on as it is, right or wrong"
        assert len([path for path in front.asked if "/referrers/" in path]) == 3
        silent = repository.image("2", note="nobody speaks of it")
        for host in (running.host, front.host):
            assert referrers.referrers(CLIENT, NoCredentials(), Reference.parse(f"{host}/team/x:2"), silent.digest) == ()


# --- pages


def test_pages_are_followed_relative_to_where_they_are(fake: Fake) -> None:
    def answer(request: httpd.Request) -> tuple[int, dict[str, str], bytes]:
        if "n=2" in request.path:
            return 200, {"Content-Type": IMAGE_INDEX}, listed(entry(2), entry(1))
        link = f'<{fake.path}?x=0>; rel="first", <?n=2&last=a,b>; rel="next"; title="more"'
        return 200, {"Content-Type": IMAGE_INDEX, "Link": link, "OCI-Filters-Applied": "artifactType"}, listed(entry(1))

    fake.server.serve(fake.path, answer=answer)
    answered = fake.ask()
    assert ([one.digest.hex for one in answered.entries], answered.problem) == ([f"{1:064x}", f"{2:064x}"], "")


@pytest.mark.parametrize(
    "link", ["<http://127.0.0.2:1/v2/team/x/referrers/{0}>; rel=next", "</v2/team/y/referrers/{0}>; rel=next", "<//other.test/>; rel=next"]
)
def test_a_page_elsewhere_is_not_followed(fake: Fake, link: str) -> None:
    fake.api(listed(entry(1)), Link=link.format(SUBJECT))
    answered = fake.ask()
    assert len(answered.entries) == 1
    assert "elsewhere" in answered.problem
    assert len(fake.server.requests) == 1


def test_an_address_that_is_none_is_an_error_and_no_end(fake: Fake) -> None:
    fake.api(listed(entry(1)), Link="<ftp://x/>; rel=next")
    assert "address" in fake.ask().problem


def test_pages_that_never_end(fake: Fake) -> None:
    fake.api(listed(entry(1)), Link=f"<{fake.path}?again>; rel=next")
    answered = fake.ask()
    assert answered.problem == f"the list has more than {referrers.MAX_PAGES} pages; the others were not looked at"
    assert len(answered.entries) == 1
    assert len(fake.server.requests) == referrers.MAX_PAGES


def test_a_million_referrers(fake: Fake) -> None:
    state = {"at": 0}

    def answer(_: httpd.Request) -> tuple[int, dict[str, str], bytes]:
        state["at"] += 1000
        return 200, {"Content-Type": IMAGE_INDEX, "Link": f"<{fake.path}?n={state['at']}>; rel=next"}, listed(*map(entry, range(state["at"], state["at"] + 1000)))

    fake.server.serve(fake.path, answer=answer)
    answered = fake.ask()
    assert len(answered.entries) == referrers.MAX_REFERRERS
    assert answered.problem.startswith(f"more than {referrers.MAX_REFERRERS} are listed")
    assert len(fake.server.requests) == 5
    fake.api(status=404)
    fake.tag(listed(*map(entry, range(referrers.MAX_REFERRERS + 1))))
    answered = fake.ask()
    assert (len(answered.entries), answered.problem[:9]) == (referrers.MAX_REFERRERS, "more than")


def test_an_endless_page(fake: Fake) -> None:
    fake.server.serve(fake.path, b" " * 100_000, endless=True, headers={"Content-Type": IMAGE_INDEX})
    assert fake.ask() == referrers.Answer(problem="no whole answer arrived")


# --- none, and no answer


def test_neither_api_nor_tag_is_none(fake: Fake) -> None:
    assert fake.ask() == referrers.Answer()
    assert [request.path for request in fake.server.requests] == [fake.path, f"/v2/team/x/manifests/sha256-{SUBJECT.hex}"]


@pytest.mark.parametrize("status", [400, 405, 406, 501])
def test_a_registry_that_does_not_know_the_api(fake: Fake, status: int) -> None:
    fake.api(status=status)
    assert fake.ask() == referrers.Answer(problem=f"the server answered {status}"), "nothing under the tag: it may be that it just did not say"
    fake.tag(listed(entry(1)))
    answered = fake.ask()
    assert (len(answered.entries), answered.problem) == (1, "")


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_refusal_is_never_none(fake: Fake, status: int) -> None:
    fake.api(status=status)
    fake.tag(listed(entry(1)))
    answered = fake.ask()
    assert (len(answered.entries), answered.problem) == (1, f"the server answered {status}")
    fake.api(status=404)
    fake.tag(b"{}", status)
    assert fake.ask() == referrers.Answer(problem=f"the server answered {status}")
    with refused(NetworkError, str(SUBJECT), "referrers", f"answered {status}"):
        referrers.referrers(CLIENT, NoCredentials(), fake.ref, SUBJECT)


def test_a_later_page_that_is_refused(fake: Fake) -> None:
    def answer(request: httpd.Request) -> tuple[int, dict[str, str], bytes]:
        if "n=2" in request.path:
            return 404, {}, b""
        return 200, {"Content-Type": IMAGE_INDEX, "Link": f"<{fake.path}?n=2>; rel=next"}, listed(entry(1))

    fake.server.serve(fake.path, answer=answer)
    answered = fake.ask()
    assert (len(answered.entries), answered.problem) == (1, "the server answered 404")


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"{}", b"[]", b'{"schemaVersion":2,"manifests":{}}', listed(entry(1, digest="sha512:" + "0" * 128)), listed(entry(1, size=-1))],
)
def test_what_is_no_list_is_no_answer(fake: Fake, body: bytes) -> None:
    fake.api(body)
    answered = fake.ask()
    assert answered.entries == ()
    assert answered.problem
    assert "\n" not in answered.problem


def test_an_image_under_the_fallback_tag_is_no_list(fake: Fake) -> None:
    body = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": entry(1), "layers": []}
    fake.tag(json.dumps(body).encode(), media_type=IMAGE_MANIFEST)
    answered = fake.ask()
    assert answered.entries == ()
    assert "the fallback tag" in answered.problem


# --- mirrors


def test_the_registry_itself_is_asked_before_its_mirrors(fake: Fake) -> None:
    with httpd.Server() as other:
        place = Place(f"127.0.0.1:{other.port}/team/x", "test")
        mirrors = Mirrors((Entry(f"127.0.0.1:{fake.server.port}/team/x", Place("", "test"), (place,)),))
        other.serve(fake.path, listed(entry(7)), headers={"Content-Type": IMAGE_INDEX})
        fake.api(listed(entry(1), entry(2)))
        assert len(fake.ask(mirrors).entries) == 2
        assert other.requests == []
        fake.api(status=503)
        answered = fake.ask(mirrors)
        assert ([one.digest.hex for one in answered.entries], answered.problem) == ([f"{7:064x}"], "")
