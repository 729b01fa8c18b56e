"""The SBOM is valid CycloneDX 1.6, says more than the schema can check, and is a function of the bundle alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from packageurl import PackageURL
from parts import evidence
from parts.evidence import HOSTILE

import manifests
from audit.evidence import verification
from audit.evidence.cyclonedx import cyclonedx
from audit.evidence.item import File, Licence
from audit.verify.trust import Memory
from manifests.errors import UsageError

SCHEMAS = Path(manifests.__file__).parent / "schemas" / "cyclonedx"
HEX = {"SHA-256": 64}


@pytest.fixture(scope="module")
def validator():
    def local(address: str) -> Any:
        return json.loads((SCHEMAS / address.rsplit("/", 1)[-1]).read_bytes())  # a name that is not there fails: nothing is fetched

    schema = json.loads((SCHEMAS / "bom-1.6.SNAPSHOT.schema.json").read_bytes())
    return jsonschema_rs.Draft7Validator(schema, retriever=local, validate_formats=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def bom(bundle) -> dict[str, Any]:
    return json.loads(cyclonedx(evidence.assessed(bundle)))


def every(bom: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [bom["metadata"]["component"], *bom["components"]]
    while waiting:
        component = waiting.pop()
        yield component
        waiting += component.get("components", ())


def wrongs(bom: dict[str, Any]) -> list[str]:
    """Return what breaks the standard without breaking its schema."""
    found = []
    refs = [component["bom-ref"] for component in every(bom)]
    found += [f"bom-ref {ref} twice" for ref in refs if refs.count(ref) > 1]
    named = [name for entry in bom["dependencies"] for name in (entry["ref"], *entry["dependsOn"])]
    named += [name for entry in bom["compositions"] for key in ("assemblies", "dependencies") for name in entry.get(key, ())]
    found += [f"{name} is nowhere" for name in named if name not in refs]
    edges = [entry["ref"] for entry in bom["dependencies"]]
    found += [f"{ref} depends twice" for ref in edges if edges.count(ref) > 1]
    for component in every(bom):
        for value in component.get("hashes", ()):
            if len(value["content"]) != HEX.get(value["alg"]):
                found.append(f"{component['bom-ref']}: no {value['alg']}")
        if "purl" in component:
            PackageURL.from_string(component["purl"])
    if bom["specVersion"] != "1.6":
        found.append("another version")
    return found


def component(bom: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in bom["components"] if entry["name"] == name)


def facts(entry: dict[str, Any]) -> dict[str, str]:
    return {prop["name"].removeprefix("airgap:"): prop["value"] for prop in entry["properties"]}


def test_it_is_valid_and_keeps_the_rules_beyond_the_schema(bom, validator):
    assert [str(error)[:300] for error in validator.iter_errors(bom)] == []
    assert wrongs(bom) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda bom: bom["components"].append(bom["components"][0]),
        lambda bom: bom["dependencies"][0]["dependsOn"].append("ghost"),
        lambda bom: bom["compositions"][0]["assemblies"].append("ghost"),
        lambda bom: bom["components"][0]["hashes"][0].update(content="0" * 40),
        lambda bom: bom.update(specVersion="1.4"),
    ],
)
def test_the_rules_of_this_test_bite(bom, harm):
    harm(bom)
    assert wrongs(bom)


def test_hostile_texts_stay_texts_and_the_sbom_stays_valid(bundle, validator):
    assessment = evidence.assessed(bundle)
    items = tuple(
        replace(
            item,
            name=HOSTILE,
            version=HOSTILE,
            producer=HOSTILE,
            licences=(Licence(HOSTILE, HOSTILE), Licence("mit", HOSTILE)),
            facts=(("architectures", HOSTILE), (HOSTILE, HOSTILE)),
            files=(File(HOSTILE, "0" * 64, 1),),
        )
        for item in assessment.proof.inventory.items
    )
    proof = replace(assessment.proof, inventory=replace(assessment.proof.inventory, items=items, name=HOSTILE))
    bom = json.loads(cyclonedx(replace(assessment, proof=proof)))
    assert list(validator.iter_errors(bom)) == []
    assert wrongs(bom) == []
    assert component(bom, HOSTILE)["licenses"] == [
        {"license": {"acknowledgement": "declared", "name": HOSTILE}},
        {"license": {"acknowledgement": "declared", "id": "MIT"}},
    ]


def test_it_depends_on_the_bundle_and_on_nothing_else(bundle, tmp_path):
    first = cyclonedx(evidence.assessed(bundle))
    later = evidence.assessed(bundle, memory=Memory(1), drift=evidence.Drift("differs", 4))
    later = replace(later, time=bundle.verified_at + timedelta(days=9))
    elsewhere = evidence.verified(evidence.rich(tmp_path / "copy", "alice"), "alice")  # other signers, another policy, another folder
    assert cyclonedx(later) == first
    assert cyclonedx(evidence.assessed(elsewhere)) == first


def test_another_bundle_has_another_serial_number(bom, tmp_path):
    other = evidence.contents() | {"docs": {"a/b.txt": b"other\n"}}
    built = evidence.signed(evidence.build(tmp_path, evidence.lock(*evidence.locked()), other))
    assert json.loads(cyclonedx(evidence.assessed(evidence.verified(built))))["serialNumber"] != bom["serialNumber"]


def test_it_names_the_bundle_its_maker_and_its_time(bom, bundle):
    assert bom["metadata"]["component"] == {
        "bom-ref": "bundle",
        "type": "application",
        "name": "test",
        "version": "7",
        "hashes": [{"alg": "SHA-256", "content": bundle.digest.hex}],
        "properties": bom["metadata"]["component"]["properties"],
    }
    assert bom["metadata"]["timestamp"] == "2026-11-24T12:00:00Z"
    assert bom["metadata"]["tools"]["components"] == [{"type": "application", "name": "airgap-audit", "version": "1.2.3"}]
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bom["serialNumber"])


def test_licences_are_spdx_only_where_the_list_has_them(bom):
    found = {entry["name"]: entry["licenses"] for entry in bom["components"] if "licenses" in entry}
    declared = {"acknowledgement": "declared"}
    assert found == {
        "foo-bar-x": [{"expression": "MIT AND Apache-2.0", **declared}],
        "plain": [{"license": {"id": "BSD-3-Clause", **declared}}],
        "classy": [{"license": {"name": "MIT License", **declared}}],
        "evil": [{"license": {"name": HOSTILE, **declared}}],
        "acme/Mini-1B": [{"license": {"id": "Apache-2.0", **declared}}],
        "libz": [{"license": {"id": "Zlib", **declared}}],
        "left": [{"license": {"name": HOSTILE.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\N{REPLACEMENT CHARACTER}"), **declared}}],
    }
    assert facts(component(bom, "silent"))["licence"] == "unknown"
    assert facts(component(bom, "foo-bar-x"))["licence:0:source"] == "METADATA, License-Expression"
    assert "licence" not in facts(component(bom, "foo-bar-x"))


def test_a_model_has_a_card_and_its_files(bom):
    model = component(bom, "acme/Mini-1B")
    assert model["type"] == "machine-learning-model"
    assert model["modelCard"] == {"modelParameters": {"architectureFamily": "mini", "modelArchitecture": "MiniForCausalLM"}}
    assert [entry["name"] for entry in model["components"]] == ["README.md", "config.json", "model.safetensors"]
    assert {len(entry["hashes"][0]["content"]) for entry in model["components"]} == {64}
    assert model["manufacturer"] == {"name": "acme", "url": ["https://hub.example.org/acme"]}


def test_what_is_complete_and_what_is_not_is_said(bom):
    image = component(bom, "registry.example.org:5000/team/server")["bom-ref"]
    complete, incomplete, unknown = bom["compositions"]
    assert (complete["aggregate"], incomplete["aggregate"], unknown["aggregate"]) == ("complete", "incomplete", "unknown")
    assert incomplete["assemblies"] == incomplete["dependencies"] == [image]
    refs = {entry["bom-ref"] for entry in bom["components"]}
    assert image not in complete["assemblies"]
    assert "component:mini" in complete["assemblies"]
    assert "component:gateway" not in {*complete["dependencies"]} & {*unknown["dependencies"]}
    assert {*complete["dependencies"], *incomplete["dependencies"], *unknown["dependencies"]} == {"bundle", *refs}


def test_packages_hang_below_their_component(bom):
    edges = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    assert edges["bundle"] == [f"component:{name}" for name in ("airgap-lock", "docs", "driver", "gateway", "mini", "server")]
    assert len(edges["component:gateway"]) == 5
    assert [component(bom, name)["bom-ref"] in edges["component:server"] for name in ("libz", "tiny", "left")] == [True] * 3
    assert "hashes" not in component(bom, "libz")  # its layer's digest is not its own


def test_files_beyond_the_limit_are_counted_and_the_list_is_not_called_complete(bundle, monkeypatch):
    monkeypatch.setattr("audit.evidence.cyclonedx.MAX_FILES", 2)
    bom = json.loads(cyclonedx(evidence.assessed(bundle)))
    model = component(bom, "acme/Mini-1B")
    assert len(model["components"]) == 2
    assert facts(model)["files:notListed"] == "1"
    assert "component:mini" in bom["compositions"][1]["assemblies"]
    assert verification.MAX_FILES > 2


def test_no_secret_of_an_address_is_in_it(bom):
    assert "secret" not in json.dumps(bom)
    assert component(bom, "driver.run")["externalReferences"] == [{"type": "distribution", "url": "https://dl.example.org:8443/v1/"}]


def test_a_refused_bundle_has_no_sbom():
    with pytest.raises(UsageError, match="no SBOM"):
        cyclonedx(evidence.refusing())
