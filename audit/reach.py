"""The targets a site names, made: container engines, a registry, a folder. The one way from this side to code that reaches them.

Rules: a module that reaches an engine or a network is loaded only if the site names such a target, and the target is passed
on as an object; nothing is connected to before it is used; all are let go of at the end.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from airgap_images.platform import MACHINES, Platform
from airgap_images.targets import Only, Target
from manifests.errors import SiteError
from manifests.site import Site, SiteRegistry

NO_CURL = "pip install 'airgap-bundler[registry]'"
HTTPS = ":443"  # a client does not say https's own port


@contextlib.contextmanager
def targets(site: Site, environment: Mapping[str, str], machine: str) -> Iterator[tuple[Target, ...]]:
    """Give the targets ``site`` names while the block runs; ``machine`` is this one's kind as uname(2) says it.

    Raises SiteError if a package that one of them needs is not installed.
    """
    with contextlib.ExitStack() as stack:
        found: list[Target] = []
        for target in _all(site, environment, Platform.of("linux", MACHINES.get(machine, machine))):
            stack.callback(target.close)
            found.append(target)
        yield tuple(found)


def _all(site: Site, environment: Mapping[str, str], platform: Platform) -> Iterator[Target]:
    makers = {"docker": _docker, "podman": _podman, "containerd": _containerd}
    if site.engine != "none":
        yield makers[site.engine](site, environment, platform)
    if site.registry:
        yield _registry(site.registry, environment)
    if site.layout:
        yield _layout(site.layout)


def _docker(site: Site, environment: Mapping[str, str], platform: Platform) -> Target:
    module = importlib.import_module("airgap_images.placing.docker_engine")
    named = {"DOCKER_HOST": f"unix://{site.docker_socket}"} if site.docker_socket else {}
    return cast("Target", module.DockerEngine(module.docker_client({**environment, **named}), platform))


def _podman(site: Site, environment: Mapping[str, str], platform: Platform) -> Target:
    module = importlib.import_module("airgap_images.placing.podman")
    said = site.podman
    storage = module.Storage(said.root, said.runroot, said.storage_driver) if said else module.Storage()
    return cast("Target", module.Podman(environment, platform, storage))


def _containerd(site: Site, environment: Mapping[str, str], platform: Platform) -> Target:
    module = importlib.import_module("airgap_images.placing.containerd")
    said = site.containerd
    place = module.Place(said.address or module.ADDRESS, said.namespace, said.snapshotter) if said else module.Place()
    return cast("Target", module.Containerd(environment, platform, place))


def _registry(said: SiteRegistry, environment: Mapping[str, str]) -> Target:
    try:
        http = importlib.import_module("airgap_images.remote.http")
    except ImportError as error:
        if error.name != "pycurl":
            raise
        raise SiteError("the pycurl package for Python is not installed, and the site names a registry", hint=NO_CURL) from None
    client = http.Client(tls=_tls(said, environment))
    logins = importlib.import_module("airgap_images.remote.logins").Logins.load(environment)
    credentials = importlib.import_module("airgap_images.remote.authentication").RegistryCredentials(client, logins, actions="pull,push")
    rewrite = importlib.import_module("manifests.rewrite").Rewrite(said.host, said.prefix, said.keep_registry)
    pushed = cast("Target", importlib.import_module("airgap_images.placing.push").RegistryTarget(client, credentials, rewrite))
    return pushed if said.trees else Only(pushed, frozenset({"image"}))


def _tls(said: SiteRegistry, environment: Mapping[str, str]) -> Callable[[str], object]:
    """Return what gives the certificates of a host: the site's own for its registry, else those in this machine's certs.d folders."""
    web = importlib.import_module("airgap_images.remote.web")
    known = importlib.import_module("airgap_images.remote.certificates").Certificates.load(Path(environment.get("HOME") or "/root"))

    def tls(host: str) -> object:
        found = known(host)
        if not said.ca_file or host != said.host.removesuffix(HTTPS):
            return found
        return web.Tls(said.ca_file, found.certificate, found.key, found.ca_files) if found else web.Tls(said.ca_file)

    return tls


def _layout(folder: Path) -> Target:
    return cast("Target", importlib.import_module("airgap_images.placing.export").LayoutTarget(folder))
