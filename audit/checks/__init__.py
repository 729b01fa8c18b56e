"""Checks: what can be said about the content of a bundle beyond "these are the signed bytes".

A check is one module in this folder, found by being here (a name that starts with ``_`` is no check). It has

- ``ID``, ``TITLE``: its name in results and in the gate, and what it looks for;
- ``GATE``: the key of ``checks`` in the intent that can turn a refusal into a warning, or None;
- ``LIMITS``: sentences on what it cannot see, printed in every report;
- ``BY_POLICY`` (optional): True if its result depends on the policy, so that no bundle may hold it;
- ``run(subject) -> Iterator[Note]``.

Rules: a check names every file it looked at, so that "nothing found in 0 files" is never read as a pass; what it cannot
read is *not assessed*, with the reason; it reads as few bytes as it needs and runs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, cast

from airgap_images.bundle import MODEL, Component, TreeFile, tree_files
from airgap_images.layout import Layout
from audit.evidence.item import Item
from audit.verify.verdict import Verdict
from audit.vulnerabilities.result import NONE, Vulnerabilities
from manifests import canonical
from manifests.errors import AirgapError
from manifests.lock import LockedComponent
from manifests.paths import printable
from manifests.policy import Policy, Waiver

Severity = Literal["info", "low", "medium", "high", "critical"]
FORMAT = "airgap.checks/v1"
SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")
REFUSED_FROM = SEVERITIES.index("high")
MODEL_KINDS = frozenset({"huggingface", "model"})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a check found; ``id`` is the check's, ``doc`` the anchor that explains it.

    A finding that is not ``waivable`` is refused whatever a gate or a waiver says. ``about`` is what was found in one word (an advisory, a
    key, a licence), by which a waiver can mean this one alone.
    """

    id: str
    severity: Severity
    component: str
    path: str
    message: str
    remedy: str
    doc: str
    waivable: bool = True
    about: str = ""


@dataclass(frozen=True, slots=True)
class NotAssessed:
    """Something a check should have read and could not."""

    id: str
    component: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Examined:
    """One file a check has read to its verdict."""

    component: str
    path: str


Note = Finding | NotAssessed | Examined


@dataclass(frozen=True, slots=True)
class Subject:
    """What checks look at: at build the new components, on the isolated side those of a verified bundle.

    ``policy`` says whom to believe about images, None if none was given; ``upstream`` is what was judged by it already. ``items`` is the
    inventory, ``vulnerabilities`` its comparison with data, ``locked`` what the signed lock says of each component; ``now`` is the
    time of the assessment, ``building`` is True on the connected side, ``platform`` the one the bundle is for.
    """

    layout: Layout
    components: tuple[Component, ...]
    policy: Policy | None = None
    upstream: tuple[Verdict, ...] | None = None
    items: tuple[Item, ...] = ()
    vulnerabilities: Vulnerabilities = NONE
    locked: Mapping[str, LockedComponent] = field(default_factory=dict)
    now: datetime | None = None
    building: bool = False
    platform: str | None = None

    def trees(self) -> Iterator[tuple[Component, tuple[TreeFile, ...]]]:
        """Yield every tree with its files; images are upstream's and are not opened."""
        for component in self.components:
            if component.form == "tree":
                yield component, tuple(tree_files(self.layout, component.root))


class Check(Protocol):
    """The shape of a check module."""

    ID: str
    TITLE: str
    GATE: str | None
    LIMITS: tuple[str, ...]

    def run(self, subject: Subject) -> Iterator[Note]:
        """Yield what was examined, found and not assessed."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check said of one subject."""

    id: str
    title: str
    gate: str | None
    limits: tuple[str, ...]
    examined: int
    findings: tuple[Finding, ...]
    not_assessed: tuple[NotAssessed, ...]
    by_policy: bool = False

    @property
    def outcome(self) -> Literal["findings", "not assessed", "nothing found", "nothing to examine"]:
        """Say in one word how it ended; "not assessed" outweighs "nothing found"."""
        if self.findings:
            return "findings"
        if self.not_assessed:
            return "not assessed"
        return "nothing found" if self.examined else "nothing to examine"


@dataclass(frozen=True, slots=True)
class Gate:
    """The decision over all results: what is refused, what is let through with a warning, what is unknown."""

    refused: tuple[Finding, ...]
    warned: tuple[Finding, ...]
    not_assessed: tuple[NotAssessed, ...]
    waived: tuple[tuple[Finding, Waiver], ...] = ()

    @property
    def exit_code(self) -> Literal[0, 4, 5]:
        """Return 4 for refused findings, else 5 if anything was not assessed, else 0."""
        if self.refused:
            return 4
        return 5 if self.not_assessed else 0


def names() -> tuple[str, ...]:
    """Return the module name of every check, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def load(name: str) -> Check:
    """Return the check module ``name``."""
    return cast("Check", importlib.import_module(f"{__name__}.{name}"))


def run_all(subject: Subject, checks: Iterable[Check] | None = None) -> tuple[CheckResult, ...]:
    """Run every check there is (or ``checks``) over ``subject``, in the order of their names."""
    return tuple(run_one(check, subject) for check in (map(load, names()) if checks is None else checks))


def run_one(check: Check, subject: Subject) -> CheckResult:
    """Run one check; a refusal while reading the subject ends it as not assessed, with that reason."""
    examined = 0
    findings: list[Finding] = []
    unknown: list[NotAssessed] = []
    try:
        for note in check.run(subject):
            match note:
                case Finding():
                    findings.append(note)
                case NotAssessed():
                    unknown.append(note)
                case Examined():
                    examined += 1
    except AirgapError as error:
        unknown.append(NotAssessed(check.ID, "", "", f"the check stopped: {error.message}"))
    by_policy = bool(getattr(check, "BY_POLICY", False))
    return CheckResult(check.ID, check.TITLE, check.GATE, check.LIMITS, examined, _ordered(findings), tuple(unknown), by_policy)


def gate(
    results: Iterable[CheckResult], checks: Mapping[str, str | int], waivers: Iterable[Waiver] = (), now: datetime | None = None
) -> Gate:
    """Decide over ``results`` by the ``checks`` of the intent (``{"pickle": "warn", ...}``).

    A finding of severity high or critical is refused unless the key its check names is set to ``warn`` and the finding is
    waivable; any other value than ``warn`` refuses. A finding of any severity that one of ``waivers`` means, and that is in force at
    ``now``, is neither refused nor warned of but waived. What was not assessed stays so, whatever the intent says.
    """
    valid = [waiver for waiver in waivers if now is not None and now < canonical.moment(waiver.expires)]
    waived: list[tuple[Finding, Waiver]] = []
    refused: list[Finding] = []
    warned: list[Finding] = []
    unknown: list[NotAssessed] = []
    for result in results:
        lenient = result.gate is not None and checks.get(result.gate) == "warn"
        for finding in result.findings:
            grave = SEVERITIES.index(finding.severity) >= REFUSED_FROM
            waiver = next((waiver for waiver in valid if _means(waiver, finding)), None)
            if waiver:
                waived.append((finding, waiver))
            else:
                (refused if grave and not (lenient and finding.waivable) else warned).append(finding)
        unknown += result.not_assessed
    return Gate(tuple(refused), tuple(warned), tuple(unknown), tuple(waived))


def _means(waiver: Waiver, finding: Finding) -> bool:
    """Say whether a waiver is about a finding."""
    there = waiver.subject in {finding.component, where(finding)}
    return finding.waivable and there and waiver.check == finding.id and waiver.about in {None, finding.about}


def as_json(results: Iterable[CheckResult], decided: Gate) -> dict[str, Any]:
    """Return what ``run_all`` and ``gate`` found as plain JSON values; the same findings always give the same value."""
    return {
        "format": FORMAT,
        "gate": {"exitCode": decided.exit_code, "refused": _findings(decided.refused), "warned": _findings(decided.warned),
            "waived": [
                asdict(finding) | {"waiver": waiver.model_dump(mode="json", exclude_none=True)} for finding, waiver in decided.waived
            ]},
        "checks": [
            {
                "id": result.id,
                "title": result.title,
                "gate": result.gate,
                "outcome": result.outcome,
                "examined": result.examined,
                "limits": list(result.limits),
                "findings": _findings(result.findings),
                "notAssessed": _unknown(result.not_assessed),
            }
            for result in sorted(results, key=lambda result: result.id)
        ],
    }


def where(note: Finding | NotAssessed) -> str:
    """Return what a note is about, for people: component and path, or the component where it is about the whole."""
    return "/".join(filter(None, (note.component, printable(note.path))))


def told(note: Finding | NotAssessed) -> str:
    """Return a note in one line for people: what it is about, and what it says."""
    return ": ".join(filter(None, (where(note), note.message if isinstance(note, Finding) else note.reason)))


def is_model(component: Component, files: Iterable[TreeFile]) -> bool:
    """Say whether a tree is a model: by its manifest, its kind, or because weights lie in it."""
    declared = component.root.artifact_type == MODEL or component.kind in MODEL_KINDS
    return declared or any(file.path.lower().endswith((".safetensors", ".gguf")) for file in files)


def _ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.component, f.path, f.message)))


def _findings(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in _ordered(list(findings))]


def _unknown(unknown: Iterable[NotAssessed]) -> list[dict[str, str]]:
    return [asdict(note) for note in sorted(unknown, key=lambda note: (note.component, note.path, note.reason))]
