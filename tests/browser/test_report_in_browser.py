"""Test the report in a browser without network: complete, on a phone, dark and printed."""

import base64
from pathlib import Path

import pytest

from tests.browser.chromium import SIZE, Chromium, Page

pytestmark = pytest.mark.browser
PHONE = (390, 844)
TALL = (1200, 2000)
LUMINANCE = """(name => {
    const parts = getComputedStyle(document.body)[name].match(/[0-9.]+/g).slice(0, 3).map(Number);
    const linear = parts.map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
})"""  # of WCAG 2


def opened(
    browser: Chromium, report: Path, size: tuple[int, int] = SIZE, dark: bool = False
) -> Page:
    page = browser.page(size, dark=dark, online=False)
    page.open(report.as_uri())
    return page


def fits(page: Page) -> bool:
    """Return whether the page fits the window's width."""
    return bool(
        page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    )


def test_it_is_whole_without_a_network_and_without_an_error(
    browser: Chromium, reported: Path, pictures: Path
) -> None:
    page = opened(browser, reported, TALL)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.errors == []
    assert {address for address in page.requests if not address.startswith("data:")} == {
        reported.as_uri()
    }
    assert page.evaluate("document.images.length") >= 1 and page.evaluate(
        "[...document.images].every(image => image.naturalWidth > 0)"
    )
    assert (
        page.evaluate(
            "[...document.querySelectorAll('figure svg')].filter(chart => "
            "chart.getBoundingClientRect().height > 50).length"
        )
        >= 5
    )
    broken = (
        "[...document.querySelectorAll('nav a')].filter(link => "
        "!document.querySelector(link.getAttribute('href'))).length"
    )
    assert (
        page.evaluate("document.querySelectorAll('nav a').length") >= 5
        and page.evaluate(broken) == 0
    )
    page.keep(pictures / "report.png", whole=True)


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_read_in_light_and_in_dark(
    browser: Chromium, reported: Path, pictures: Path, dark: bool
) -> None:
    page = opened(browser, reported, dark=dark)
    ground, ink = (
        page.evaluate(f"{LUMINANCE}('backgroundColor')"),
        page.evaluate(f"{LUMINANCE}('color')"),
    )
    assert (ground < ink) is dark
    assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 7
    page.keep(pictures / f"report_{'dark' if dark else 'light'}.png")


def test_it_fits_a_phone(browser: Chromium, reported: Path, pictures: Path) -> None:
    page = opened(browser, reported, PHONE)
    assert fits(page)
    page.keep(pictures / "report_phone.png", whole=True)


def test_it_is_printed(browser: Chromium, reported: Path, pictures: Path) -> None:
    page = opened(browser, reported, (703, 1046))  # A4 less its margins, at 96 pixels an inch
    page.call("Emulation.setEmulatedMedia", media="print")
    assert fits(page)
    printed = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") >= 2
    (pictures / "report.pdf").write_bytes(printed)
