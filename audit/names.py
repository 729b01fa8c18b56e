"""What upstream's names of images are at this site, for those who pull there: read from what is installed, changed by nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from airgap_images.reference import is_loopback
from audit.install import generations, images, receipts
from audit.install.store import Store
from manifests import projections
from manifests.errors import UsageError
from manifests.rewrite import Mapping, Rewrite
from manifests.site import Site

Form = Literal["table", "values", "registries.conf", "hosts.toml", "daemon.json"]
NO_REGISTRY = "write `registry: {host: ...}` into site.yaml, or name one by --registry (where `airgap-audit serve` listens, for example)"


def rewrite(site: Site, registry: str | None) -> Rewrite:
    """Return the site's retag map, or that of the registry named; raises UsageError if there is none."""
    if registry:
        return Rewrite(registry)
    if site.registry is None:
        raise UsageError("the site has no registry, so images have no names in one", hint=NO_REGISTRY)
    return Rewrite(site.registry.host, site.registry.prefix, site.registry.keep_registry)


def mapping(store: Store, known: Rewrite) -> Mapping:
    """Return (original, at the site) for every image of what is installed; raises SiteError if nothing is."""
    parts = generations.components_of(store, receipts.current(store).digest)
    return known.mapping(reference for cargo in images.cargoes(parts) for reference in cargo.references)


def written(found: Mapping, known: Rewrite, form: Form, ca_file: str | None = None) -> str:
    """Return the map in one of the forms others read; several files follow each other, each under a line with its path."""
    upstream, plain = projections.registries(found), is_loopback(known.host)
    makers: dict[Form, Callable[[], str]] = {
        "table": lambda: projections.table(found),
        "values": lambda: projections.values(found),
        "registries.conf": lambda: projections.registries_conf(known, upstream, plain=plain),
        "hosts.toml": lambda: _joined(projections.hosts_toml(known, upstream, plain=plain, ca_file=ca_file)),
        "daemon.json": lambda: projections.daemon_json(known, upstream, plain=plain),
    }
    return makers[form]()


def _joined(files: projections.Files) -> str:
    return "\n".join(f"# /etc/containerd/certs.d/{path}\n{text}" for path, text in files)
