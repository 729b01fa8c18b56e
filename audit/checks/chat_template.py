"""No chat template reaches out of its sandbox, hides something, or differs from its copies; each is named by its digest.

Templates are parsed and never rendered. The digest of each is a finding for information: whoever has read it approves it by a waiver that
names the digest, and a template that changes is no longer meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from airgap_images.bundle import Component
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject, is_model
from audit.checks._templates import Template, Unread, signs, templates
from manifests.paths import printable

ID = "chat-template"
TITLE = "No chat template reaches out of its sandbox or hides something"
GATE: str | None = "chat_template"
LIMITS = (
    "What a template tells the model is not judged: a condition on a plain word can poison answers. Read it once, and approve its digest.",
    "Templates that a server brings itself, or is given on its command line, are not seen.",
)
DOC = "docs/checks.md#chat-template"
REMEDIES: dict[Severity, str] = {
    "high": "do not serve it; take the template of a revision that people have read, or give the server one of your own",
    "medium": "read it; where copies differ name one to the server, and approve what you accept with `policy waive`",
    "info": "read it once, then approve this digest: `airgap-bundle policy waive`, with --about",
}


def run(subject: Subject) -> Iterator[Note]:
    """Examine every chat template of every model."""
    for component, files in subject.trees():
        if not is_model(component, files):
            continue
        found: list[Template] = []
        for entry in templates(subject.layout, files):
            if isinstance(entry, Unread):
                yield NotAssessed(ID, component.name, entry.path, printable(entry.reason, 300))
                continue
            found.append(entry)
            yield from _template(component, entry)
        yield from (Examined(component.name, path) for path in dict.fromkeys(entry.path for entry in found))
        yield from _copies(component, found)


def _template(component: Component, template: Template) -> Iterator[Note]:
    name = printable(template.name, 40)
    for sign in signs(template):
        yield _finding(component, template.path, sign.grade, f"chat template {name!r} {sign.message}", sign.word)
    said = f"chat template {name!r}: {len(template.text)} characters, sha256 {template.sha256}"
    yield _finding(component, template.path, "info", said, template.sha256)


def _copies(component: Component, found: Iterable[Template]) -> Iterator[Note]:
    """Find templates of one name that differ: which of them is used depends on the server."""
    by_name: dict[str, list[Template]] = {}
    for template in found:
        by_name.setdefault(template.name, []).append(template)
    for name, copies in by_name.items():
        if len({template.sha256 for template in copies}) > 1:
            places = ", ".join(f"{printable(template.path, 80)} ({template.sha256[:12]})" for template in copies)
            message = f"chat template {printable(name, 40)!r} differs between {places}: which one is used is up to the server"
            yield _finding(component, copies[0].path, "medium", message, "copies")


def _finding(component: Component, path: str, severity: Severity, message: str, about: str) -> Finding:
    return Finding(ID, severity, component.name, path, printable(message, 600), REMEDIES[severity], DOC, about=about)
