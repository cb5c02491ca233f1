"""The page in a real browser."""

import pytest

from lstm_jax.inspection.page import page
from tests.inspection import chromium
from tests.inspection.test_page import HOSTILE, report_of

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium.find() is None, reason="there is no Chromium"),
]
TEXT = HOSTILE + 'MAN:\nHe said "no" (twice).\n\n' * 60
COLOURS = "SPANS.map((span) => span.style.backgroundColor).join()"
READOUT = "byId('readout').innerText"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(report_of(TEXT), HOSTILE, {HOSTILE: HOSTILE}))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    shared = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield shared
    shared.close()


@pytest.fixture(params=[(400, False), (1600, True)], ids=["400", "1600 dark"])
def opened(request, browser, path):
    """The page at a phone's width and at a projector's; no error when it is loaded or used."""
    width, dark = request.param
    browser.open(path, width=width, dark=dark)
    yield browser
    assert browser.errors() == []


def test_it_is_readable_at_any_width(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("parseFloat(getComputedStyle(byId('text')).fontSize) >= 14")
    cut = "[...document.querySelectorAll('button, h2, h3, th, .row span')]"
    assert opened.evaluate(f"{cut}.filter((e) => e.scrollWidth > e.clientWidth + 1).length") <= 1
    for part in ("units", "saturation", "norms", "reach", "surprises"):
        assert opened.evaluate(f"byId('{part}').getBoundingClientRect().height") > 60, part


def test_text_is_shown_as_text(opened):
    assert opened.evaluate("document.scripts.length") == 2
    shown = opened.evaluate("byId('text').textContent")
    markup, controls = HOSTILE[: HOSTILE.index("\0")], ("0", "1b", "7f", "85", "202e", "2028")
    visible = markup + "".join(f"\\u{{{point}}}" for point in controls) + "אב"
    assert shown.startswith(visible) and "😀\\u{d}↵\n⇥MAN:" in shown
    assert opened.evaluate("SPANS.length") == len(TEXT)
    assert opened.evaluate("byId('title').textContent.startsWith('</script>')")
    left = "SPANS.slice({0}, {0} + 2).map((s) => s.getBoundingClientRect().left)"
    first, second = opened.evaluate(left.format(TEXT.index("אב")))
    assert first < second  # in the order in which the model reads


def test_another_unit_or_field_is_another_colouring(opened):
    before = opened.evaluate(COLOURS)
    assert "rgb(var(--" in before
    opened.mouse("byId('next')", click=True)
    other = opened.evaluate(COLOURS)
    assert other != before
    opened.mouse("byId('fields').querySelector('[value=f]')", click=True)
    assert opened.evaluate("STATE.field") == "f" and "--open" in opened.evaluate(COLOURS)
    opened.evaluate(
        "byId('layer').value = 1; byId('layer').dispatchEvent(new Event('change')); null"
    )
    assert opened.evaluate("STATE.layer") == 1 and opened.evaluate(COLOURS) != other
    opened.mouse("document.querySelector('#units button')", click=True)
    assert opened.evaluate("document.querySelector('tr.now button').textContent").endswith(
        opened.evaluate("STATE.field")
    )


def test_pointing_at_a_character_shows_its_values(opened):
    opened.mouse("SPANS[90]")
    readout = opened.evaluate(READOUT)
    assert f"91 of {len(TEXT):,}" in readout and "nats" in readout and "memory c" in readout
    assert readout.count("%") == 6  # its own, and five alternatives
    value = opened.evaluate("digits(valueOf(STATE.layer, STATE.unit, 'c', 90), 3)")
    assert value in readout
    opened.mouse("SPANS[95]")
    assert opened.evaluate(READOUT) != readout


def test_all_of_it_works_by_keyboard(opened):
    unit, colours = opened.evaluate("STATE.unit"), opened.evaluate(COLOURS)
    opened.key("n")
    assert opened.evaluate("STATE.unit") != unit
    opened.key("p")
    assert opened.evaluate("STATE.unit") == unit
    opened.key("l")
    assert opened.evaluate("STATE.layer") in (0, 1) and opened.evaluate(COLOURS) != colours
    opened.key("s")
    assert "--nats" in opened.evaluate(COLOURS)
    opened.key("3")
    assert opened.evaluate("STATE.field") == "i"
    feature = opened.evaluate("STATE.feature")
    opened.key("f")
    assert opened.evaluate("STATE.feature") == feature + 1
    opened.evaluate("byId('text').focus(); moveCursor(60)")
    opened.key("ArrowRight")
    assert opened.evaluate("STATE.cursor") == 61
    opened.key("ArrowDown")
    assert opened.evaluate("STATE.cursor") > 61
    opened.key("End")
    assert opened.evaluate("STATE.cursor") == len(TEXT) - 1
    assert opened.evaluate("byId('text').scrollTop") > 0
    stops = "[...document.querySelectorAll('button, select, input, [tabindex]')]"
    assert opened.evaluate(f"{stops}.filter((e) => e.tabIndex >= 0).length") > 10


@pytest.mark.parametrize("cell", ["elman", "mogrifier", "gru"])
def test_a_cell_with_other_fields(browser, tmp_path, cell):
    (tmp_path / "page.html").write_text(page(report_of("abcab" * 9, cell=cell), "", {}))
    browser.open(tmp_path / "page.html")
    assert browser.errors() == []
    wanted = {"elman": "h", "mogrifier": "c h", "gru": "h r z n q"}[cell].split()
    fields = browser.evaluate("[...document.querySelectorAll('#fields input')].map((e) => e.value)")
    assert fields == [*wanted, "surprise"]


def test_the_shortest_text(browser, tmp_path):
    (tmp_path / "page.html").write_text(page(report_of("ab"), "", {}))
    browser.open(tmp_path / "page.html")
    assert browser.errors() == [] and browser.evaluate("SPANS.length") == 2
