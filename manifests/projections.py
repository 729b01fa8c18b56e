"""The retag map in the words of those who pull: containers' registries.conf, containerd, Docker, Helm values, a plain table. Pure text.

Rules: the same map always gives the same text; an upstream registry is replaced and never asked as well, since a site has no
way out to it; where a format cannot say what the map says, that is an error and not half an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import yaml

from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.paths import printable
from manifests.rewrite import DOCKER_HUB, Mapping, Name, Rewrite

Files = tuple[tuple[str, str], ...]  # relative path → text, sorted


def registries(mapping: Mapping) -> tuple[str, ...]:
    """Return the upstream registries a map has images of, sorted."""
    return tuple(sorted({Name.parse(original).registry for original, _ in mapping}))


def table(mapping: Mapping) -> str:
    """Return the map as one JSON object: original to site."""
    return canonical.readable(dict(mapping)).decode()


def values(mapping: Mapping) -> str:
    """Return the map as YAML in the parts Helm charts ask for, by original name; what a name does not have is empty."""
    listed = {original: _parts(site) for original, site in mapping}
    return yaml.safe_dump({"images": listed}, sort_keys=True, default_flow_style=False, width=1000)


def registries_conf(rewrite: Rewrite, upstream: Iterable[str], *, plain: bool = False) -> str:
    """Return a drop-in for ``/etc/containers/registries.conf.d`` (podman, skopeo, CRI-O, buildah).

    ``plain``: the site's registry speaks http, or has a certificate nobody knows.
    """
    more = "insecure = true\n" if plain else ""
    parts = [
        f"[[registry]]\nprefix = {_quoted(registry)}\nlocation = {_quoted(rewrite.base(registry))}\n{more}"
        for registry in sorted(set(upstream))
    ]
    return "# What these registries are asked for comes from the site's own.\n" + "\n".join(parts)


def hosts_toml(rewrite: Rewrite, upstream: Iterable[str], *, plain: bool = False, ca_file: str | None = None) -> Files:
    """Return containerd's ``hosts.toml`` for every upstream registry, by its path below ``certs.d``.

    ``server`` is the site's registry, too: without it containerd would go on to the upstream registry itself. ``ca_file`` is
    where the certificate of the site's own authority lies on the machine.
    """
    found: dict[str, str] = {}
    for registry in sorted(set(upstream)):
        base = rewrite.base(registry)
        path = base.removeprefix(rewrite.host)
        address = _quoted(f"{'http' if plain else 'https'}://{rewrite.host}" + (f"/v2{path}" if path else ""))
        options = ['capabilities = ["pull", "resolve"]']
        options += ["override_path = true"] if path else []
        options += [f"ca = {_quoted(ca_file)}"] if ca_file else []
        inner = "".join(f"  {option}\n" for option in options)
        own = "".join(f"{option}\n" for option in options)
        found[f"{registry}/hosts.toml"] = f"server = {address}\n{own}\n[host.{address}]\n{inner}"
    return tuple(found.items())


def daemon_json(rewrite: Rewrite, upstream: Iterable[str], *, plain: bool = False) -> str:
    """Return ``registry-mirrors`` for Docker's ``daemon.json``, which can stand for Docker Hub only, and only at a registry's root.

    Raises InvalidFileError for any other registry, and for a map with a prefix.
    """
    others = sorted(set(upstream) - {DOCKER_HUB})
    base = rewrite.base(DOCKER_HUB)
    if others or base != rewrite.host:
        why = f"cannot stand for {printable(others[0])}" if others else f"must be a registry's root, not {base}"
        raise InvalidFileError(
            f"a mirror of Docker's {why}", hint="name images as they are called at the site: the table and the values have these names"
        )
    body: dict[str, list[str]] = {"registry-mirrors": [f"{'http' if plain else 'https'}://{rewrite.host}"]}
    return canonical.readable(body | ({"insecure-registries": [rewrite.host]} if plain else {})).decode()


def _parts(site: str) -> dict[str, str]:
    name = Name.parse(site)
    return {"image": site, "registry": name.registry, "repository": name.repository, "tag": name.tag, "digest": name.digest}


def _quoted(text: str) -> str:
    """Return a TOML basic string; JSON's is one as long as no control character is in it, which no name has."""
    return json.dumps(text, ensure_ascii=False)
