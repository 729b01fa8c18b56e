"""The case of the evidence, which runs in this process: how long everything an auditor gets takes for 20,000 packages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from cases import MIB, Measured, rounds
from cyclonedx.model.bom import Bom
from cyclonedx.output.json import JsonV1Dot6
from parts import evidence, grc

from audit.evidence.cyclonedx import cyclonedx
from audit.evidence.write import write


def evidence_of_many(folder: Path, _size: int, count: int) -> list[Measured]:
    """Every format of the evidence of 20,000 packages with a finding each, beside the library of one format that only writes its own."""
    bundle = evidence.verified(evidence.rich(folder / "bundle"))
    assessment = grc.many(bundle)
    parsed = Bom.from_json(data=json.loads(cyclonedx(assessment)))

    def ours() -> float:
        return _seconds(lambda: write(folder / "out", assessment))

    def theirs() -> float:
        return _seconds(lambda: JsonV1Dot6(parsed).output_as_string(indent=1))

    measured = Measured("evidence of 20,000 packages, all formats", *rounds(min(count, 1), ours, theirs), None, "beside CycloneDX' library, SBOM alone")
    files = list((folder / "out").iterdir())
    total = sum(path.stat().st_size for path in files)
    ours_alone = _seconds(lambda: cyclonedx(assessment))
    measured.notes.append(
        f"{len(files)} files, {total / MIB:.0f} MiB, among them the report of {(folder / 'out/report.html').stat().st_size / MIB:.1f} MiB. "
        f"Our SBOM alone: {ours_alone:.2f} s. Beside it: cyclonedx-python-lib from components that are there already; it does not write the model card."
    )
    return [measured]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
