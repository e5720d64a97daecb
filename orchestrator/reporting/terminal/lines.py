"""Print lines of plain text."""

from rich.console import Console


def print_line(console: Console, text: str) -> None:
    """Print a text as it is: without markup, colours and added line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
