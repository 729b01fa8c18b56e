"""How the bundle was built: SLSA Provenance v1 as an in-toto Statement, a component of the bundle itself.

Rules: the subjects are the roots of what was built, since ``index.json`` holds this statement and cannot be named in it; every pin of
the lock is a resolved dependency; there is no clock in it, so that one lock stays one bundle; ``builder.id`` is what the lock states,
a claim of whoever signs the bundle. Source: slsa.dev/spec/v1.1/provenance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from airgap_images.bundle import Component
from airgap_images.oci import Digest
from manifests import statement
from manifests.lock import Lock, LockedComponent

COMPONENT = "airgap-provenance"
FILE = "provenance.json"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://airgap-bundler.dev/build/v1"
NOBODY = "https://airgap-bundler.dev/builder/unnamed"  # the builder's id where bundle.yaml names none


def provenance(lock: Lock, made: Iterable[Component], version: str) -> bytes:
    """Return the statement over the components ``made`` from ``lock`` by this ``version`` of the tool."""
    subjects = {component.name: {"sha256": component.root.digest.hex} for component in made}
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "name": lock.name,
            "stream": lock.stream,
            "target": lock.target.model_dump(mode="json", exclude_none=True),
            "lock": {"name": "bundle.lock.json", "digest": {"sha256": Digest.of(lock.to_bytes()).hex}},
            "intent": {"name": "bundle.yaml", "digest": {"sha256": lock.intentSha256}},
        },
        "resolvedDependencies": [entry for component in lock.components for entry in _dependencies(component)],
    }
    run = {"builder": {"id": lock.builder or NOBODY, "version": {"airgap-bundler": version}}}
    return statement.encode(subjects, PREDICATE, {"buildDefinition": definition, "runDetails": run})


def _dependencies(component: LockedComponent) -> Iterator[dict[str, Any]]:
    """Yield a ResourceDescriptor for each pin; ``downloadLocation`` is where it is fetched, absent for a file of the builder's own."""
    for pin in component.files:
        entry: dict[str, Any] = {"name": f"{component.name}/{pin.path}", "uri": pin.url, "digest": {"sha256": pin.sha256}}
        if not pin.url.startswith("file:"):
            entry["downloadLocation"] = pin.url
        if pin.media_type:
            entry["mediaType"] = pin.media_type
        yield entry
