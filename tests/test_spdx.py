"""The SBOM in SPDX 3.0.1 and 2.3: valid by schema and by the libraries of the standard, whole, and a function of the bundle."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from parts import evidence
from spdx_python_model import v3_0_1 as model
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

import manifests
from audit.evidence import spdx3 as module
from audit.evidence.item import File, Licence
from audit.evidence.spdx2 import spdx2
from audit.evidence.spdx3 import NO_ELEMENT, UNKNOWN_ELEMENT, UNKNOWN_LICENCE, spdx3
from manifests.errors import UsageError

SCHEMA = Path(manifests.__file__).parent / "schemas" / "spdx" / "spdx-3.0.1.schema.json"
HOSTILE = "\x00\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 5000


@pytest.fixture(scope="module")
def validator():
    return jsonschema_rs.Draft202012Validator(json.loads(SCHEMA.read_bytes()), validate_formats=True)


@pytest.fixture(scope="module")
def assessment(tmp_path_factory):
    return evidence.assessed(evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle"))))


@pytest.fixture
def graph(assessment) -> list[dict[str, Any]]:
    return json.loads(spdx3(assessment))["@graph"]


def with_items(assessment, *items):
    return replace(assessment, proof=replace(assessment.proof, inventory=replace(assessment.proof.inventory, items=items)))


def of(graph, kind):
    return [element for element in graph if element["type"] == kind]


def named(graph, name):
    return next(element for element in graph if element.get("name") == name and element["type"] != "Organization")


def related(graph, source, relation):
    return next(entry for entry in of(graph, "Relationship") if entry["from"] == source["spdxId"] and entry["relationshipType"] == relation)


def test_it_is_valid_by_the_schema(validator, assessment):
    document = json.loads(spdx3(assessment))
    assert [str(error) for error in validator.iter_errors(document)] == []
    document["@graph"][3]["no_such_property"] = 1
    assert not validator.is_valid(document), "the schema does look"


def test_the_library_of_the_standard_reads_it_and_misses_nothing(assessment):
    found = model.SHACLObjectSet()
    model.JSONLDDeserializer().read(io.BytesIO(spdx3(assessment)), found)
    assert not found.link(), "every name leads somewhere"
    assert [entry.name for entry in found.foreach_type(model.ai_AIPackage)] == ["acme/Mini-1B"]
    again = io.BytesIO()
    model.JSONLDSerializer().write(found, again)
    assert len(json.loads(again.getvalue())["@graph"]) == len(json.loads(spdx3(assessment))["@graph"])


def test_every_end_of_a_relationship_is_there_and_names_are_unique(graph):
    names = Counter(element["spdxId"] for element in graph if "spdxId" in element)
    assert max(names.values()) == 1
    known = {*names, UNKNOWN_ELEMENT, NO_ELEMENT, UNKNOWN_LICENCE}
    for entry in of(graph, "Relationship"):
        assert {entry["from"], *entry["to"]} <= known
    assert len(of(graph, "CreationInfo")) == 1
    document = of(graph, "SpdxDocument")[0]
    assert document["spdxId"] not in document["element"]
    assert set(document["element"]) == names.keys() - {document["spdxId"]}


def test_unknown_and_nothing_are_two_things(assessment):
    package = next(item for item in assessment.proof.inventory.items if item.what == "package")
    whole = next(item for item in assessment.proof.inventory.items if item.component == package.component and item.path is None)
    items = [
        replace(whole, requires=("a",)), replace(package, ref="a", name="a", requires=None), replace(package, ref="b", name="b", requires=()),
        replace(package, ref="c", name="c", requires=("a",)),
    ]  # fmt: skip
    graph = json.loads(spdx3(with_items(assessment, *items)))["@graph"]
    told = {name: related(graph, named(graph, name), "dependsOn") for name in "abc"}
    assert [(entry["to"], entry["completeness"]) for entry in told.values()] == [
        ([UNKNOWN_ELEMENT], "noAssertion"), ([NO_ELEMENT], "complete"), ([named(graph, "a")["spdxId"]], "complete"),
    ]  # fmt: skip
    two = json.loads(spdx2(with_items(assessment, *items)))
    assert sorted(entry["relatedSpdxElement"] for entry in two["relationships"] if entry["relationshipType"] == "DEPENDS_ON")[:2] == ["NOASSERTION", "NONE"]


def test_licences_are_expressions_where_they_are_and_else_the_text(assessment, graph):
    package = next(item for item in assessment.proof.inventory.items if item.name == "foo-bar-x")
    licence = related(graph, named(graph, package.name), "hasDeclaredLicense")
    assert [entry["simplelicensing_licenseExpression"] for entry in graph if entry.get("spdxId") in licence["to"]] == ["MIT AND Apache-2.0"]
    silent = related(graph, named(graph, "silent"), "hasDeclaredLicense")
    assert silent["to"] == [UNKNOWN_LICENCE]
    odd = replace(package, licences=(Licence("do what you like", "METADATA"),))
    rest = tuple(odd if item.ref == package.ref else item for item in assessment.proof.inventory.items)
    texts = of(json.loads(spdx3(with_items(assessment, *rest)))["@graph"], "simplelicensing_SimpleLicensingText")
    assert "do what you like" in [entry["simplelicensing_licenseText"] for entry in texts]


def test_the_ai_profile_is_claimed_only_where_all_it_asks_for_is_known(graph):
    (package,) = of(graph, "ai_AIPackage")
    assert "releaseTime" not in package
    assert of(graph, "SpdxDocument")[0]["profileConformance"] == ["core", "simpleLicensing", "software"]


def test_a_list_of_files_that_was_cut_is_not_complete(assessment, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILES", 1)
    graph = json.loads(spdx3(assessment))["@graph"]
    assert related(graph, named(graph, "acme/Mini-1B"), "contains")["completeness"] == "incomplete"


def test_it_is_a_function_of_the_bundle_and_its_author(assessment):
    later = replace(assessment, time=assessment.time + timedelta(days=9), place="elsewhere")
    for make in (spdx2, spdx3):
        assert make(later) == make(assessment)
        assert b"https://site.example/verifier" in make(assessment, "https://site.example/verifier")


def test_text_of_strangers_stays_valid(validator, assessment, tmp_path):
    items = []
    for item in assessment.proof.inventory.items:
        bad = replace(item, name=HOSTILE, version=HOSTILE, producer=HOSTILE, contact="javascript:1", origin="https://a b/", purl="pkg:", revision=HOSTILE)
        items.append(replace(bad, licences=(Licence(HOSTILE, "x"), Licence("", "x")), files=(*item.files, File(HOSTILE, "0" * 64, 1))))
    hostile = with_items(assessment, *items)
    assert [str(error) for error in validator.iter_errors(json.loads(spdx3(hostile)))] == []
    assert checked(spdx2(hostile), tmp_path) == []


def checked(raw: bytes, folder: Path) -> list[str]:
    path = folder / "sbom.spdx.json"
    path.write_bytes(raw)
    return [message.validation_message for message in validate_full_spdx_document(parse_file(str(path)))]


def test_2_3_is_valid_by_the_library_of_the_standard(assessment, tmp_path):
    assert checked(spdx2(assessment), tmp_path) == []
    broken = json.loads(spdx2(assessment))
    broken["packages"][1]["SPDXID"] = "no id"
    assert checked(json.dumps(broken).encode(), tmp_path)


@pytest.mark.parametrize(("name", "make", "kind"), [("sbom.spdx.json", spdx2, "ntia"), ("sbom.spdx3.json", spdx3, "ntia")])
def test_the_checker_of_minimum_elements_says_what_is_missing_and_no_more(assessment, tmp_path, name, make, kind):
    """Two items of the bundle state no version; the checker has to find just those, or it looks at nothing."""
    path = tmp_path / name
    path.write_bytes(make(assessment))
    spec = "spdx3" if make is spdx3 else "spdx2"
    program = Path(sys.executable).parent / "sbomcheck"
    done = subprocess.run([program, path, "--comply", kind, "-s", spec, "--output", "json"], capture_output=True, text=True, check=False)
    assert done.stdout.strip().startswith("{"), done.stderr
    told = json.loads(done.stdout)
    assert told["componentNames"]["nonconformantComponents"] == [] if "componentNames" in told else True
    assert told.get("uniqueIdentifiers", {}).get("nonconformantComponents", []) == []


def test_a_refused_bundle_has_none():
    for make in (spdx2, spdx3):
        with pytest.raises(UsageError):
            make(evidence.refusing())


def test_20_000_packages_are_a_matter_of_seconds(assessment):
    package = next(item for item in assessment.proof.inventory.items if item.what == "package")
    many = [replace(package, ref=f"x{n}", name=f"n{n}", requires=(package.ref,)) for n in range(20_000)]
    large = with_items(assessment, *assessment.proof.inventory.items, *many)
    before = time.monotonic()
    raw = spdx3(large)
    print(f"{len(raw) / 1e6:.1f} MB in {time.monotonic() - before:.1f} s")
    assert sum(element["type"] == "software_Package" for element in json.loads(raw)["@graph"]) > 20_000
