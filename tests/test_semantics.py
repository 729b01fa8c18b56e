"""The rules beyond the schema of CycloneDX find what breaks them, and what this program writes keeps them, in both versions."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from parts import evidence

import manifests
from audit.evidence import addresses
from audit.evidence.cyclonedx import cyclonedx
from audit.evidence.semantics import breaches, is_expression, is_purl

SCHEMAS = Path(manifests.__file__).parent / "schemas" / "cyclonedx"


@pytest.fixture(scope="module")
def assessment(tmp_path_factory):
    return evidence.assessed(evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle"))))


@pytest.fixture
def bom(assessment):
    return json.loads(cyclonedx(assessment))


@pytest.mark.parametrize("version", ["1.6", "1.7"])
def test_what_is_written_is_valid_by_schema_library_and_rules(assessment, version):
    def local(address: str) -> object:
        return json.loads((SCHEMAS / address.rsplit("/", 1)[-1]).read_bytes())

    raw = cyclonedx(assessment, version, "https://site.example/verifier")
    schema = json.loads((SCHEMAS / f"bom-{version}.SNAPSHOT.schema.json").read_bytes())
    validator = jsonschema_rs.Draft7Validator(schema, retriever=local, validate_formats=True)
    assert [str(error)[:200] for error in validator.iter_errors(json.loads(raw))] == []
    assert JsonStrictValidator(SchemaVersion.V1_6 if version == "1.6" else SchemaVersion.V1_7).validate_str(raw.decode()) is None
    assert breaches(json.loads(raw), version) == []


def test_the_library_of_the_standard_reads_every_component(assessment, bom):
    found = Bom.from_json(data=bom)
    assert {component.name for component in found.components} == {component["name"] for component in bom["components"]}
    assert found.serial_number.urn == bom["serialNumber"]


@pytest.mark.parametrize(
    ("rule", "harm"),
    [
        ("duplicate-ref", lambda bom: bom["components"].append(bom["components"][0])),
        ("duplicate-dependency", lambda bom: bom["dependencies"].append(bom["dependencies"][0])),
        ("dangling-ref", lambda bom: bom["dependencies"][0]["dependsOn"].append("ghost")),
        ("dangling-ref", lambda bom: bom["dependencies"].append({"ref": "ghost"})),
        ("dangling-ref", lambda bom: bom["compositions"][0]["assemblies"].append("ghost")),
        ("purl", lambda bom: bom["components"][0].update(purl="pkg:")),
        ("licence", lambda bom: bom["components"][0].update(licenses=[{"expression": "MIT AND"}])),
        ("licence", lambda bom: bom["components"][0].update(licenses=[{"expression": "MIT OR nonsense"}])),
        ("hash", lambda bom: bom["components"][0]["hashes"][0].update(content="0" * 40)),
        ("version", lambda bom: bom.update(specVersion="1.4")),
        ("version", lambda bom: bom.update({"$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json"})),
    ],
)
def test_each_rule_bites(bom, rule, harm):
    harm(bom)
    assert rule in {breach.rule for breach in breaches(bom, "1.6")}


def test_packages_in_a_circle_and_other_documents_are_allowed(bom):
    first, second = (entry["bom-ref"] for entry in bom["components"][:2])
    bom["dependencies"] = [{"ref": first, "dependsOn": [second]}, {"ref": second, "dependsOn": [first]}]
    bom["compositions"] = [{"aggregate": "unknown", "dependencies": [first, "urn:cdx:3e671687-395b-41f5-a30f-a58921a69b79/1"]}]
    assert breaches(bom) == []


@pytest.mark.parametrize("text", ["MIT", "MIT AND Apache-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "LicenseRef-scancode-llama", "(MIT OR ISC) AND BSD-3-Clause"])
def test_expressions(text):
    assert is_expression(text)


@pytest.mark.parametrize("text", ["", "  ", "NOASSERTION", "none", "MIT AND", "AND MIT", "MIT MIT", "nonsense", "(MIT", "MIT)", "MIT WITH nonsense", "(" * 3000])
def test_what_is_no_expression(text):
    assert not is_expression(text)


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_not(text):
    assert is_expression(text) in {True, False}
    assert is_purl(text) in {True, False}


@pytest.mark.parametrize(
    "text", ["https://example.org", "http://127.0.0.1:8080/a?b=c#d", "https://[::1]:443/x", "https://a.b-c.example/%20", "https://x/" + "a" * 100]
)
def test_addresses_of_the_web(text):
    assert addresses.url(text) == text


@pytest.mark.parametrize(
    "text", [None, "", "javascript:alert(1)", "https://user:pw@x/", "https://x/ y", "https://x:99999/", "ftp://x", "https://[::zz]/", "https://", "https://x/" + "a" * 3000, "https://x/\u202e"]
)
def test_what_is_no_address_of_the_web(text):
    assert addresses.url(text) is None
    assert addresses.host(text) is None


@pytest.mark.parametrize(("text", "fine"), [("a@example.org", True), ("a.b+c@x-y.example.com", True), ("a@b", False), ("a b@x.org", False), ("a@x.org>", False), ("a" * 65 + "@x.org", False)])
def test_addresses_of_mail(text, fine):
    assert (addresses.mail(text) == text) is fine


def test_the_host_of_an_address():
    assert addresses.host("https://x.example:8/a?b#c") == "https://x.example:8"
