"""What needs what: names that packages state, answered in the same image or tree, and never by what is not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airgap_images.contents.packages.package import Package
from audit.evidence.edges import of_image, of_wheels

Needs = tuple[tuple[str, ...], ...] | None


def system(name: str, needs: Needs, *, provides: tuple[str, ...] = (), files: tuple[str, ...] = (), kind: str = "deb") -> tuple[str, Package]:
    return name, Package(kind, name, "1", None, "var/lib/dpkg/status", "0", needs=needs, provides=provides, files=files)


def node(path: str, *needs: str) -> tuple[str, Package]:
    return path, Package("npm", path.split("/")[-2], "1", None, path, "0", needs=tuple((name,) for name in needs))


def python(name: str, *needs: str, folder: str = "site-packages") -> tuple[str, Package]:
    place = f"{folder}/{name}-1.dist-info/METADATA"
    return f"{folder}/{name}", Package("pypi", name, "1", None, place, "0", needs=tuple((line,) for line in needs))


def wheels(stated: dict[str, tuple[str, ...]], *names: str) -> dict[str, tuple[str, ...]]:
    return of_wheels({name: (name, lines) for name, lines in stated.items()}, names)


def test_names_and_what_is_provided_and_owned_answer():
    found = of_image(
        [
            system("app", (("libc",), ("mail-agent",), ("/bin/sh",), ("nobody",))),
            system("libc", ()),
            system("exim", (), provides=("mail-agent",)),
            system("dash", (), files=("bin/sh",)),
        ]
    )
    assert found == {"app": ("dash", "exim", "libc"), "libc": (), "exim": (), "dash": ()}


def test_all_alternatives_that_are_there_count():
    found = of_image([system("app", (("exim", "postfix", "sendmail"),)), system("exim", ()), system("postfix", ())])
    assert found["app"] == ("exim", "postfix")


def test_what_states_nothing_stays_unknown():
    assert of_image([system("app", None), system("libc", ())]) == {"libc": ()}


def test_kinds_do_not_answer_each_other():
    assert of_image([system("app", (("lib",),)), system("lib", (), kind="rpm")])["app"] == ()


def test_no_package_needs_itself_and_circles_are_kept():
    found = of_image([system("a", (("a",), ("b",))), system("b", (("a",),))])
    assert found == {"a": ("b",), "b": ("a",)}


def test_node_takes_the_nearest():
    outer, inner = "app/node_modules/ms/package.json", "app/node_modules/debug/node_modules/ms/package.json"
    debug, send = "app/node_modules/debug/package.json", "app/node_modules/send/package.json"
    found = of_image([node(outer), node(inner), node(debug, "ms"), node(send, "ms", "debug", "gone"), node("app/package.json", "send")])
    assert found[debug] == (inner,)
    assert found[send] == (debug, outer)
    assert found["app/package.json"] == (send,)


def test_node_does_not_look_into_other_programs():
    assert of_image([node("one/node_modules/ms/package.json"), node("two/package.json", "ms")])["two/package.json"] == ()


def test_python_takes_what_lies_beside_it_first():
    found = of_image([python("app", "lib>=1"), python("lib"), python("lib", folder="other"), python("lonely", "lib", folder="third")])
    assert found["site-packages/app"] == ("site-packages/lib",)
    assert found["third/lonely"][0].endswith("/lib")


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("lib", True),
        ("LIB >=1", True),
        ("lib; python_version >= '3.8'", True),
        ("lib; python_version < '3.0'", False),
        ("lib; sys_platform == 'win32'", False),
        ("lib; platform_system == 'Linux'", True),
        ("lib; extra == 'more'", True),  # nobody asks for the package: which extras were wanted is not known
        ("lib @ https://example.org/lib.whl", True),
        ("not a requirement at all (", False),
        ("other", False),
    ],
)
def test_requirement_lines_are_held_against_linux(line, counts):
    assert wheels({"app": (line,), "lib": ()})["app"] == (("lib",) if counts else ())


def test_an_extra_counts_if_somebody_asks_for_it():
    stated = {"app": ("web[fast]",), "web": ("quick; extra == 'fast'", "slow; extra == 'slow'"), "quick": (), "slow": ()}
    assert wheels(stated)["web"] == ("quick",)
    assert wheels(stated | {"app": ("web",)})["web"] == ()


def test_the_newest_python_among_the_names_decides():
    stated = {"app": ("old; python_version < '3.11'",), "old": ()}
    assert wheels(stated, "app-1-cp310-cp310-linux_x86_64.whl")["app"] == ("old",)
    assert wheels(stated, "app-1-cp310-cp310-x.whl", "old-1-cp312-cp312-x.whl")["app"] == ()


@given(st.lists(st.text(max_size=30), max_size=5))
def test_no_line_stops_it(lines):
    assert set(wheels({"app": tuple(lines), "lib": ()})["app"]) <= {"lib"}
    assert of_image([system("app", tuple((line,) for line in lines)), system("lib", ())])["lib"] == ()
