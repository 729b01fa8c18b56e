"""Platforms of images as values (image-spec, "platform"): operating system, architecture, variant. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from airgap_images.oci import Descriptor

USUAL_VARIANT = {"arm64": "v8", "amd64": "v1"}  # what no variant means (containerd's platform rules)
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}  # uname(2) → GOARCH


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """Operating system, architecture and variant; a variant that goes without saying is empty."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Platform:
        """Return the platform with the usual variant of its architecture left out."""
        return cls(os, architecture, "" if variant == USUAL_VARIANT.get(architecture) else variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``os/architecture[/variant]``."""
        return cls.of(*text.split("/"))

    @classmethod
    def said(cls, entry: Descriptor) -> Platform:
        """Return what an index says of one of its entries."""
        platform = dict(entry.platform)
        return cls.of(platform.get("os", ""), platform.get("architecture", ""), platform.get("variant", ""))

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def is_attestation(entry: Descriptor) -> bool:
    """Say whether an index lists ``entry`` not as an image but as BuildKit's statement about one."""
    return entry.annotation("vnd.docker.reference.type") is not None
