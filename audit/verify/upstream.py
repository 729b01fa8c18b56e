"""Judge what upstream says of everything a bundle carries (step 7): one verdict for each image, model and wheel."""

from __future__ import annotations

from collections.abc import Iterable

from airgap_images.bundle import Component
from airgap_images.layout import Layout
from audit.verify import images, keyless, models, wheels
from audit.verify.verdict import Judge, Verdict
from manifests.policy import Policy

SORTS = (images.assess, models.assess, wheels.assess)


def assess(layout: Layout, components: Iterable[Component], policy: Policy, judge: Judge = keyless.judge) -> tuple[Verdict, ...]:
    """Return the verdict over each thing among ``components`` that someone upstream may have signed, sort by sort."""
    listed = tuple(components)
    return tuple(verdict for assess_sort in SORTS for verdict in assess_sort(layout, listed, policy, judge))
