"""Make the two pictures of the README with headless Chromium: `python -m scripts.pictures`.

The script runs a real sweep over three methods on the digits (two minutes on two cores), writes its
report, and opens MLflow on it. `--store S --name N` uses an existing sweep.
"""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser.chromium import Chromium, Page, without_assistant
from tests.browser.serving import Interface, ran, serving

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
NAME = "digits"
SWEEP = ("--trials", "30", "--set", "training.epochs=15")
# size and selectors of the report's panels, side by side
PANEL, PANELS = (820, 1180), ("body", "#curves", "#student")
HEIGHT = 760  # of the report's picture, in pixels
WIDE = (1400, 800)
LARGEST = 300_000  # bytes
OPENER = "button[data-component-id*=runnamecellrenderer]"
CHARTS = "input[placeholder='Search metric charts']"
CURVES = (
    "[...document.querySelectorAll('.js-plotly-plot')].filter(chart => "
    "chart.querySelector('.scatterlayer path.js-line')).length"
)


def main() -> None:
    """Write both pictures."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--store", type=Path, help="of a sweep that is there; default: a new one")
    given.add_argument("--name", default=NAME, help="of the sweep")
    words = given.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = words.store.resolve() if words.store else Path(folder) / "runs"
        if not words.store:
            ran("sweep", "--name", words.name, *SWEEP, store=store)
        ran("report", words.name, store=store)
        with Chromium() as browser, serving(store, words.name) as interface:
            keep(report(browser, store / "reports" / f"{words.name}.html"), FOLDER / "report.png")
            keep(
                mlflow(without_assistant(browser.page(WIDE)), interface, words.name),
                FOLDER / "mlflow.png",
            )


def report(browser: Chromium, file: Path) -> Image.Image:
    """Return three parts of the page side by side: top, learning curves, best student."""
    whole = Image.new("RGB", (PANEL[0] * len(PANELS), PANEL[1]), "white")
    for place, part in enumerate(PANELS):
        page = browser.page(PANEL)
        page.open(file.as_uri())
        page.evaluate(f"document.querySelector('{part}').scrollIntoView()")
        whole.paste(seen(page), (place * PANEL[0], 0))
    return whole.resize((whole.width * HEIGHT // whole.height, HEIGHT), Image.Resampling.LANCZOS)


def mlflow(page: Page, interface: Interface, name: str) -> Image.Image:
    """Return the picture of the sweep with its trials and their curves."""
    page.open(f"{interface.experiment}/runs?compareRunsMode=CHART")
    page.wait(f"document.querySelector('{OPENER}')")
    page.evaluate(f"document.querySelector('{OPENER}').click()")
    page.wait(f"document.body.innerText.includes('{name}/0')")
    page.wait(f'document.querySelector("{CHARTS}")')
    page.evaluate(f'document.querySelector("{CHARTS}").focus()')
    page.call("Input.insertText", text="^validation/(accuracy|nll)$")
    page.evaluate(
        "document.head.append(Object.assign(document.createElement('style'), {textContent: "
        "'.modebar { display: none }'}))"
    )
    page.wait(f"{CURVES} >= 2")
    return seen(page)


def seen(page: Page) -> Image.Image:
    """Return the picture of the page after it has been drawn."""
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    return Image.open(io.BytesIO(page.picture()), formats=("PNG",)).convert("RGB")


def keep(picture: Image.Image, file: Path) -> None:
    """Write a PNG of 256 colours.

    Raises:
        AssertionError: The file is too large for a README.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file}: {picture.width} x {picture.height}, {size / 1000:.0f} kB")
    assert size < LARGEST, "make it smaller"


if __name__ == "__main__":
    main()
