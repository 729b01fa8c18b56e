"""OSCAL component definition: this tool as a component, and which controls of which frameworks its evidence supports.

Rule: an implemented requirement says what the evidence supports and what it does not show; the state is that of one assessment.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from audit.evidence import controls
from audit.evidence.assessment import Assessment
from audit.evidence.controls import Framework, Support
from audit.evidence.oscal import common
from audit.evidence.oscal.common import Names, markup, prop, title
from manifests import canonical


def component_definition(assessment: Assessment, sha256: str) -> bytes:
    """Return the component definition; ``sha256`` (hex) is that of ``verification.json``."""
    names = Names(sha256)
    name, version = assessment.tool
    supports = groupby(controls.supported(assessment), key=lambda support: support.framework.framework)
    component = {
        "uuid": names("tool"),
        "type": "software",
        "title": title(f"{name} {version}"),
        "description": "Verifies bundles for isolated networks by the policy of the site, checks what is in them, and writes evidence.",
        "props": [{"name": "version", "value": version}],
        "control-implementations": [_implementation(names, tuple(members)) for _, members in supports],
    }
    document = {
        "uuid": names("component-definition"),
        "metadata": common.metadata(assessment, names, "Component definition"),
        "components": [component],
        "back-matter": {"resources": [common.evidence(names)]},
    }
    return canonical.readable({"component-definition": document})


def _implementation(names: Names, supports: tuple[Support, ...]) -> dict[str, Any]:
    framework = supports[0].framework
    return {
        "uuid": names("implementation", framework.framework),
        "source": framework.source,
        "description": markup(f"{framework.title} ({framework.release}): what the evidence of this tool supports. {framework.note}"),
        "props": [prop("framework", framework.framework), prop("release", framework.release)],
        "implemented-requirements": [_requirement(names, framework, support) for support in supports],
    }


def _requirement(names: Names, framework: Framework, support: Support) -> dict[str, Any]:
    control = support.control
    said = f"Supports {control.id} {control.title} ({control.strength} evidence). {control.shows} {control.gap}"
    state = [prop("state-in-this-assessment", support.state), prop("strength", control.strength)]
    return {
        "uuid": names("requirement", framework.framework, control.token),
        "control-id": control.token,
        "description": markup(said),
        "props": [*state, *(prop("rests-on", reference) for reference in control.needs)],
        "remarks": markup(support.why),
    }
