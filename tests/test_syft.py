"""The same packages as syft on the same images; every difference is one that `docs/image-packages.md` explains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from parts import roots, syft
from parts.images import Image, busybox

from airgap_images.contents import packages

pytestmark = [pytest.mark.parts, pytest.mark.network]

PAGE = Path(__file__).parents[1] / "docs" / "image-packages.md"
# image → (only ours, only syft's): each of them stands in the page
IMAGES: dict[Callable[[], Image], tuple[set[str], set[str]]] = {
    busybox: (set(), {"pkg:generic/busybox@1.35.0"}),  # guessed by syft from strings in the program
    roots.debian: (set(), set()),
    roots.alpine: (set(), set()),
    roots.rpms: (set(), set()),
    roots.mixed: (set(), set()),
    roots.syft: (set(), set()),
}


@pytest.mark.parametrize("make", IMAGES, ids=lambda make: make.__name__)
def test_the_same_packages_as_syft(make):
    image = make()
    layout, manifest = roots.opened(image)
    ours = {syft.same(package.purl) for package in packages.read(layout, manifest).packages if package.purl}
    theirs = set(syft.purls(image))
    assert (ours - theirs, theirs - ours) == IMAGES[make]
    assert len(ours) >= 2


def test_every_difference_is_explained():
    page = PAGE.read_text()
    for more, fewer in IMAGES.values():
        for purl in more | fewer:
            assert f"`{purl}`" in page
    assert syft.VERSION in page
