"""Kind ``image``: a container image from a registry or from this machine, without an engine's help, every byte as it is.

Of an image for several platforms one is taken and its own manifest pinned, or some under an index made here, or all of it
as upstream has it: nothing the bundle names is missing from it. What is carried is `_carry`'s, images on this machine `_local`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from airgap_images.oci import INDEXES, MANIFESTS, Descriptor
from airgap_images.platform import Platform
from airgap_images.reference import Reference
from airgap_images.remote.http import Client, Credentials
from airgap_images.remote.registries import Registries
from airgap_images.remote.registry import RegistryCredentials, blob, blob_url, manifest, manifest_url
from bundler.sources import Context
from bundler.sources._carry import Carried, Desk, carry
from bundler.sources._local import TRANSPORTS, Local, find, folder
from bundler.upstream.component import SIGNATURES, checked_name, collect
from bundler.upstream.origin import Origin, Registry
from bundler.upstream.transparency import PUBLIC_LOG
from manifests.errors import IntegrityError
from manifests.lock import Frozen, LockedComponent, as_field_error
from manifests.paths import printable

NOT_ASKED = "not asked for"
ALL = "all"
PLATFORM = r"^[a-z0-9]+/[a-z0-9_]+(/v[0-9]+)?$"

PlatformText = Annotated[str, StringConstraints(pattern=PLATFORM)]
PlatformList = Annotated[tuple[PlatformText, ...], Field(strict=False, min_length=1)]
Platforms = Annotated[
    Annotated[PlatformList, Tag("list")] | Annotated[Literal["all"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "list"),  # so that an error is about what was meant
]


class Options(Frozen):
    """Which image, and for which machines."""

    ref: str = Field(
        min_length=1,
        max_length=4096,
        description="registry/repository:tag or registry/repository@sha256:...; or on this machine docker-daemon:NAME[:TAG], "
        "oci:PATH[:NAME], oci-archive:PATH[:NAME], docker-archive:PATH[:NAME:TAG]",
    )
    platform: str | None = Field(default=None, pattern=PLATFORM, description="os/architecture[/variant]; the target's when absent")
    platforms: Platforms | None = Field(
        default=None,
        description="several of them, each as in `platform`, or `all`: the upstream index with everything in it, its digest unchanged",
    )
    reference: str | None = Field(
        default=None, max_length=512, description="registry/repository:tag, what an image from this machine is called on the other side"
    )
    upstream: Literal["collect", "skip"] = Field(
        default="collect", description="signatures, attestations and SBOMs upstream has beside the image: carry them, or do not ask"
    )
    rekor: str = Field(
        default=PUBLIC_LOG,
        max_length=512,
        pattern=r"^https?://[^\s?#@]+$",
        description="transparency log asked for proofs that older keyless signatures lack",
    )

    @field_validator("reference")
    @classmethod
    def _reference(cls, value: str | None) -> str | None:
        with as_field_error():
            return None if value is None else Reference.parse(value).local

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.platforms is not None and self.platform is not None:
            raise ValueError("`platform` and `platforms` do not go together")
        if self.reference and self.ref.partition(":")[0] not in TRANSPORTS:
            raise ValueError("`reference` is for images on this machine; one from a registry keeps its name")
        return self

    def wanted(self, target: str) -> tuple[Platform, ...] | None:
        """Return the platforms to carry, each once; None for all there are."""
        if self.platforms == ALL:
            return None
        named = self.platforms if isinstance(self.platforms, tuple) else (self.platform or target,)
        return tuple(sorted({Platform.parse(text) for text in named}))


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return the image with every manifest, config and layer of it pinned.

    Raises InvalidFileError if there is not exactly one image for a platform, or if it cannot be carried.
    """
    if options.upstream == "collect":
        checked_name(name)
    local = Local.parse(options.ref)
    identity, carried = _from_machine(name, local, options, context) if local else _from_registry(name, options, context)
    facts = dict(carried.facts)
    if local:
        facts["transport"] = local.transport
        if local.transport != "oci":  # engines and archives keep nothing beside an image
            facts[SIGNATURES] = NOT_ASKED
    if options.upstream == "skip":
        facts[SIGNATURES] = NOT_ASKED
        context.warn(f"{name}: upstream signatures of the image were {NOT_ASKED}: `upstream: skip`")
    identity |= {"digest": str(carried.root), "platform": carried.platform}
    if carried.index:
        identity["index"] = str(carried.index)
    return LockedComponent(
        name=name,
        kind="image",
        form="image",
        role=role,
        identity=identity,
        facts=facts,
        root=carried.root.hex,
        files=carried.files,
        inline=carried.inline,
    )


def companions(locked: LockedComponent, options: Options, context: Context) -> tuple[LockedComponent, ...]:
    """Return what upstream says of the image, as the component ``NAME.upstream``; nothing if it was not to be asked for."""
    local = Local.parse(options.ref)
    if SIGNATURES in locked.facts:  # not to be asked for, or not there to be asked
        return ()
    origin: Origin
    if local:
        origin = folder(locked.name, local, context)
    else:
        access = credentials(context.client, context.registries)
        origin = Registry(context.client, access, Reference.parse(locked.identity["ref"]), context.registries.mirrors)
    return (collect(locked, context, origin, options.rekor),)


def credentials(client: Client, registries: Registries) -> Credentials:
    """Return the logins this host has for registries."""
    return RegistryCredentials(client, registries.logins)


def addresses(url: str, registries: Registries) -> tuple[str, ...]:
    """Return where a pin's bytes are: at the mirrors this host names first, at the registry itself last."""
    return (url,) if url.startswith("file:") else registries.mirrors.addresses(url)


@dataclass(frozen=True, slots=True)
class _Remote:
    """A repository of a registry as where an image's bytes are; ``first`` was read to find out what it is."""

    ref: Reference
    context: Context
    access: Credentials
    first: tuple[Descriptor, bytes]

    def read(self, part: Descriptor, limit: int) -> bytes:
        if part.digest == self.first[0].digest:
            return self.first[1]
        mirrors = self.context.registries.mirrors
        if part.media_type not in MANIFESTS | INDEXES:
            return blob(self.context.client, self.access, self.ref, part, limit, mirrors=mirrors)
        ref = self.ref.at(part.digest)
        descriptor, raw = manifest(self.context.client, self.access, ref, mirrors=mirrors)
        if (descriptor.media_type, descriptor.size) != (part.media_type, part.size):
            raise IntegrityError(f"{ref}: not of the type and size its index says", hint="distrust this registry or this image")
        return raw

    def url(self, part: Descriptor) -> str:
        return manifest_url(self.ref.at(part.digest)) if part.media_type in MANIFESTS | INDEXES else blob_url(self.ref, part.digest)


def _from_registry(name: str, options: Options, context: Context) -> tuple[dict[str, str], Carried]:
    ref = Reference.parse(options.ref)
    if ref.floating:
        context.warn(f"{name}: {printable(options.ref)!r} has neither tag nor digest; took {ref.name}, which moves")
    access = credentials(context.client, context.registries)
    first = manifest(context.client, access, ref, mirrors=context.registries.mirrors)
    tag = {} if ref.digest else {"tag": ref.selector}
    carried = carry(Desk(name, _Remote(ref, context, access, first), context), first[0], options.wanted(context.target.platform), tag)
    return {"ref": ref.name, "reference": ref.local}, carried


def _from_machine(name: str, local: Local, options: Options, context: Context) -> tuple[dict[str, str], Carried]:
    found = find(name, local, options.reference, context)
    carried = carry(Desk(name, found.origin, context), found.root, options.wanted(context.target.platform), {})
    context.warn(f"{name}: taken from {local.transport}: no registry vouches for it")
    return {"ref": options.ref, "reference": found.reference}, carried
