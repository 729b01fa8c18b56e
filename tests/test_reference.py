"""References to images: expanded as every tool does, and nothing else taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airgap_images.reference import Reference
from manifests.errors import InvalidFileError

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "name", "base"),
    [
        ("busybox", "docker.io/library/busybox:latest", "https://registry-1.docker.io/v2/library/busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "https://registry-1.docker.io/v2/library/busybox"),
        ("vllm/vllm-openai:v0.32.0", "docker.io/vllm/vllm-openai:v0.32.0", "https://registry-1.docker.io/v2/vllm/vllm-openai"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "https://registry-1.docker.io/v2/library/busybox"),
        ("index.docker.io/team/x", "docker.io/team/x:latest", "https://registry-1.docker.io/v2/team/x"),
        ("Registry.Example.ORG/a/b/c:T_1", "registry.example.org/a/b/c:T_1", "https://registry.example.org/v2/a/b/c"),
        ("localhost/x", "localhost/x:latest", "http://localhost/v2/x"),
        ("localhost:5000/x", "localhost:5000/x:latest", "http://localhost:5000/v2/x"),
        ("127.9.0.1:5000/x:y", "127.9.0.1:5000/x:y", "http://127.9.0.1:5000/v2/x"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "http://[::1]:5000/v2/x"),
        ("10.0.0.1:5000/x", "10.0.0.1:5000/x:latest", "https://10.0.0.1:5000/v2/x"),
        ("localhost.example.org/x", "localhost.example.org/x:latest", "https://localhost.example.org/v2/x"),
        ("host:5000", "docker.io/library/host:5000", "https://registry-1.docker.io/v2/library/host"),
        (f"ghcr.io/a/b@sha256:{HEX}", f"ghcr.io/a/b@sha256:{HEX}", "https://ghcr.io/v2/a/b"),
        (f"ghcr.io/a/b:1@sha256:{HEX}", "ghcr.io/a/b:1", "https://ghcr.io/v2/a/b"),
    ],
)
def test_references_are_expanded_the_standard_way(text: str, name: str, base: str) -> None:
    ref = Reference.parse(text)
    assert (ref.name, ref.base) == (name, base)
    assert Reference.parse(str(ref)) == (ref if not ref.floating else Reference(ref.registry, ref.repository, "latest"))


def test_what_a_reference_asks_for() -> None:
    assert Reference.parse("x").floating
    assert Reference.parse("x").selector == "latest"
    assert not Reference.parse("x:latest").floating
    both = Reference.parse(f"x:1@sha256:{HEX}")
    assert (both.selector, both.local) == (f"sha256:{HEX}", "docker.io/library/x:1")
    assert Reference.parse(f"x@sha256:{HEX}").local == f"docker.io/library/x:sha256-{HEX[:12]}"


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "x/", "/x", "Upper", "a//b", "a/../b", "x:", "x:-tag", "x:a b", "x@", "x@sha256:00", f"x@sha512:{HEX * 2}",
        f"x@sha256:{HEX.upper()}", "https://host/x", "host:99999999/x", "user@host/x", "ho_st.org/x", "-host.org/x", "x\n", "x:y\n",
        "x:\x1b[2J", "a" * 256, f"x:{'t' * 129}", "exa mple.org/x", "example.org:/x", "[::1/x",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidFileError, match=r"^[^\n]* is not an image reference: [^\n]*$"):
        Reference.parse(text)


@given(st.text(max_size=60))
def test_parsing_any_text_gives_a_reference_or_the_one_error(text: str) -> None:
    try:
        ref = Reference.parse(text)
    except InvalidFileError:
        return
    assert ref.base.isascii()
    assert ref.base.isprintable()
    assert Reference.parse(str(ref)).name == ref.name
