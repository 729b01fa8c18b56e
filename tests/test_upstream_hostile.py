"""Registries that refuse, lie, lose or overwhelm while upstream evidence is collected: everything is bounded, nothing is silent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import httpd
from parts.collecting import Desk, beside, listing
from parts.signed import CONFIG, LAYER, SPDX, compact, digest_of
from parts.upstream import BUNDLE

from airgap_images import evidence
from airgap_images.oci import EMPTY_JSON, IMAGE_INDEX, IMAGE_MANIFEST, Digest
from bundler.upstream import collector
from manifests.lock import Lock


class Fake:
    """A registry in a few lines that holds one image; what is not served is answered 404."""

    def __init__(self, server: httpd.Server) -> None:
        self.server = server
        self.ref = f"127.0.0.1:{server.port}/team/x:1"
        config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}, "config": {"User": "1"}}
        self.image = self.manifest(config=self.blob(compact(config), CONFIG), layers=[self.blob(b"layer", LAYER)])
        self.put(self.image, "1")
        self.subject = digest_of(self.image)
        self.empty = self.blob(b"{}", EMPTY_JSON)
        self.listed: list[dict] = []

    def blob(self, data: bytes, media_type: str) -> dict:
        self.server.serve(f"/v2/team/x/blobs/{digest_of(data)}", data)
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    def manifest(self, **parts: object) -> bytes:
        raw = compact({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST} | parts)
        self.put(raw)
        return raw

    def put(self, raw: bytes, selector: str = "") -> None:
        kind = json.loads(raw)["mediaType"]
        self.server.serve(f"/v2/team/x/manifests/{selector or digest_of(raw)}", raw, headers={"Content-Type": kind})

    def about(self, subject: str | None = None, layers: list[dict] | None = None, note: str = "") -> dict:
        """Serve a manifest of evidence and return how it is listed."""
        named = {"subject": {"mediaType": IMAGE_MANIFEST, "digest": subject or self.subject, "size": len(self.image)}} if subject != "" else {}
        raw = self.manifest(artifactType=SPDX, config=self.empty, layers=layers or [self.empty], annotations={"note": note}, **named)
        return {"mediaType": IMAGE_MANIFEST, "digest": digest_of(raw), "size": len(raw), "artifactType": SPDX}

    def list(self, *entries: dict) -> None:
        self.listed += entries
        raw = compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": self.listed})
        self.server.serve(f"/v2/team/x/referrers/{self.subject}", raw, headers={"Content-Type": IMAGE_INDEX})

    def refuse(self, path: str, status: int) -> None:
        self.server.serve(f"/v2/team/x/{path}", answer=lambda _: (status, {}, b""))

    def tag(self, suffix: str) -> str:
        return f"sha256-{self.subject[7:]}.{suffix}"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with httpd.Server() as server:
        yield Fake(server)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Desk(tmp_path)


def whys(lock: Lock) -> dict[str, str]:
    return dict(listing(lock).not_collected)


@pytest.mark.parametrize("status", [400, 401, 403, 405, 500, 503])
def test_a_tag_that_is_refused_is_not_a_tag_that_is_not_there(fake: Fake, desk: Desk, status: int) -> None:
    fake.refuse(f"manifests/{fake.tag('sig')}", status)
    lock = desk.lock(fake.ref)
    assert whys(lock) == {f"tag {fake.tag('sig')}": f"the server answered {status}"}
    assert desk.warnings == [f"tool: not collected: tag {fake.tag('sig')}: the server answered {status}"]
    assert beside(lock).facts == {"upstream-signatures": "none found", "upstream-not-collected": "1"}
    assert f"tag {fake.tag('sig')}" in listing(lock).asked
    assert desk.lock(fake.ref).to_bytes() == lock.to_bytes()


@pytest.mark.parametrize("status", [403, 405, 500])
def test_referrers_that_are_refused_are_not_none(fake: Fake, desk: Desk, status: int) -> None:
    fake.refuse(f"referrers/{fake.subject}", status)
    assert whys(desk.lock(fake.ref)) == {f"referrers {fake.subject}": f"the server answered {status}"}
    assert len(desk.warnings) == 1


def test_a_registry_that_breaks_down_is_not_asked_for_ever(fake: Fake, desk: Desk) -> None:
    fake.list(*(fake.about(note=str(at)) for at in range(20)))
    for entry in fake.listed:
        fake.refuse(f"manifests/{entry['digest']}", 500)
    lock = desk.lock(fake.ref)
    assert len([r for r in fake.server.requests if any(entry["digest"] in r.path for entry in fake.listed)]) == collector.MAX_FAILURES
    assert len(whys(lock)) == 20
    assert sum("not asked for, after" in why for why in whys(lock).values()) == 17
    assert len(desk.warnings) == 6
    assert desk.warnings[-1] == "tool: 15 more things of upstream were not collected; tool.upstream/upstream.json lists them"


def test_what_is_about_something_else_is_no_evidence_for_this(fake: Fake, desk: Desk) -> None:
    other, none, good = fake.about("sha256:" + "e" * 64), fake.about("", note="none"), fake.about(note="good")
    absent = {"mediaType": IMAGE_MANIFEST, "digest": "sha256:" + "f" * 64, "size": 10}
    inner = {"mediaType": IMAGE_INDEX, "digest": "sha256:" + "d" * 64, "size": 10}
    image = {"mediaType": IMAGE_MANIFEST, "digest": fake.subject, "size": len(fake.image)}
    fake.list(other, none, good, absent, inner, image)
    lock = desk.lock(fake.ref)
    assert [str(found.manifest.digest) for found in listing(lock).found] == [good["digest"]]
    assert whys(lock) == {
        f"referrer {other['digest']} of {fake.subject}": "names another subject",
        f"referrer {none['digest']} of {fake.subject}": "names no subject",
        f"referrer {absent['digest']} of {fake.subject}": "the server answered 404",
        f"referrer {inner['digest']} of {fake.subject}": f"is of media type {IMAGE_INDEX}, which is not carried",
    }
    desk.build(lock)


def test_other_bytes_than_listed_are_not_taken(fake: Fake, desk: Desk) -> None:
    entry = fake.about()
    fake.server.serve(f"/v2/team/x/manifests/{entry['digest']}", b'{"schemaVersion":2}', headers={"Content-Type": IMAGE_MANIFEST})
    fake.list(entry)
    lock = desk.lock(fake.ref)
    assert listing(lock).found == ()
    assert ["the registry sent other bytes" in why for why in whys(lock).values()] == [True]


def test_a_manifest_that_cannot_be_read_is_not_taken(fake: Fake, desk: Desk) -> None:
    raw = compact({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": fake.empty, "layers": [{"digest": "sha512:x"}]})
    fake.put(raw, fake.tag("sig"))
    assert listing(desk.lock(fake.ref)).found == ()
    assert len(desk.warnings) == 1
    assert "\n" not in desk.warnings[0]


def test_blobs_beyond_the_limits_are_not_fetched(fake: Fake, desk: Desk) -> None:
    huge = {"mediaType": SPDX, "digest": "sha256:" + "b" * 64, "size": evidence.MAX_BLOB + 1}
    many = [fake.blob(str(at).encode(), SPDX) for at in range(evidence.MAX_BLOBS + 1)]
    fake.list(fake.about(layers=[huge]), fake.about(layers=many))
    before = len(fake.server.requests)
    lock = desk.lock(fake.ref)
    assert listing(lock).found == ()
    assert min(whys(lock).values()).startswith(f"has a blob of {evidence.MAX_BLOB + 1} bytes")
    assert "blobs of one" in max(whys(lock).values())
    assert not [request for request in fake.server.requests[before:] if huge["digest"] in request.path]


def test_large_blobs_are_pinned_unread_until_together_they_are_too_large(fake: Fake, desk: Desk) -> None:
    entries = []
    for at in range(10):
        large = {"mediaType": SPDX, "digest": f"sha256:{at:064x}", "size": evidence.MAX_BLOB - 10_000}
        entries.append(fake.about(layers=[large], note=str(at)))
    fake.list(*entries)
    lock = desk.lock(fake.ref)
    assert len(listing(lock).found) == 8
    assert sum("bytes of evidence" in why for why in whys(lock).values()) == 2
    assert sum(pin.size for pin in beside(lock).files) <= evidence.MAX_TOTAL
    assert not [request for request in fake.server.requests if "/blobs/sha256:000" in request.path]


def test_one_blob_said_to_have_two_sizes(fake: Fake, desk: Desk) -> None:
    for part in (fake.blob(b"an SBOM", SPDX), {"mediaType": SPDX, "digest": "sha256:" + "b" * 64, "size": collector.MAX_READ + 1}):
        fake.listed = []
        fake.list(fake.about(layers=[part]), fake.about(layers=[part | {"size": part["size"] + 1}]))
        lock = desk.lock(fake.ref)
        assert len(listing(lock).found) == 1
        assert any(f"blob {part['digest']}" in why for why in whys(lock).values())


def test_so_many_that_not_all_can_be_carried_and_signatures_come_first(fake: Fake, desk: Desk) -> None:
    fake.list(*(fake.about(note=str(at)) for at in range(evidence.MAX_FOUND + 10)))
    signature = fake.about(layers=[fake.blob(b"{}", BUNDLE)], note="last")
    fake.list(signature | {"artifactType": BUNDLE})
    lock = desk.lock(fake.ref)
    found = listing(lock).found
    assert len(found) == evidence.MAX_FOUND
    assert signature["digest"] in {str(one.manifest.digest) for one in found}
    assert len(whys(lock)) == 11
    assert all("too many" in why for why in whys(lock).values())
    assert evidence.Evidence.parse(listing(lock).to_text().encode(), "x") == listing(lock)


def test_ever_more_that_is_about_something_else_is_not_looked_at_for_ever(fake: Fake, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_LOOKED_AT", 5)
    monkeypatch.setattr(collector, "MAX_LISTED", 8)
    fake.list(*(fake.about("sha256:" + "e" * 64, note=str(at)) for at in range(12)))
    lock = desk.lock(fake.ref)
    notes = listing(lock).not_collected
    assert sum(why == "names another subject" for _, why in notes) == 5
    assert notes[-1] == ("4 more", "too many to list")
    assert len([request for request in fake.server.requests if any(entry["digest"] in request.path for entry in fake.listed)]) == 5
    assert desk.warnings[-1].startswith("tool: 7 more things")


def test_control_characters_of_a_registry_reach_no_terminal(fake: Fake, desk: Desk) -> None:
    entry = fake.about()
    fake.list({**entry, "digest": "sha256:" + "c" * 64, "mediaType": "text/plain"})
    fake.server.serve(f"/v2/team/x/manifests/{fake.tag('att')}", b"{}", headers={"Content-Type": "text/\x1b[2Jx"})
    desk.lock(fake.ref)
    assert desk.warnings
    assert all(line.isprintable() for line in desk.warnings)


def test_a_listing_parsed_back_is_what_the_lock_holds(fake: Fake, desk: Desk) -> None:
    lock = desk.lock(fake.ref)
    (subject,) = listing(lock).subjects
    assert subject.digest == Digest.parse(fake.subject)
    assert (subject.role, subject.platform) == ("image", "linux/amd64")
