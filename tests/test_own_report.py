"""The reports of own data: what they say, and how they work in a real browser."""

import re
import shutil
from pathlib import Path

import pytest

from made_data import make_image_folder
from prunetune.own import page as page_module
from runs import prunetune_here

COUNTS = {"bark": 12, "moss": 10, "sand": 8}
WIDTHS = (420, 1300)
# What a screen reader needs, and what a page that is too wide shows.
FAULTS = """() => {
  const levels = [...document.querySelectorAll("h1,h2,h3,h4,h5,h6")].map((each) => Number(each.localName[1]));
  const named = (selector, name) => [...document.querySelectorAll(selector)].filter((each) => !name(each)).length;
  return {
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    first_headings: levels.filter((level) => level === 1).length - 1,
    jumps: levels.filter((level, place) => place && level > levels[place - 1] + 1).length,
    images: named("img", (each) => each.alt),
    pictures: named("svg:not([aria-hidden])", (each) => each.getAttribute("role") && each.ariaLabel),
    tables: named("table", (each) => each.caption),
    headers: named("th", (each) => each.scope),
    controls: named("select", (each) => each.labels.length),
    links: named("nav a", (each) => document.querySelector(each.getAttribute("href"))),
    broken: named("img", (each) => each.naturalWidth),
  };
}"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return report.html of `prune` and of `advise`, about data with copies, a leak and a file that is left out."""
    folder = tmp_path_factory.mktemp("reports")
    photos = folder / "photos"
    make_image_folder(photos / "train", COUNTS)
    make_image_folder(photos / "test", {"fern": 2})
    shutil.copy(photos / "train" / "bark" / "image_0000.jpg", photos / "train" / "moss" / "again.jpg")
    shutil.copy(photos / "train" / "sand" / "image_0001.jpg", photos / "test" / "fern" / "seen.jpg")
    (photos / "train" / "bark" / "notes.txt").write_text("no image")
    words = [str(photos), "--backbone", "micro", "--store", str(folder / "store")]
    for command, out in (("prune", ("before",)), ("advise", ("advised",)), ("prune", ("after",))):
        keep = ("--keep", "0.3") if command == "prune" else ()
        done = prunetune_here(command, *words, *keep, "--out", str(folder / out[0]))
        assert done.returncode == 0, done.stderr
    return {name: folder / name / "report.html" for name in ("before", "advised", "after")}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, report: Path, width: int):
    """Open a report from its file and return the page, what it asked for, and what it complained about."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    return page, asked, complaints


@pytest.mark.parametrize("name", ["before", "advised", "after"])
def test_a_report_opens_without_a_network_at_both_widths(browser, reports, name):
    for width in WIDTHS:
        page, asked, complaints = opened(browser, reports[name], width)
        assert {key: count for key, count in page.evaluate(FAULTS).items() if count > 0} == {}
        assert complaints == []
        assert [url for url in asked if not url.startswith("data:")] == [reports[name].as_uri()]
        page.close()


def test_the_filter_works_by_keyboard(browser, reports):
    page, _, _ = opened(browser, reports["after"], WIDTHS[0])
    for _ in range(30):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"  # Each place that is reached is seen to be reached.
        if page.evaluate("document.activeElement.id") == "filter":
            break
    assert page.evaluate("document.activeElement.labels[0].textContent") == "Show "
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.value") == "1"
    shown = page.locator("main section[data-class]:visible")
    assert [part.get_attribute("aria-label") for part in shown.all()] == ["moss"]
    assert page.locator("#map ~ svg circle:not(.other)").count() == COUNTS["moss"] + 1
    assert page.get_by_role("status").text_content() == "Other classes are hidden."
    assert page.locator("section[aria-labelledby=leaks] .none").is_visible()
    page.keyboard.press("Home")
    assert page.locator("main section[data-class]:visible").count() == len(COUNTS)
    page.close()


def test_advice_of_an_earlier_call_comes_first_in_the_report(reports):
    before, after = (re.sub(r"\s+", " ", reports[name].read_text()) for name in ("before", "after"))
    assert "What this costs in accuracy was not estimated. Run <code>prunetune advise</code>" in before
    assert re.search(
        r'aria-label="Verdict"> <p><strong>This pruning keeps 30%: expect a loss of [-0-9.]+ points', after
    )
    assert 'id="curve"' in after
    assert 'id="curve"' not in before
    table = re.findall(r'<th scope="row">30%</th>(.*?)</tr>', after)[0]
    assert len(re.findall(r"\[[-0-9.]+, [-0-9.]+\]", table)) == 3  # Each number but the count has its interval.


def test_every_class_is_named_and_those_that_keep_nothing_are_told(reports, tmp_path):
    photos = make_image_folder(tmp_path / "photos", COUNTS)
    words = ["--keep", "2", "--backbone", "micro", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert prunetune_here("prune", str(photos), *words).returncode == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "1 class keeps nothing: sand." in text
    assert all(f"<h3>{name}: " in text for name in COUNTS)


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_told_from_its_background_in_both_colour_schemes():
    style = (Path(page_module.__file__).parent / "page.html.jinja").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style)]
    assert len(schemes) == 2
    for scheme in schemes:
        for text in ("ink", "kept", "dropped", "link"):
            assert min(contrast(scheme[text], scheme[under]) for under in ("paper", "soft")) >= 4.5, (text, scheme)
