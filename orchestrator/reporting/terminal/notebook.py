"""Show text in the output of a notebook cell, and replace it while the cell runs."""

import time
from html import escape
from typing import Any

from rich.text import Text

INTERVAL_S = 0.25  # between two updates


class NotebookFrame:
    """Text in the output of a notebook cell.

    It has the methods of rich's `Live` that a display uses. `Live` itself needs ipywidgets in a
    notebook.
    """

    def __init__(self, text: Text) -> None:
        self.text = text
        self.shown_at = 0.0
        self.handle: Any = None

    def start(self) -> None:
        """Show the text."""
        from IPython.display import display

        self.handle = display(self._content(), raw=True, display_id=True)

    def update(self, text: Text) -> None:
        """Replace the text, at most every `INTERVAL_S` seconds."""
        self.text = text
        if self.handle is not None and time.monotonic() - self.shown_at > INTERVAL_S:
            self._show()

    def stop(self) -> None:
        """Show the last text, which remains."""
        if self.handle is not None:
            self._show()
            self.handle = None

    def _show(self) -> None:
        self.shown_at = time.monotonic()
        self.handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        plain = self.text.plain
        return {"text/plain": plain, "text/html": f"<pre>{escape(plain)}</pre>"}
