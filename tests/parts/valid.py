"""Is a folder of evidence valid? Every file in it, by the schema of its format and by a library that is not ours.

    PYTHONPATH=tests python -m parts.valid FOLDER

Validators: the vendored official schemas with jsonschema-rs; cyclonedx-python-lib; spdx-python-model and spdx-tools; compliance-trestle;
Heimdall's own library and Microsoft's SARIF Multitool, which come from npm and need `node`. Of OpenVEX the format's rules as a schema of ours, and
CycloneDX' own for the other VEX document.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from parts import grc, heimdall
from spdx_python_model import v3_0_1
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from trestle.core.validator_factory import validator_factory
from trestle.oscal.assessment_results import AssessmentResults
from trestle.oscal.component import ComponentDefinition
from trestle.oscal.poam import PlanOfActionAndMilestones

import manifests
from audit.evidence.semantics import breaches

SCHEMAS = Path(manifests.__file__).parent / "schemas"
OSCAL = {"assessment-results": AssessmentResults, "component-definition": ComponentDefinition, "poam": PlanOfActionAndMilestones}
PREDICATES = ("https://in-toto.io/attestation/", "https://slsa.dev/")


def complaints(folder: Path) -> list[str]:
    """Return everything that is wrong with the files of a folder; a file of unknown name is wrong, too."""
    return list(_sums(folder)) + [f"{path.name}: {wrong}" for path in sorted(folder.iterdir()) for wrong in _asked(path)]


def _asked(path: Path) -> Iterator[str]:
    try:
        yield from _validator(path.name)(path)
    except (Exception, AssertionError) as error:  # noqa: BLE001 - a library that breaks over a file complains, too
        yield str(error).splitlines()[0]


def _sums(folder: Path) -> Iterator[str]:
    listed = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "SHA256SUMS"}
    yield from (f"{name}: not as SHA256SUMS says" for name in sorted(listed.keys() | there.keys()) if listed.get(name) != there.get(name))


def _validator(name: str) -> Callable[[Path], Iterator[str]]:
    return next((check for ending, check in CHECKS.items() if name.endswith(ending)), lambda _path: iter(["nobody knows this format"]))


@functools.cache
def _schema(path: str) -> Any:
    def local(address: str) -> Any:
        return json.loads((SCHEMAS / path).with_name(address.rsplit("/", 1)[-1]).read_bytes())

    return jsonschema_rs.validator_for(json.loads((SCHEMAS / path).read_bytes()), retriever=local, validate_formats=True)


def _by_schema(path: str, document: Any) -> Iterator[str]:
    yield from (f"{list(error.instance_path)}: {error.message[:200]}" for error in _schema(path).iter_errors(document))


def _cyclonedx(path: Path) -> Iterator[str]:
    raw = path.read_bytes()
    document = json.loads(raw)
    version = document["specVersion"]
    yield from _by_schema(f"cyclonedx/bom-{version}.SNAPSHOT.schema.json", document)
    told = JsonStrictValidator(SchemaVersion.from_version(version)).validate_str(raw.decode())
    yield from [str(told)] if told else []
    yield from (str(breach) for breach in breaches(document, version))


def _spdx3(path: Path) -> Iterator[str]:
    raw = path.read_bytes()
    yield from _by_schema("spdx/spdx-3.0.1.schema.json", json.loads(raw))
    found = v3_0_1.SHACLObjectSet()
    v3_0_1.JSONLDDeserializer().read(io.BytesIO(raw), found)
    yield from (f"{name} leads nowhere" for name in sorted(map(str, found.link()))[:5])


def _spdx2(path: Path) -> Iterator[str]:
    copy = path.parent.parent / f"{path.parent.name}.spdx.json"  # the library goes by the name's end
    copy.write_bytes(path.read_bytes())
    yield from (message.validation_message for message in validate_full_spdx_document(parse_file(str(copy))))
    copy.unlink()


def _oscal(path: Path) -> Iterator[str]:
    kind = path.name.removeprefix("oscal-").removesuffix(".json")
    document = json.loads(path.read_bytes())
    yield from grc.errors(kind, document)
    (value,) = document.values()
    model = OSCAL[kind].model_validate(value)
    for check in validator_factory.get_all():
        if not check.model_is_valid(model, True, path.parent):
            yield f"trestle: {check.error_msg()}"


def _hdf(path: Path) -> Iterator[str]:
    yield from grc.errors("hdf", json.loads(path.read_bytes()))
    if not heimdall.statuses(path.read_bytes()):
        yield "Heimdall reads no control in it"


def _sarif(path: Path) -> Iterator[str]:
    yield from grc.errors("sarif", json.loads(path.read_bytes()))
    yield from (f"Multitool: {rule}" for level, rule in sorted(heimdall.complaints(path)) if level == "error")


def _csv(path: Path) -> Iterator[str]:
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True))
    sha256 = hashlib.sha256(path.with_name("verification.json").read_bytes()).hexdigest()
    if {len(row) for row in rows} != {len(rows[0])}:
        yield "rows of different lengths"
    if {row[0] for row in rows[1:]} - {sha256}:
        yield "a row names another verification.json"


def _canonical(path: Path) -> Iterator[str]:
    value = json.loads(path.read_bytes())
    if path.read_bytes() != (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode():
        yield "not in its one encoding"


def _signed(path: Path) -> Iterator[str]:
    bundle = json.loads(path.read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    if statement["_type"] != "https://in-toto.io/Statement/v1" or not statement["predicateType"].startswith(PREDICATES):
        yield "no in-toto statement of a known kind"


def _fine(_path: Path) -> Iterator[str]:
    yield from ()


CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "sbom.cdx.json": _cyclonedx, "vex.cdx.json": _cyclonedx, "sbom.spdx3.json": _spdx3, "sbom.spdx23.json": _spdx2, "results.hdf.json": _hdf,
    "results.sarif.json": _sarif, "sigstore.json": _signed, ".csv": _csv, "verification.json": _canonical, "sbom-quality.json": _canonical,
    "vex.openvex.json": _canonical, "report.html": _fine, "approval.html": _fine, "report.pdf": _fine, "SHA256SUMS": _fine,
} | {f"oscal-{kind}.json": _oscal for kind in OSCAL}  # fmt: skip


if __name__ == "__main__":
    wrong = complaints(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) or "every file is valid")
    sys.exit(bool(wrong))
