"""The report is one page that loads nothing, breaks on no name, says the verdict first, and can be replayed by hand."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from parts import evidence
from parts.bundles import NOW
from parts.evidence import HOSTILE, Drift

from audit import checks
from audit.evidence import replay
from audit.evidence.assessment import NO_DATA, Assessment, NotChecked
from audit.evidence.item import Licence
from audit.evidence.report import html
from audit.verify.trust import Memory
from manifests.errors import IntegrityError

VOID = {"meta", "wbr", "br", "link", "img", "input"}
REMEMBERS = Memory(6, "0" * 64, NOW, 1)


class Page(HTMLParser):
    """What a browser would find: elements with attributes, texts, and whether every element was closed."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.feed(raw.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute twice"
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def page(bundle) -> Page:
    return Page(html(evidence.assessed(bundle, upstream=evidence.verdicts())))


def hostile(assessment: Assessment) -> Assessment:
    """Return an assessment in which every text that can come from a bundle, a user or a disk is hostile."""
    proof = assessment.proof
    items = tuple(
        replace(
            item,
            name=HOSTILE,
            version=HOSTILE,
            kind=HOSTILE,
            role=HOSTILE,
            producer=HOSTILE,
            origin=HOSTILE,
            purl=HOSTILE,
            licences=(Licence(HOSTILE, f'"{HOSTILE}'),),
            files=tuple(replace(file, path=HOSTILE) for file in item.files),
            facts=((HOSTILE, HOSTILE),),
            coverage=replace(item.coverage, reason=HOSTILE),
        )
        for item in proof.inventory.items
    )
    found = checks.Finding(HOSTILE, "high", HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    unread = checks.NotAssessed(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    results = (checks.CheckResult(HOSTILE, HOSTILE, None, (HOSTILE,), 1, (found,), (unread,)),)
    inventory = replace(proof.inventory, items=items, name=HOSTILE, platform=HOSTILE)
    statement = replace(proof.bundle.statement, tool=HOSTILE)
    drift = Drift(HOSTILE, 3, ((HOSTILE, HOSTILE, HOSTILE),))
    proof = replace(
        proof,
        bundle=replace(proof.bundle, statement=statement),
        results=results,
        gate=checks.gate(results, {}),
        inventory=inventory,
        drift=drift,
        upstream=tuple(
            replace(
                verdict,
                component=HOSTILE,
                name=HOSTILE,
                rule=HOSTILE,
                reason=HOSTILE,
                seen=tuple(replace(seen, kind=HOSTILE, predicate=HOSTILE, by=HOSTILE, reason=HOSTILE) for seen in verdict.seen),
            )
            for verdict in evidence.verdicts()
        ),
    )
    return replace(assessment, proof=proof, place=HOSTILE, not_checked=(NotChecked(HOSTILE, HOSTILE),), tool=(HOSTILE, HOSTILE))


@pytest.mark.parametrize("kind", ["proved", "refused"])
def test_no_name_can_break_the_page(bundle, kind):
    if kind == "proved":
        plain, raw = evidence.assessed(bundle), html(hostile(evidence.assessed(bundle, drift=Drift("x", 3, (("a", "b", "c"),)))))
        assert raw.count(b"alert(") > 60
        same = Page(raw).all("h3")
        assert len(same) == len(Page(html(plain)).all("h3"))
    else:
        raw = html(evidence.refusing(IntegrityError(HOSTILE, hint=HOSTILE)))
    page = Page(raw)
    assert page.all("script") == [{}], "the page's own, named by its digest in the policy"
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in raw.decode()
    assert "49" not in re.findall(r"\{\{ 7\*7 \}\}|\b49\b", page.text)  # a name is data, never a template
    assert '<script>alert("x")</script>' in page.text


def test_the_page_forbids_itself_everything_and_asks_for_nothing(page):
    raw_tags = {tag for tag, _ in page.tags}
    assert not raw_tags & {"iframe", "object", "embed", "img", "link", "form", "base", "video", "audio"}
    policy = next(attrs for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-[^']+'; base-uri 'none'; form-action 'none'", policy["content"]
    )
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in {"src", "srcset", "style", "action"}]
    assert all(attrs["href"].startswith("#") for attrs in page.all("a"))


def test_no_style_reaches_out(bundle):
    styles = re.findall(r"<style>(.*?)</style>", html(evidence.assessed(bundle)).decode(), re.DOTALL)
    assert len(styles) == 1
    assert not re.search(r"url\(|@import|@font-face|expression\(", styles[0])
    assert "@media print" in styles[0]
    assert "prefers-color-scheme: dark" in styles[0]


@pytest.mark.parametrize("which", ["page", "refused"])
def test_it_is_accessible(page, which):
    found = page if which == "page" else Page(html(evidence.refusing()))
    assert found.all("html")[0]["lang"] == "en"
    levels = [level for level, _ in found.headings]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tags = [tag for tag, _ in found.tags]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") > 0
    assert all(attrs.get("scope") in {"col", "row"} for attrs in found.all("th"))
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs["href"][1:] in ids for attrs in found.all("a"))
    assert {"header", "nav", "main", "footer"} <= set(tags)
    assert all(attrs.get("aria-hidden") == "true" for _, attrs in found.tags if attrs.get("class") == "mark")  # words say it too


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("at", [0, 1, 2], ids=["light", "dark", "paper"])
def test_contrast_is_at_least_that_of_wcag_aa(bundle, at):
    style = re.search(r"<style>(.*?)</style>", html(evidence.assessed(bundle)).decode(), re.DOTALL)[1]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[at]))
    pairs = [("ink", "paper"), ("soft", "paper"), ("link", "paper"), ("ink", "faint")]
    pairs += [(mood, f"{mood}-paper") for mood in ("good", "bad", "warn", "unknown")]
    pairs += [("paper", mood) for mood in ("good", "bad", "warn")]
    assert [pair for pair in pairs if contrast(colours[pair[0]], colours[pair[1]]) < 4.5] == []


def test_the_verdict_comes_first_then_what_was_not_checked_then_who_signed(page):
    assert [text for level, text in page.headings if level < 3] == [
        "test",
        "What was not checked",
        "Who signed, under which rule",
        "What was checked",
        "All that was not checked",
        "Checks and findings",
        "Vulnerabilities",
        "Signatures",
        "Who signed what is carried",
        "Chain of custody",
        "Licences",
        "SBOM quality",
        "Controls",
        "What is installed",
        "Inventory",
        "Replay by hand",
    ]
    assert page.text.index("Every byte of this bundle is what its signers signed") < page.text.index("What was not checked")


def test_everything_that_was_not_checked_is_on_the_page(bundle):
    assessment = evidence.assessed(bundle)
    text = Page(html(assessment)).text
    assert assessment.not_checked
    for entry in assessment.not_checked:
        assert entry.topic in text
        assert entry.text in text


def test_the_page_names_signers_items_and_digests(bundle, page):
    for entry in bundle.signatures:
        assert entry.key_id in page.text.replace(" ", "")
        assert entry.file in page.text
    for item in evidence.assessed(bundle).proof.inventory.items:
        assert item.name.replace(" ", "") in page.text.replace(" ", "") or item.name == HOSTILE
        assert (item.sha256 or "") in page.text.replace(" ", "")
    assert bundle.policy_sha256 in page.text
    assert bundle.digest.hex in page.text
    assert "user:secret" not in page.text
    assert "token=" not in page.text


@pytest.mark.parametrize(
    ("given", "word", "lines"),
    [
        ({"drift": Drift(), "found": (), "memory": REMEMBERS}, "Proved", {"not older", "as installed", "nothing to examine"}),
        ({"memory": Memory()}, "Proved", {"not assessed", "not compared", "warnings"}),
        ({"drift": Drift("differs", 3, (("changed", "a", "b"),)), "memory": REMEMBERS}, "Proved, with findings", {"differs"}),
        ({"drift": Drift("not compared", 5), "memory": REMEMBERS}, "Proved, partly not assessed", {"not compared"}),
    ],
)
def test_the_verdict_and_the_summary_say_what_was_found(bundle, given, word, lines):
    page = Page(html(evidence.assessed(bundle, **given)))
    assert f"Verification report test ✓ {word} Every" in page.text or f"Verification report test ! {word} The bytes" in page.text
    assert all(line in page.text for line in lines)


def test_a_finding_does_not_hide_what_was_not_assessed(bundle):
    finding = checks.Finding("pickles", "high", "mini", "a.bin", "a pickle", "remove it", "docs/checks.md#pickles")
    unread = checks.NotAssessed("pickles", "mini", "b.bin", "too large")
    found = (checks.CheckResult("pickles", "No file runs code", None, (), 3, (finding,), (unread,)),)
    text = Page(html(evidence.assessed(bundle, found=found))).text
    assert "Checks ✕ findings 1 finding at or above the gate; 1 check, 3 files examined, 1 not assessed" in text
    assert "mini/b.bin too large" in text.replace(" / ", "/")


@pytest.mark.parametrize(
    ("kept", "line"),
    [
        (("good",), "Upstream signatures ✓ signed 1 image good"),
        (("good", "nobody named"), "Upstream signatures ? not assessed 1 image nobody named, 1 image good"),
        (("good", "wrong", "nobody named"), "Upstream signatures ✕ wrong 1 image wrong, 1 image nobody named, 1 image good"),
        ((), None),
    ],
)
def test_the_summary_says_the_worst_of_the_images_upstream_signatures(bundle, kept, line):
    verdicts = tuple(verdict for verdict in evidence.verdicts() if verdict.result in kept)
    text = Page(html(evidence.assessed(bundle, upstream=verdicts))).text
    assert line in text if line else "Upstream signatures ✓" not in text and "Who signed what is carried" not in text
    assert all(f"{verdict.name} " in text and verdict.result in text for verdict in verdicts)


def test_vulnerabilities_are_never_called_clean(page):
    assert f"Vulnerabilities ? not assessed {NO_DATA}" in page.text
    assert "no findings" not in page.text


def test_a_refused_bundle_has_reasons_and_no_claims():
    page = Page(html(evidence.refusing()))
    assert "✕ Refused Do not install this bundle." in page.text
    for failure in evidence.refusing().failures:
        assert failure.message.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\N{REPLACEMENT CHARACTER}") in page.text
        assert failure.hint in page.text
    assert [text for level, text in page.headings] == ["/media/usb/bundle", "Why it is refused", "What was not checked"]
    assert "Proved" not in page.text


def test_long_lists_are_cut_and_the_rest_is_counted(bundle, monkeypatch):
    monkeypatch.setattr("audit.evidence.report.MAX_ROWS", 2)
    monkeypatch.setattr("audit.evidence.report.MAX_FILES", 1)
    text = Page(html(evidence.assessed(bundle))).text
    assert "5 packages of gateway" in text
    assert "3 more are in" in text
    assert "2 more are listed by the component" in text


# --- replay by hand -------------------------------------------------------------------------------------------------


def run(folder: Path, bundle, policy: bytes, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Type the lines of the report's replay into bash, with the two places filled in."""
    (scratch / "policy.json").write_bytes(policy)
    lines = [line for step in replay.steps(bundle) for line in step.lines]
    script = "\n".join(lines).replace(replay.PLACES[0], f"BUNDLE={folder}").replace(replay.PLACES[1], f"POLICY={scratch / 'policy.json'}")
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, cwd=scratch, check=False)


needs_tools = pytest.mark.skipif(not all(map(shutil.which, ("jq", "openssl", "sha256sum"))), reason="needs jq, openssl and sha256sum")


@needs_tools
@pytest.mark.parts
def test_the_replay_accepts_the_bundle_and_leaves_it_as_it_was(tmp_path):
    folder = evidence.rich(tmp_path / "bundle")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    done = run(folder, evidence.verified(folder), evidence.policy().to_bytes(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Verified") == 3
    assert "index.json: OK\nSHA256SUMS: OK\n" in done.stdout
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@needs_tools
@pytest.mark.parts
@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: flip(folder / "index.json"),
        lambda folder: flip(folder / "SHA256SUMS"),
        lambda folder: flip(next((folder / "blobs" / "sha256").iterdir())),
        lambda folder: next((folder / "blobs" / "sha256").iterdir()).unlink(),
        lambda folder: (folder / "verify.sh").write_text("echo fine"),
        lambda folder: (folder / "blobs" / "extra").write_text("x"),
        lambda folder: (folder / "link").symlink_to("index.json"),
        lambda folder: shutil.copy(folder / "signatures" / "alice.sigstore.json", folder / "signatures" / "bob.sigstore.json"),
        lambda folder: (folder / "signatures" / "carol.sigstore.json").unlink(),
    ],
    ids=["index", "sums", "blob", "missing", "stray", "stray-deep", "link", "swapped", "unsigned"],
)
def test_the_replay_refuses_what_the_verifier_refuses(tmp_path, harm):
    folder = evidence.rich(tmp_path / "bundle")
    bundle = evidence.verified(folder)
    harm(folder)
    assert run(folder, bundle, evidence.policy().to_bytes(), tmp_path).returncode != 0


@needs_tools
@pytest.mark.parts
def test_the_replay_refuses_another_policy(tmp_path):
    folder = evidence.rich(tmp_path / "bundle")
    bundle = evidence.verified(folder)
    assert run(folder, bundle, evidence.policy("alice").to_bytes(), tmp_path).returncode != 0
