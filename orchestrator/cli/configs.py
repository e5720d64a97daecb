"""List the example configurations, or print one."""

from rich.console import Console

from orchestrator.config.examples import list_examples, summarize_example
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.core.program import program_name
from orchestrator.reporting.terminal.lines import print_line


def configs(name: str | None) -> int:
    """Print the examples with their summaries, or the text of one; return the exit code.

    Raises:
        ConfigurationError: There is no example of this name.
    """
    console, examples = Console(), list_examples()
    if name is None:
        width = max(map(len, examples)) + 2
        for each, file in examples.items():
            print_line(console, f"{each:{width}}{summarize_example(file)}")
        print_line(
            console,
            f"use one: {program_name()} sweep --config NAME; copy one: {program_name()} configs "
            "NAME > my.yaml",
        )
        return errors.OK
    example = examples.get(name.removesuffix(".yaml"))
    if example is None:
        raise ConfigurationError(
            f"there is no example {name!r}: {suggest_name(name, examples)}"
        ).with_details("name", name, tuple(examples))
    text = example.read_text(encoding="utf-8")
    print(text.replace("# python run.py ", f"# {program_name()} ", 1), end="")
    return errors.OK
