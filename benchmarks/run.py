"""The figures of the product beside what a user would pick instead, as ratios of medians taken in one run.

    make bench                      # prints the table and writes docs/benchmarks.md
    python benchmarks/run.py --size 512 --rounds 3 --only verify,pull

Every row runs both sides in turn, round by round, so that noise hits both. Memory is the peak resident set of the
process tree's largest member, disk what `st_blocks` says. Nothing here is a test: a slow machine gives other numbers.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import cases
import evidence_case

ROOT = Path(__file__).resolve().parents[1]
HOW = (
    "Both sides of a row run in turn in one run; a figure is the median of {rounds} rounds; payloads are {size} MiB. "
    "The last columns compare with the figure that the design asks for."
)
OUT = ROOT / "docs" / "benchmarks.md"
EVERY = cases.ALL | {"evidence": evidence_case.evidence_of_many}


@dataclass
class Row:
    """One line of the table: what was done, beside what, the figures and what the architecture asks."""

    case: str
    ours: str
    theirs: str
    ratio: str
    target: str
    met: bool | None
    notes: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        verdict = {True: "yes", False: "**no**", None: "-"}[self.met]
        return (self.case, self.ours, self.theirs, self.ratio, self.target, verdict)


def main() -> None:
    options = _options()
    work = Path(tempfile.mkdtemp(prefix="airgap-bench-", dir=options.dir))
    chosen = {name: case for name, case in EVERY.items() if not options.only or name in options.only.split(",")}
    rows: list[Row] = []
    try:
        for name, case in chosen.items():
            print(f"== {name}", file=sys.stderr, flush=True)
            folder = work / name
            folder.mkdir()
            rows += [_row(measured) for measured in case(folder, options.size, options.rounds)]
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = _document(rows, options)
    print(text)
    if not options.only:
        OUT.write_text(text)


def _row(measured: cases.Measured) -> Row:
    ours, theirs = (statistics.median(values) for values in (measured.ours, measured.theirs))
    ratio = measured.ratio(ours, theirs)
    met = None if measured.target is None else measured.holds(ratio)
    shown = f"{ratio:.2f}"
    return Row(measured.case, measured.show(ours), measured.show(theirs), shown, measured.target_text, met, measured.notes)


def _document(rows: list[Row], options: argparse.Namespace) -> str:
    head = ("work", "ours", "beside it", "ratio", "asked", "met")
    lines = [
        "# Benchmarks",
        "",
        f"`make bench` measures this table and writes this file. {HOW.format(rounds=options.rounds, size=options.size)}",
        "",
        f"Machine: {_machine()}. Date: {datetime.now(UTC).date().isoformat()}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
        "",
    ]
    notes = [f"- {row.case}: {note}" for row in rows for note in row.notes]
    return "\n".join([*lines, "## How, and what to know", "", *notes, ""])


def _machine() -> str:
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "cpu")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} cores ({cpu}), {memory} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="MiB of payload")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"comma-separated, of: {', '.join(EVERY)}")
    parser.add_argument("--dir", default="/var/tmp", help="where to work; needs about five times the payload")
    return parser.parse_args()


if __name__ == "__main__":
    main()
