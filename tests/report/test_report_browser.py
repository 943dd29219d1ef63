"""The report in a real browser, as people use it: offline, by filter and link, by keyboard, without JavaScript."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import records
from browser import Page
from PIL import Image

pytestmark = pytest.mark.slow

Pages = Callable[[str], Path]
NAMES = ("passing", "failing", "crashed", "hostile", "large")
SHOWN = "document.querySelectorAll('.cell:not([hidden])').length"
AXE = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.map(
    rule => [rule.id, rule.help, rule.nodes.slice(0, 3).map(node => node.html.slice(0, 200) + node.failureSummary)]))"""
IDS = "[...document.querySelectorAll('.cell:not([hidden])')].map(e => e.id)"


def clean(page: Page) -> None:
    """No error on the console and nothing asked of the network."""
    assert page.problems == []
    assert page.requests == []


def violations(page: Page, axe: str) -> Any:
    """What axe-core finds wrong in the page, with everything unfolded."""
    page("document.querySelectorAll('details').forEach(e => e.open = true)")
    page(axe + ";0")
    return page(AXE)


def type_filter(page: Page, text: str) -> None:
    """Type into the filter as a person does, then wait until it is applied."""
    page.press("/")
    page.call("Input.insertText", text=text)
    page.wait(f"document.getElementById('p_q').value === {json.dumps(text)}")
    page.wait("location.hash.length > 1")


def at_top(page: Page, selector: str) -> bool:
    """Whether an element stands at the top of the window, below the bar."""
    page("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    top = page(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().top")
    return bool(-2 <= top <= 120)


@pytest.mark.parametrize(
    ("name", "look", "width"),
    [("passing", "light", 1280), ("failing", "light", 1280), ("failing", "dark", 1280), ("failing", "light", 400),
     ("failing", "print", 718), ("crashed", "dark", 400), ("hostile", "light", 1280)],
)  # fmt: skip
def test_pictures_of_it_are_kept_to_be_looked_at(page: Page, pages: Pages, name: str, look: str, width: int) -> None:
    folder = Path(__file__).parents[2] / "reports" / "screenshots"  # git ignores it
    folder.mkdir(parents=True, exist_ok=True)
    page.view(width, theme="dark" if look == "dark" else "light").open(pages(name))
    if look == "print":
        page.call("Emulation.setEmulatedMedia", media="print")
    path = folder / f"{name}-{look}-{width}.png"
    page.screenshot(path, most=6000)
    with Image.open(path) as picture:
        assert width - 20 <= picture.width <= width, "less the scroll bar"
        colours = picture.convert("RGB").quantize(16).getcolors() or []
    assert len(colours) > 4, "not blank"
    assert page("[...document.images].every(e => e.naturalWidth > 0)")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_opens_without_an_error_or_a_request(page: Page, pages: Pages, name: str, theme: str) -> None:
    page.view(theme=theme).open(pages(name))
    page.wait("document.documentElement.dataset.ready")
    record = getattr(records, name)()
    assert page("document.querySelector('h1').innerText.trim().toLowerCase()") == record.verdict
    assert page(SHOWN) == len(record.cells)
    clean(page)


@pytest.mark.parametrize("name", ["failing", "hostile", pytest.param("large", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_never_scrolls_sideways(page: Page, pages: Pages, name: str, width: int) -> None:
    page.view(width).open(pages(name))
    page("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page("document.documentElement.scrollWidth <= innerWidth")
    inner = "getComputedStyle(e).whiteSpace !== 'normal' || e.closest('.scroll, svg, pre, .vh, .skip, .defs, dialog')"
    wide = f"[...document.querySelectorAll('main *')].filter(e => !({inner})"
    wide += " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"
    assert page(wide) == []


def test_hostile_text_runs_nothing_and_adds_no_element(page: Page, pages: Pages) -> None:
    page.open(pages("hostile"))
    assert page("document.querySelectorAll('main script, main style, main iframe, main object').length") == 0
    assert page("[...document.images].every(e => /^data:image\\/(png|jpeg);base64,/.test(e.src))")
    assert page("document.scripts.length") == 1
    assert page("document.querySelector('.blockers').innerText.includes('<script>alert(1)</script>')")
    clean(page)


def test_the_policy_really_forbids_network_and_inline_code(page: Page, pages: Pages) -> None:
    page.open(pages("passing"))
    assert page("fetch('https://example.invalid/').then(() => 'open', () => 'closed')") == "closed"
    page("document.body.insertAdjacentHTML('beforeend', '<p id=z style=\"color:red\" onclick=\"window.z=1\">z</p>')")
    page.click("#z")
    assert page("window.z === undefined || window.z instanceof Element")
    assert page("getComputedStyle(document.getElementById('z')).color") != "rgb(255, 0, 0)"
    assert page.requests == []
    assert any("Content Security Policy" in problem for problem in page.problems)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("state:fail", lambda c: c.state == "fail"),
        ("state:fail,crash", lambda c: c.state in ("fail", "crash")),
        ("-state:pass target:tflite", lambda c: c.state != "pass" and c.target == "tflite"),
        ("model:SKIN precision:int8", lambda c: c.model == "skin" and c.precision == "int8"),
        ("id:onnx-fp16", lambda c: "onnx-fp16" in c.id),
        ("BGR", lambda c: c.id == "skin-tflite-int8"),
        ('"needs macos"', lambda c: c.state == "unavailable"),
        ("frame_084 -state:pass", lambda c: c.id == "hand-onnx-fp16"),
        ("nothing-has-this", lambda c: False),
    ],
)
def test_the_filter_shows_what_it_says(page: Page, pages: Pages, query: str, wanted: Any) -> None:
    page.open(pages("failing"))
    type_filter(page, query)
    cells = records.failing().cells
    expected = {c.id for c in cells if wanted(c)}
    assert set(page(IDS)) == expected
    assert page("document.getElementById('p_shown').textContent") == f"{len(expected)} of {len(cells)} cells"
    slots = "[...document.querySelectorAll('.matrix td a')].filter(e => e.checkVisibility({visibilityProperty: true}))"
    assert {link[1:] for link in page(slots + ".map(e => e.getAttribute('href'))")} == expected
    assert page("document.getElementById('p_none').hidden") == bool(expected)
    again = page("location.hash")
    page.open(pages("failing"), again)
    assert set(page(IDS)) == expected, "the address keeps the filter"
    page.press("Escape")
    assert page(SHOWN) == len(cells)
    assert page("location.hash") == ""
    clean(page)


def test_state_chips_toggle_the_filter(page: Page, pages: Pages) -> None:
    page.open(pages("failing"))
    page.click("[data-q='state:crash']")
    assert page(IDS) == ["hand-tflite-int8"]
    assert page("location.hash") == "#?state:crash"
    page.click("[data-q='state:crash']")
    assert page(SHOWN) == 15
    clean(page)


@pytest.mark.parametrize("name", ["failing", "large"])
def test_deep_links_land_on_their_cell(page: Page, pages: Pages, name: str) -> None:
    last = page.open(pages(name))("[...document.querySelectorAll('.cell')].at(-1).id")
    for anchor in (last, "p_cells", "w_metrics_cosine"):
        page.open(pages(name), f"#{anchor}")
        page.wait("document.documentElement.dataset.ready")
        if anchor != "w_metrics_cosine":
            assert at_top(page, f"#{anchor}")
        assert page(f"document.querySelector('#{anchor}').checkVisibility()")
    clean(page)


def test_a_link_out_of_the_filter_clears_it_and_one_inside_keeps_it(page: Page, pages: Pages) -> None:
    page.open(pages("failing"), "#?state:fail")
    page.click(".matrix a[href='#hand-onnx-fp16']")
    page.wait("location.hash === '#hand-onnx-fp16?state:fail'")
    assert page(SHOWN) == 2
    assert at_top(page, "#hand-onnx-fp16")
    page.click(".blockers a[href='#hand-tflite-int8']")
    page.wait("location.hash === '#hand-tflite-int8'")
    assert page(SHOWN) == 15
    assert at_top(page, "#hand-tflite-int8")
    page.open(pages("failing"), "#hand-onnx-fp16?state:fail")
    assert page(SHOWN) == 2
    assert at_top(page, "#hand-onnx-fp16")


def test_keys(page: Page, pages: Pages) -> None:
    page.open(pages("failing"))
    order = page(IDS)
    held = "document.activeElement.closest('.cell')?.id"
    page.press("j")
    assert page(held) == order[0]
    page.press("j", "j", "k")
    assert page(held) == order[1]
    assert at_top(page, f"#{order[1]}")
    page.press("?")
    assert page("document.getElementById('p_help').open")
    page.press("j")
    page.press("Escape")
    assert not page("document.getElementById('p_help').open")
    assert page(held) == order[1], "keys rest while the help is open"
    page.press("/")
    assert page("document.activeElement.id") == "p_q"
    page.call("Input.insertText", text="state:crash")
    page.press("Enter")
    assert page(held) == "hand-tflite-int8", "Enter goes to the first match"
    page.press("m")
    assert at_top(page, "#p_matrix")
    clean(page)


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_follows_the_system_and_can_be_changed(page: Page, pages: Pages, system: str) -> None:
    page.view(theme=system).open(pages("passing"))
    dark = "getComputedStyle(document.body).backgroundColor === 'rgb(18, 20, 23)'"
    page("localStorage.clear()")
    page.open(pages("passing"))
    assert page(dark) == (system == "dark")
    page.press("t")
    assert not page(dark)
    page.press("t")
    assert page(dark)
    page.open(pages("passing"))
    assert page(dark), "the choice is kept"
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page("getComputedStyle(document.body).color") == "rgb(27, 30, 35)", "paper is light"
    page("localStorage.clear()")


@pytest.mark.parametrize("name", ["failing", "hostile"])
def test_reads_whole_without_javascript(page: Page, pages: Pages, name: str) -> None:
    page.view(js=False).open(pages(name))
    cells = getattr(records, name)().cells
    node = page.call("DOM.getDocument")["root"]["nodeId"]
    found = page.call("DOM.querySelectorAll", nodeId=node, selector=".cell, .matrix td a")["nodeIds"]
    boxes = [page.call("DOM.getBoxModel", nodeId=id)["model"] for id in found]
    assert len(boxes) == 2 * len(cells)
    assert all(box["width"] > 50 and box["height"] > 20 for box in boxes)
    form = page.call("DOM.querySelector", nodeId=node, selector="#p_form")["nodeId"]
    with pytest.raises(AssertionError):
        page.call("DOM.getBoxModel", nodeId=form)
    clean(page)


def test_print_shows_every_cell_and_no_controls(page: Page, pages: Pages) -> None:
    page.open(pages("failing"))
    page.call("Emulation.setEmulatedMedia", media="print")
    assert not page("document.querySelector('.top').checkVisibility()")
    assert page("[...document.querySelectorAll('.cell')].every(e => e.checkVisibility())")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["passing", "failing", "crashed", "hostile"])
def test_axe_finds_no_violation(page: Page, pages: Pages, axe: str, name: str, theme: str) -> None:
    page.view(theme=theme).open(pages(name))
    assert violations(page, axe) == []


@pytest.mark.nightly
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation_in_five_hundred_cells(page: Page, pages: Pages, axe: str, theme: str) -> None:
    page.patience = 900
    page.view(theme=theme).open(pages("large"))
    assert violations(page, axe) == []


def test_axe_finds_no_violation_in_the_help_and_a_filtered_page(page: Page, pages: Pages, axe: str) -> None:
    page.open(pages("failing"), "#?state:fail")
    page.press("?")
    assert violations(page, axe) == []


def test_five_hundred_cells_answer_at_once(page: Page, pages: Pages) -> None:
    page.open(pages("large"))
    page.wait("document.documentElement.dataset.ready")
    took = page("""new Promise(done => {
        const start = performance.now(), box = document.getElementById("p_q");
        box.value = "state:fail hand_0";
        box.dispatchEvent(new Event("input"));
        const look = () => document.getElementById("p_shown").textContent.startsWith("25 of")
            ? done(performance.now() - start) : requestAnimationFrame(look);
        look();
    })""")
    assert page(SHOWN) == 25
    assert took < 1500
    clean(page)
