"""No package is so new that nobody could have noticed what is wrong with it: malicious releases are mostly found within days.

The time of upload is what the index said when the bundle was locked, and is signed with the lock. Judged while a bundle is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from audit.checks import Examined, Finding, Note, Subject
from manifests import canonical
from manifests.lock import LockedComponent

ID = "fresh-releases"
TITLE = "No release is younger than a week"
GATE: str | None = "wheels"
BY_POLICY = True  # the answer depends on the day
LIMITS = ("Judged while a bundle is built, of files whose index states when they were uploaded; of others nothing is known.",)
DOC = "docs/checks.md#fresh-releases"
REMEDY = "wait a few days, or lock an earlier state of the index: `uploaded_before` in bundle.yaml"
UPLOADED = "upload_time"  # of a pin's evidence
YOUNG = timedelta(days=7)


def run(subject: Subject) -> Iterator[Note]:
    """Compare the time of upload of every locked file with the time of the build."""
    if not subject.building or subject.now is None:
        return
    for component in subject.locked.values():
        for path, when in _uploads(component):
            yield Examined(component.name, path)
            if subject.now - when < YOUNG:
                name = path.rsplit("/", 1)[-1]
                message = f"{name} was uploaded {canonical.stamp(when)}, {(subject.now - when).days} days before this build"
                yield Finding(ID, "low", component.name, path, message, REMEDY, DOC, about=name)


def _uploads(component: LockedComponent) -> Iterator[tuple[str, datetime]]:
    for pin in component.files:
        text = pin.evidence.get(UPLOADED)
        try:
            if text:
                yield pin.path, canonical.moment(text)
        except ValueError:
            continue
