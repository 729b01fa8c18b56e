"""Turn an intent into a lock: every component's source pins its bytes; what did not move upstream stays byte-identical."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from airgap_images.layout import Layout
from airgap_images.remote.http import Client
from airgap_images.remote.registries import Registries
from bundler import sources
from bundler.sources import Context
from manifests.errors import InvalidFileError
from manifests.intent import Intent
from manifests.lock import Frozen, Lock, LockedComponent, first_error
from manifests.yamlfile import Document


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What resolving needs from outside; ``step`` is told each component's name before it is resolved.

    ``registries`` is what this host says of registries; ``environment`` says where its container engine listens.
    """

    folder: Path
    cache: Layout
    client: Client
    now: datetime
    warn: Callable[[str], None]
    step: Callable[[str], None]
    registries: Registries = field(default_factory=Registries)
    environment: Mapping[str, str] = field(default_factory=dict)


def resolve(intent: Intent, document: Document, previous: Lock | None, around: Surroundings) -> Lock:
    """Return the lock of ``intent``; raises InvalidFileError with the line of a component that is wrong."""
    checked = checked_options(intent, document)  # the whole file, before anything is asked of anyone
    days = intent.checks.quarantine_days
    before = around.now - timedelta(days=days) if days else None
    known = {component.name: component for component in previous.components} if previous else {}
    locked: list[LockedComponent] = []
    for component, options in zip(intent.components, checked, strict=True):
        around.step(component.name)
        old = known.get(component.name)
        context = Context(
            folder=around.folder,
            target=intent.target,
            previous=old if old and old.kind == component.kind else None,
            cache=around.cache,
            client=around.client,
            uploaded_before=before,
            warn=around.warn,
            registries=around.registries,
            environment=around.environment,
            beside=tuple(other for name, other in known.items() if name.startswith(f"{component.name}.")),
        )
        found = sources.load(component.kind).resolve(component.name, component.role, options, context)
        locked += (found, *sources.companions(found, options, context))
    return _checked(
        name=intent.name,
        stream=intent.stream,
        target=intent.target,
        checks=intent.checks.model_dump(exclude_defaults=True),
        deploy=intent.deploy,
        builder=intent.builder,
        profile=intent.profile,
        intentSha256=intent.sha256,
        components=tuple(sorted(locked, key=lambda component: component.name)),
    )


def _checked(**fields: Any) -> Lock:
    """Return the lock, or say which of its own rules the components break together."""
    try:
        return Lock(**fields)
    except ValidationError as error:
        hint = "leave one of them out, or name an image of this machine otherwise by `reference:`"
        raise InvalidFileError(first_error(error), hint=hint) from None


def checked_options(intent: Intent, document: Document) -> tuple[Frozen, ...]:
    """Return each component's options, validated by its source; raises InvalidFileError with the line."""
    found: list[Frozen] = []
    for at, component in enumerate(intent.components):
        try:
            source = sources.load(component.kind)
        except InvalidFileError as error:
            raise document.error(("components", at, "kind"), f"components.{at}: {error.message}", error.hint) from None
        found.append(document.validate(source.Options, component.options, ("components", at)))
    return tuple(found)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of ``bundle.yaml``, with the fields of every kind there is."""
    whole = Intent.model_json_schema()
    component = whole["$defs"].pop("Component")
    variants = []
    for kind in sources.kinds():
        options = sources.load(kind).Options.model_json_schema()
        whole["$defs"] |= options.pop("$defs", {})
        fields = {**component["properties"], **options["properties"], "kind": {"const": kind, "title": "Kind"}}
        required = [*component["required"], *options.get("required", [])]
        variants.append({"type": "object", "properties": fields, "required": required, "additionalProperties": False, "title": kind})
    whole["properties"]["components"]["items"] = {"oneOf": variants}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}
