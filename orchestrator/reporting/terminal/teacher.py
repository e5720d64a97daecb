"""Show the progress of `teacher`: steps, epochs, and a progress bar for the cache."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from orchestrator.reporting.terminal.lines import print_line


class TeacherDisplay:
    """Listener that displays the training of a teacher and the computation of its cache.

    It shows a progress bar in a terminal, and plain lines elsewhere.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.cached = self.computed = 0

    def __enter__(self) -> "TeacherDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def preparing(self, what: str) -> None:
        """Show a step."""
        self._print(what)

    def note(self, text: str) -> None:
        """Show a note about the run as a whole."""
        self._print(f"note: {text}")

    def teacher_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show an epoch of the training."""
        self._print(f"epoch {epoch}: validation accuracy {metrics['validation/accuracy']:.4f}")

    def teacher_ready(self, words: str) -> None:
        """Show that the teacher is ready."""
        self._print(words)

    def begin(self, views: int, samples: int) -> None:
        """Start the display for `views` views of `samples` samples each."""
        self.views, self.samples = views, samples
        self.jobs: dict[int, int] = {}
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("samples", total=views * samples)
            self.bar.start()

    def progress(self, job: int, views: int, samples: int) -> None:
        """Update the progress of a job.

        Args:
            job: The number of the job.
            views: The number of its complete views.
            samples: The number of complete samples of its next view.
        """
        self.jobs[job] = views * self.samples + samples
        if self.bar:
            self.bar.update(self.task, completed=sum(self.jobs.values()))

    def view_precomputed(
        self, view: int | None, metrics: dict[str, float], notes: list[str]
    ) -> None:
        """Show that a view is in the cache. `view` is None for the clean view."""
        for note in notes:
            self._print(f"note: {note}")
        computed = metrics["cache/misses"] > 0
        self.computed, self.cached = self.computed + computed, self.cached + (not computed)
        if not self.bar:
            name = "the clean view" if view is None else f"view {view}"
            self._print(
                f"{name} {'computed' if computed else 'cached'} "
                f"({self.computed + self.cached} of {self.views})"
            )

    def end(self) -> None:
        """Close the display and print the counts."""
        if self.bar:
            self.bar.stop()
        self._print(f"cache: {self.computed} views computed, {self.cached} were cached")

    def _print(self, text: str) -> None:
        print_line(self.console, text)
