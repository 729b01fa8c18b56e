"""The report in a real browser: it loads nothing, complains of nothing, is reached by keys, filters, prints whole, and opens when it is large."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from parts import browser, evidence
from parts.images import need
from parts.known import compared, waived

from audit.evidence.approval import approval
from audit.evidence.report import html

pytestmark = pytest.mark.parts
SOME, MANY = 300, 20_000


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as running:
        yield running


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def pages(bundle, tmp_path_factory) -> dict[str, Path]:
    """Return a file of each page there is."""
    folder = tmp_path_factory.mktemp("pages")
    plain = evidence.assessed(bundle, upstream=evidence.verdicts())
    made = {
        "plain": html(plain),
        "full": html(waived(compared(plain))),
        "refused": html(evidence.refusing()),
        "approval": approval(plain, "0" * 64),
        "some": html(many(plain, SOME)),
        "many": html(many(plain, MANY)),
    }
    for name, data in made.items():
        (folder / f"{name}.html").write_bytes(data)
    return {name: folder / f"{name}.html" for name in made}


def many(assessment, count: int):
    """Return an assessment of a bundle with ``count`` packages more in one component."""
    items = assessment.proof.inventory.items
    model = next(item for item in items if item.component == "gateway" and item.what == "package")
    more = tuple(
        replace(model, ref=f"gateway/{number}", name=f"package-{number:05}", path=f"package_{number:05}-1.0-py3-none-any.whl")
        for number in range(count)
    )
    at = items.index(model)
    inventory = replace(assessment.proof.inventory, items=(*items[:at], *more, *items[at:]))
    return replace(assessment, proof=replace(assessment.proof, inventory=inventory))


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
@pytest.mark.parametrize("name", ["plain", "full", "refused", "approval"])
def test_a_page_asks_for_nothing_and_breaks_no_rule_of_its_own(chromium, pages, name, script):
    page = chromium.open(pages[name], script=script)
    assert page.requests == [pages[name].as_uri()]
    assert page.complaints == []
    page.close()


def test_what_tells_of_breaches_does_tell(chromium, pages, tmp_path):
    """The page with a foreign style and an image in it is what the test above would find."""
    harmed = tmp_path / "harmed.html"
    text = pages["plain"].read_text()
    harmed.write_text(text.replace("<h1>", '<h1><img src="x.png" alt=""><b style="color:red">').replace("</h1>", "</b><script>1</script></h1>"))
    page = chromium.open(harmed)
    assert len([said for said in page.complaints if "Content Security Policy" in said]) == 3
    page.close()


FIRST = """[...document.querySelectorAll('main h2, main dt, main dd, main strong, header p, header h1')].filter(part => {
  const box = part.getBoundingClientRect(); return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight
}).map(part => part.textContent).join(' | ')"""


def test_the_first_screen_says_what_was_not_assessed_and_who_signed(chromium, pages):
    page = chromium.open(pages["plain"])
    seen = page.run(FIRST)
    assert "Not assessed: no vulnerability data came with this bundle" in seen
    for words in ("Proved", "What was not checked", "Who signed, under which rule", "alice", "trusted as", "not assessed"):
        assert words in seen
    page.close()
    full = chromium.open(pages["full"])
    assert "Not assessed, 1 of 10: deb: no data of it was given." in full.run(FIRST)
    full.close()


@pytest.mark.parametrize("width", [1280, 760, 390])
@pytest.mark.parametrize("name", ["plain", "full", "refused", "approval"])
def test_nothing_is_wider_than_the_window(chromium, pages, name, width):
    page = chromium.open(pages[name], width=width)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.close()


REACHED = "(e => e.closest('summary, a, input, .scroll') ? (e.id || e.getAttribute('href') || e.textContent.trim().slice(0, 80)) : 'page')(document.activeElement)"
INTERACTIVE = """[...document.querySelectorAll('a, summary, input')].filter(e => e.checkVisibility())
  .map(e => e.id || e.getAttribute('href') || e.textContent.trim().slice(0, 80))"""


def test_everything_that_acts_is_reached_by_the_keyboard_and_shows_it(chromium, pages):
    page = chromium.open(pages["full"])
    wanted, reached = page.run(INTERACTIVE), []
    assert {"filter-inventory", "filter-findings", "#custody"} <= set(wanted)
    for _ in range(len(wanted) + 20):
        page.press("Tab")
        reached.append(page.run(REACHED))
        outline = page.run("document.activeElement === document.body ? 'none' : getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or reached[-1] == "page", reached[-1]
    assert reached[0] == "#main"  # the way past everything else comes first
    assert [name for name in wanted if name not in reached] == []
    page.close()


def test_a_fold_opens_by_the_keyboard(chromium, pages):
    page = chromium.open(pages["full"])
    page.run("document.querySelector('details:not([open]) > summary').focus()")
    fold = "document.activeElement.parentElement.open"
    assert page.run(fold) is False
    page.press("Enter")
    page.browser.ask("Input.dispatchKeyEvent", page.session, type="char", text="\r")
    assert page.run(fold) is True
    page.close()


SHOWN = "[...document.querySelectorAll('#inventory tbody tr')].filter(row => row.checkVisibility()).map(row => row.cells[0].textContent)"


def test_the_filter_shows_what_was_asked_for_and_paper_has_everything(chromium, pages):
    page = chromium.open(pages["plain"])
    page.run("document.getElementById('filter-inventory').focus()")
    page.type("classy mit")
    assert page.run("new Promise(done => setTimeout(done, 400)).then(() => true)")
    assert page.run(SHOWN) == ["classy"]
    assert "1 of " in page.run("document.querySelector('[data-of=inventory] output').textContent")
    if shutil.which("pdftotext"):
        assert "tiny" in text_of(page.printed())
    page.close()


def text_of(pdf: bytes) -> str:
    need("pdftotext")
    assert pdf.startswith(b"%PDF-")
    return subprocess.run(["pdftotext", "-raw", "-", "-"], input=pdf, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_on_paper_every_row_is_there(chromium, pages, bundle, script):
    page = chromium.open(pages["plain"], script=script)
    text = text_of(page.printed())
    squeezed = "".join(text.split())
    for item in evidence.assessed(bundle).proof.inventory.items:
        assert item.name.split(":")[0] in squeezed or item.name == evidence.HOSTILE
        assert (item.sha256 or "") in squeezed
    for file in ("a/b.txt", "model.safetensors", "requirements.txt"):
        assert file in squeezed
    assert "Show only" not in text
    page.close()


def test_a_long_table_repeats_its_head_on_every_page_of_paper(chromium, pages):
    page = chromium.open(pages["some"])
    sheets = text_of(page.printed()).split("\f")
    rows = [sheet for sheet in sheets if sheet.count("package-") > 10]
    assert len(rows) > 4
    assert all("Licence as" in sheet and "SHA-256" in sheet for sheet in rows)
    assert all(sum(f"package-{number:05}" in sheet for sheet in sheets) >= 1 for number in range(SOME))
    page.close()


def test_the_approval_is_one_page(chromium, pages):
    need("pdfinfo")
    page = chromium.open(pages["approval"])
    for width, height in ((8.27, 11.69), (8.5, 11)):  # A4, Letter
        done = chromium.ask("Page.printToPDF", page.session, paperWidth=width, paperHeight=height, preferCSSPageSize=True)
        told = subprocess.run(["pdfinfo", "-"], input=browser.base64.b64decode(done["data"]), capture_output=True, check=True).stdout.decode()
        assert "Pages:           1\n" in told, (width, told)
    page.close()


def test_a_report_of_twenty_thousand_components_opens_and_filters(chromium, pages, capsys):
    page = chromium.open(pages["many"])
    painted = page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))")
    assert page.run("document.querySelectorAll('.packages tbody tr').length") >= MANY
    assert page.run("document.querySelectorAll('#inventory details:not([open])').length") >= MANY / 500
    page.run("document.getElementById('filter-inventory').focus()")
    page.type("package-12345")
    assert page.run("new Promise(done => setTimeout(done, 1500)).then(() => true)")
    assert page.run(SHOWN) == ["package-12345"]
    with capsys.disabled():
        size = pages["many"].stat().st_size
        print(f"\n{MANY} packages: {size / 1e6:.1f} MB, loaded in {page.seconds:.2f} s, painted {painted / 1000:.2f} s after navigation")
    page.close()
