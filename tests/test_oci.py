"""OCI documents as values: only valid digests, raw bytes kept, hostile documents refused in one typed way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airgap_images.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    EMPTY_JSON,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    MAX_BLOB,
    MAX_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
    parse_document,
)  # fmt: skip
from manifests.errors import AirgapError, IntegrityError, InvalidFileError

HEX = "a" * 64
LAYER = {"mediaType": "application/octet-stream", "digest": f"sha256:{HEX}", "size": 3, "annotations": {"b": "2", "a": "1"}}
MANIFEST = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": {**LAYER, "mediaType": EMPTY_JSON}, "layers": [LAYER]}
INDEX = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [{**LAYER, "mediaType": IMAGE_MANIFEST, "platform": {"os": "linux"}}]}


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


@given(st.binary(max_size=100))
def test_a_digest_is_written_and_read(data):
    digest = Digest.of(data)
    assert Digest.parse(str(digest)) == digest
    assert len(digest.hex) == 64


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", HEX, f"sha256:{HEX.upper()}", f"sha256:{HEX}a", f"sha256:{HEX[:-1]}", f"sha512:{HEX}{HEX}", f"SHA256:{HEX}", f"sha256:{HEX}\n",
     f"sha256:../{HEX[3:]}", f" sha256:{HEX}", f"sha256:{'ａ' * 64}", None, 5, ["sha256"], {"sha256": HEX}],
)  # fmt: skip
def test_no_other_digest_exists(text):
    with pytest.raises(IntegrityError, match="not a sha256 digest"):
        Digest.parse(text)


def test_digests_are_ordered_by_their_text():
    assert sorted([Digest("b" * 64), Digest(HEX)]) == [Digest(HEX), Digest("b" * 64)]


def test_a_descriptor_is_written_as_it_was_read_and_unknown_fields_are_dropped():
    full = {**LAYER, "artifactType": "a/b", "platform": {"os": "linux", "architecture": "amd64"}}
    found = Descriptor.from_dict({**full, "urls": ["https://elsewhere"], "data": "aGk="}, "x")
    assert found.to_dict() == full
    assert (found.annotation("a"), found.annotation("z")) == ("1", None)
    assert Descriptor.from_dict({**LAYER, "platform": {"os": "linux", "os.features": ["x"]}}, "x").platform == (("os", "linux"),)


def test_documents_keep_the_bytes_they_were_parsed_from():
    for document in (raw(MANIFEST), json.dumps(MANIFEST, indent=3).encode()):
        found = Manifest.parse(document, "x")
        assert found.raw == document
        assert [child.media_type for child in found.children] == [EMPTY_JSON, "application/octet-stream"]
    found = Index.parse(raw(INDEX), "x")
    assert found.children == found.manifests
    assert found.manifests[0].platform == (("os", "linux"),)


def test_the_media_type_is_optional_and_may_be_dockers():
    assert Manifest.parse(raw({k: v for k, v in MANIFEST.items() if k != "mediaType"}), "x").media_type == IMAGE_MANIFEST
    assert Manifest.parse(raw({**MANIFEST, "mediaType": DOCKER_MANIFEST}), "x").media_type == DOCKER_MANIFEST
    assert Index.parse(raw({**INDEX, "mediaType": DOCKER_LIST}), "x").media_type == DOCKER_LIST


def test_a_subject_is_no_child():
    found = Manifest.parse(raw({**MANIFEST, "subject": {**LAYER, "digest": f"sha256:{'b' * 64}"}}), "x")
    assert found.subject is not None
    assert found.subject.digest not in {child.digest for child in found.children}


def test_what_has_children_is_decided_by_the_descriptor():
    def described(media_type: str) -> Descriptor:
        return Descriptor(media_type, Digest(HEX), 3)

    assert isinstance(parse_document(described(IMAGE_MANIFEST), raw(MANIFEST)), Manifest)
    assert isinstance(parse_document(described(DOCKER_LIST), raw(INDEX)), Index)
    assert parse_document(described("application/octet-stream"), b"anything") is None
    with pytest.raises(InvalidFileError, match="mediaType|neither"):
        parse_document(described(IMAGE_INDEX), raw(MANIFEST))


BAD_DESCRIPTORS = {
    "no object": [], "text": "x", "no media type": {k: v for k, v in LAYER.items() if k != "mediaType"}, "media type": {**LAYER, "mediaType": "x"},
    "media type with a newline": {**LAYER, "mediaType": "a/b\n"}, "media type is a list": {**LAYER, "mediaType": []},
    "no digest": {k: v for k, v in LAYER.items() if k != "digest"}, "digest": {**LAYER, "digest": "sha256:../../etc/passwd"},
    "negative size": {**LAYER, "size": -1}, "size as text": {**LAYER, "size": "3"}, "size as truth": {**LAYER, "size": True},
    "fractional size": {**LAYER, "size": 3.0}, "huge size": {**LAYER, "size": MAX_BLOB + 1}, "no size": {**LAYER, "size": None},
    "annotations": {**LAYER, "annotations": {"a": 1}}, "annotations are a list": {**LAYER, "annotations": ["a"]},
    "artifact type": {**LAYER, "artifactType": 1}, "platform": {**LAYER, "platform": "linux"},
}  # fmt: skip
BAD_DOCUMENTS = {
    "empty": b"", "no object": b"[]", "schema 1": raw({**MANIFEST, "schemaVersion": 1}), "schema as text": raw({**MANIFEST, "schemaVersion": "2"}),
    "no layers": raw({**MANIFEST, "layers": None}), "layers are a map": raw({**MANIFEST, "layers": {}}),
    "both forms at once (CVE-2021-41190)": raw({**MANIFEST, "manifests": []}), "neither form": raw({"schemaVersion": 2}),
    "config of an index": raw({**INDEX, "config": LAYER}), "media type": raw({**MANIFEST, "mediaType": "text/plain"}),
    "media type is a list": raw({**MANIFEST, "mediaType": []}), "media type is a map": raw({**MANIFEST, "mediaType": {}}),
    "media type is null": raw({**MANIFEST, "mediaType": None}), "artifact type": raw({**MANIFEST, "artifactType": ["x"]}),
    "annotations": raw({**MANIFEST, "annotations": {"a": None}}), "subject": raw({**MANIFEST, "subject": 5}),
    "duplicate key": raw(MANIFEST).replace(b'"layers"', b'"layers": [], "layers"'), "no config": raw({**MANIFEST, "config": None}),
    "too large": raw({**MANIFEST, "annotations": {"a": "x" * MAX_MANIFEST}}), "manifests are a map": raw({**INDEX, "manifests": {}}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DESCRIPTORS)
def test_bad_descriptors_are_refused(name):
    with pytest.raises((InvalidFileError, IntegrityError)) as caught:
        Descriptor.from_dict(BAD_DESCRIPTORS[name], "blobs/sha256/x")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_bad_documents_are_refused_by_name(name):
    for read in (Manifest.parse, Index.parse):
        with pytest.raises(InvalidFileError, match=r"^blobs/sha256/x: "):
            read(BAD_DOCUMENTS[name], "blobs/sha256/x")


ODD = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["", "x", [], {}, [1], {"a": 1}, f"sha256:{HEX}"])


@settings(max_examples=500)
@given(st.sampled_from([MANIFEST, INDEX]), st.data())
def test_any_value_anywhere_is_a_document_or_a_typed_error(document, data):
    value = json.loads(json.dumps(document))
    node, places = value, []
    while isinstance(node, (dict, list)) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
        places.append((node, key))
        node = node[key]
    target, key = data.draw(st.sampled_from(places))
    target[key] = data.draw(ODD)
    for read in (Manifest.parse, Index.parse):
        try:
            found = read(raw(value), "x")
        except AirgapError:
            continue
        assert all(isinstance(child.digest, Digest) for child in found.children)
