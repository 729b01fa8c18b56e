"""What needs what: names that packages state, turned into the items that answer to them in the same image or tree.

Rules: an edge is only drawn to something that is there; of alternatives all that are there count, because any may be the one that is used;
a package whose need nobody answers keeps its other edges; what states no needs at all stays unknown. Linear in packages and names.
Sources: Debian policy 7.1, apk and rpm databases, dependency specifiers (PEP 508), Node's resolution of ``node_modules``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement

from airgap_images.contents.packages.core_metadata import normalised
from airgap_images.contents.packages.package import Package
from audit.evidence.packaged import Packaged

Placed = tuple[str, Package]  # the ref of its item, the package
Edges = dict[str, tuple[str, ...]]
DEFAULT_PYTHON = "3.12"
_PYTHON = re.compile(r"-cp3(\d{1,2})-")
_EXTRA = re.compile(r"\bextra\b")


def of_image(packages: Iterable[Placed]) -> Edges:
    """Return what each package of an image needs, by ref; those of which it is not known are absent."""
    kinds: dict[str, list[Placed]] = {}
    for placed in packages:
        if placed[1].needs is not None:
            kinds.setdefault(placed[1].type, []).append(placed)
    found: Edges = {}
    for kind, placed_ones in kinds.items():
        found |= READERS.get(kind, _of_system)(placed_ones)
    return found


def of_files(files: Iterable[Packaged]) -> Edges:
    """Return what each package of a tree needs, by ref."""
    listed = tuple(files)
    stated = {one.item.ref: (one.item.name, one.lines) for one in listed if one.lines is not None}
    needs = of_wheels(stated, (one.item.path or "" for one in listed))
    return needs | of_image((one.item.ref, one.package) for one in listed if one.package)


def of_wheels(stated: Mapping[str, tuple[str, tuple[str, ...]]], names: Iterable[str]) -> Edges:
    """Return what each wheel of a tree needs: ``stated`` has name and ``Requires-Dist`` by ref, ``names`` are all file names."""
    by_name = {name: ref for ref, (name, _) in stated.items()}
    return _requirements(stated, lambda _ref, name: by_name.get(name), _environment(names))


def _of_system(packages: list[Placed]) -> Edges:
    """Resolve names against names, what packages provide, and the files they own."""
    answers: dict[str, list[str]] = {}
    wanted = {name for _, package in packages for group in package.needs or () for name in group}
    for ref, package in packages:
        for name in {package.name, *package.provides}:
            answers.setdefault(name, []).append(ref)
    if any(name.startswith("/") for name in wanted):
        for ref, package in packages:
            for path in package.files:
                if f"/{path}" in wanted:
                    answers.setdefault(f"/{path}", []).append(ref)
    found: Edges = {}
    for ref, package in packages:
        needed = {answer for group in package.needs or () for name in group for answer in answers.get(name, ())}
        found[ref] = tuple(sorted(needed - {ref}))
    return found


def _of_node(packages: list[Placed]) -> Edges:
    there = {package.path: ref for ref, package in packages}
    found: Edges = {}
    for ref, package in packages:
        folders = list(_above(posixpath.dirname(package.path)))
        answers = (_nearest(there, folders, group[0]) for group in package.needs or ())
        found[ref] = tuple(sorted({answer for answer in answers if answer} - {ref}))
    return found


def _above(folder: str) -> Iterator[str]:
    while folder:
        if posixpath.basename(folder) != "node_modules":
            yield folder
        folder = posixpath.dirname(folder)
    yield ""


def _nearest(there: Mapping[str, str], folders: Iterable[str], name: str) -> str | None:
    paths = (posixpath.join(folder, "node_modules", name, "package.json") for folder in folders)
    return next((there[path] for path in paths if path in there), None)


def _of_python(packages: list[Placed]) -> Edges:
    """Resolve within the folder a distribution lies in, then anywhere in the image."""
    beside: dict[tuple[str, str], str] = {}
    anywhere: dict[str, str] = {}
    folders: dict[str, str] = {}
    stated: dict[str, tuple[str, tuple[str, ...]]] = {}
    for ref, package in packages:
        name, folder = normalised(package.name), posixpath.dirname(posixpath.dirname(package.path))
        beside.setdefault((folder, name), ref)
        anywhere.setdefault(name, ref)
        folders[ref] = folder
        stated[ref] = (name, tuple(group[0] for group in package.needs or ()))
    return _requirements(stated, lambda ref, name: beside.get((folders[ref], name)) or anywhere.get(name), _environment(()))


def _requirements(
    stated: Mapping[str, tuple[str, tuple[str, ...]]], answer: Callable[[str, str], str | None], environment: dict[str, str]
) -> Edges:
    """Resolve requirement lines; those of an extra count if somebody asks for that extra, or nobody asks for the package at all."""
    parsed = {ref: tuple(_parsed(lines)) for ref, (_, lines) in stated.items()}
    asked: dict[str, set[str]] = {}
    for requirements in parsed.values():
        for requirement in requirements:
            asked.setdefault(normalised(requirement.name), set()).update(requirement.extras)
    found: Edges = {}
    for ref, requirements in parsed.items():
        name = stated[ref][0]
        extras = asked.get(name)
        counting = (one for one in requirements if _counts(one, extras, environment))
        answers = (answer(ref, normalised(one.name)) for one in counting)
        found[ref] = tuple(sorted({target for target in answers if target} - {ref}))
    return found


def _parsed(lines: Iterable[str]) -> Iterator[Requirement]:
    for line in lines:
        try:
            yield Requirement(line)
        except InvalidRequirement:
            continue


def _counts(requirement: Requirement, extras: set[str] | None, environment: dict[str, str]) -> bool:
    marker = requirement.marker
    if marker is None:
        return True
    if extras is None and _EXTRA.search(str(marker)):
        return True  # the root of what was asked for: which extras were, is not known here
    try:
        return any(marker.evaluate(environment | {"extra": extra}) for extra in ("", *sorted(extras or ())))
    except (UndefinedEnvironmentName, ValueError, KeyError):
        return True


def _environment(names: Iterable[str]) -> dict[str, str]:
    """Return what markers are held against: Linux, and the newest Python that a file name speaks of. Never this machine's own."""
    found = [int(match[1]) for name in names if (match := _PYTHON.search(name))]
    version = f"3.{max(found)}" if found else DEFAULT_PYTHON
    return {
        "implementation_name": "cpython", "implementation_version": f"{version}.0", "os_name": "posix", "platform_machine": "x86_64",
        "platform_python_implementation": "CPython", "platform_release": "", "platform_system": "Linux", "platform_version": "",
        "python_full_version": f"{version}.0", "python_version": version, "sys_platform": "linux",
    }  # fmt: skip


READERS: dict[str, Callable[[list[Placed]], Edges]] = {"npm": _of_node, "pypi": _of_python}
