"""Test a sweep in MLflow's interface: the parent run, its trials, charts and pictures."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.chromium import LONGEST_S, ROUND_S, Chromium, Page, without_assistant
from tests.browser.conftest import NAME
from tests.browser.serving import Interface

pytestmark = pytest.mark.browser
SIZE = (1600, 1000)
DARK = 64  # of 255
BOX = "document.querySelector('{}').getBoundingClientRect()"
OPENER = "button[data-component-id*=runnamecellrenderer]"


@pytest.fixture
def page(browser: Chromium) -> Page:
    return without_assistant(browser.page(SIZE))


def shows(text: str) -> str:
    """Return a JavaScript condition: the text is on the page."""
    return f"document.body.innerText.includes({text!r})"


def drawn(page: Page, element: str) -> bool:
    """Return whether the element's area contains dark pixels."""
    left, top, right, bottom = map(
        int,
        page.evaluate(
            f"(({{left, top, right, bottom}}) => [left, top, right, bottom])({BOX.format(element)})"
        ),
    )
    seen = np.asarray(Image.open(io.BytesIO(page.picture()), formats=("PNG",)).convert("L"))
    return bool(seen[top:bottom, left:right].min() < DARK)


def test_the_parent_holds_its_trials(page: Page, interface: Interface, pictures: Path) -> None:
    page.open(f"{interface.experiment}/runs")
    page.wait(shows("5 matching runs"))
    page.wait(f"document.querySelector('{OPENER}')")
    assert f"{NAME}/000" not in page.text(), "they are within the parent"
    page.evaluate(f"document.querySelector('{OPENER}').click()")
    for run in (NAME, f"{NAME}/000 cross_entropy", f"{NAME}/001 akd"):
        page.wait(shows(run))
    page.keep(pictures / "runs.png")


def test_the_parent_has_a_page(page: Page, interface: Interface, pictures: Path) -> None:
    page.open(f"{interface.experiment}/runs/{interface.runs['parent']}")
    page.wait(shows("Finished"))
    page.wait(shows("Description"))
    page.keep(pictures / "parent.png")


def test_a_trial_has_charts(page: Page, interface: Interface, pictures: Path) -> None:
    page.open(f"{interface.experiment}/runs/{interface.runs['1']}/model-metrics")
    page.wait("document.querySelector('.js-plotly-plot .scatterlayer path.js-line')")
    page.keep(pictures / "charts.png")


def test_a_trial_has_pictures_of_what_happened(
    page: Page, interface: Interface, pictures: Path
) -> None:
    page.open(f"{interface.experiment}/runs/{interface.runs['1']}/artifacts/figures/terms.png")
    page.wait(
        "[...document.images].some(image => image.src.startsWith('blob:') && "
        "image.naturalWidth > 400)"
    )
    page.keep(pictures / "terms.png")


def test_the_parent_describes_the_sweep(page: Page, interface: Interface, pictures: Path) -> None:
    page.open(f"{interface.experiment}/runs/{interface.runs['parent']}")
    page.wait("document.querySelector('table td')")
    page.wait(shows("cross_entropy"))
    page.keep(pictures / "description.png")


def test_the_report_is_an_artifact_of_the_parent(
    page: Page, interface: Interface, reported: Path, pictures: Path
) -> None:
    page.open(
        f"{interface.experiment}/runs/{interface.runs['parent']}/artifacts/report/{reported.name}"
    )
    page.wait("document.querySelector('iframe')")
    deadline = time.monotonic() + LONGEST_S
    while not drawn(page, "iframe"):  # a sandbox that cannot be queried
        assert time.monotonic() < deadline, "the report stays blank"
        page.browser.process_messages(ROUND_S)
    page.keep(pictures / "report_in_mlflow.png")


def test_the_best_student_is_a_version_with_an_alias(
    page: Page, interface: Interface, pictures: Path
) -> None:
    page.open(f"{interface.server}/#/models/pages-{NAME}")
    page.wait(shows("Version 1"))
    page.wait(r"/@\s*best/.test(document.body.innerText)")
    page.keep(pictures / "model.png")


def test_no_request_goes_to_another_machine(page: Page, interface: Interface) -> None:
    page.open(f"{interface.experiment}/runs")
    page.wait(shows("matching runs"))
    assert {address.split("/")[2] for address in page.requests if address.startswith("http")} == {
        interface.server.split("/")[2]
    }
