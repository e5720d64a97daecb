"""Define the section `search` of the configuration."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from orchestrator.config.fields import (
    Epochs,
    Names,
    Points,
    Seconds,
    Section,
    Seeds,
    Trials,
    Values,
)
from orchestrator.core.errors import FieldError

Scheduler = Literal["asha", "hyperband", "median", "pbt", "none"]
Limit = Annotated[float, Field(ge=-1e12, le=1e12)]
RANGE_EXAMPLE = "[1, 6], {low: 0.01, high: 0.2, log: true} or {choices: [convex, additive]}"


class SearchRange(Section):
    """Range or choices of a searched parameter; null keeps that of the method's search space."""

    low: Limit | None = Field(None, description="Smallest value.")
    high: Limit | None = Field(None, description="Largest value.")
    log: bool | None = Field(None, description="Draw on a logarithmic scale.")
    step: Annotated[float, Field(gt=0, le=1e30)] | None = Field(
        None, description="Distance of two values; needs low and high."
    )
    choices: Values | None = Field(None, description="Values to choose from, instead of a range.")

    @model_validator(mode="before")
    @classmethod
    def _read_list(cls, value: Any) -> Any:
        """Read a list: two numbers are a range, and anything else is a list of choices."""
        if isinstance(value, list | tuple):
            if len(value) == 2 and all(map(is_number, value)):
                return {"low": value[0], "high": value[1]}
            return {"choices": value}
        if not isinstance(value, dict | SearchRange):
            raise FieldError(
                f"{value!r} is neither a range nor a list of choices: give, for example, "
                f"{RANGE_EXAMPLE}"
            ).with_details(None, value, RANGE_EXAMPLE)
        return value

    @model_validator(mode="after")
    def _check(self) -> "SearchRange":
        values = {name: value for name, value in self if value is not None}
        if not values:
            raise FieldError(f"it is empty: give, for example, {RANGE_EXAMPLE}").with_details(
                None, {}, RANGE_EXAMPLE
            )
        if self.choices is not None:
            self._check_choices(self.choices, [name for name in values if name != "choices"])
        if self.step is not None and (self.low is None or self.high is None or self.log):
            raise FieldError(
                f"step = {self.step:g} is not allowed: give low and high, and no log"
            ).with_details("step", self.step, "with low and high, and without log")
        if self.low is not None and self.high is not None:
            self._check_ends(self.low, self.high)
        if self.log and self.low is not None and self.low <= 0:
            raise FieldError(
                f"low = {self.low:g} is not allowed with log = true: give a number above 0"
            ).with_details("low", self.low, (0, None))
        return self

    def _check_ends(self, low: float, high: float) -> None:
        if low >= high:
            raise FieldError(
                f"low = {low:g} is not allowed: give a number below high = {high:g}"
            ).with_details("low", low, (None, high))
        if self.step is not None and not is_on_grid(high, low, self.step):
            raise FieldError(
                f"high = {high:g} is not allowed: give low = {low:g} plus a multiple of step = "
                f"{self.step:g}"
            ).with_details("high", high, "low plus a multiple of step")

    def _check_choices(self, choices: tuple[Any, ...], range_keys: list[str]) -> None:
        if range_keys:
            raise FieldError(
                f"choices and {range_keys[0]} exclude each other: remove one of them"
            ).with_details("choices", choices, f"without {range_keys[0]}")
        if not choices or len({repr(value) for value in choices}) < len(choices):
            raise FieldError(
                f"choices = {list(choices)} is not allowed: give one or more different values"
            ).with_details("choices", choices, "one or more different values")
        invalid = [value for value in choices if not isinstance(value, str | int | float | None)]
        if invalid:
            raise FieldError(
                f"choices = {invalid[0]!r} is not allowed: give numbers, strings, true, false or "
                f"null"
            ).with_details("choices", invalid[0], "numbers, strings, true, false or null")

    @model_serializer(mode="wrap")
    def _without_null(self, dump: Any) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}

    def allows(self, value: Any) -> bool:
        """Return whether a value lies within the given limits or is one of the choices."""
        if self.choices is not None:
            return value in self.choices
        if not is_number(value):
            return False
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return low <= value <= high and (self.step is None or is_on_grid(value, low, self.step))

    def replace_in(
        self, low: float, high: float, log: bool, step: float | None
    ) -> tuple[float, float, bool, float | None]:
        """Return low, high, log and step of a range after this change of it."""
        return (
            low if self.low is None else self.low,
            high if self.high is None else self.high,
            self.step is None and (log if self.log is None else self.log),
            self.step if self.step is not None else None if self.log else step,
        )

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the choices, or the given ends of the range; a whole number is an int."""
        if self.choices is not None:
            return self.choices
        ends = (end for end in (self.low, self.high) if end is not None)
        return tuple(int(end) if end == int(end) else end for end in ends)


RANGE_KEYS = tuple(SearchRange.model_fields)


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_on_grid(value: float, low: float, step: float) -> bool:
    """Return whether a value is `low` plus a multiple of `step`, up to rounding."""
    steps = (value - low) / step
    return abs(steps - round(steps)) < 1e-8


class Search(Section):
    """Hyperparameter search. Settings given under `method` are frozen and not searched."""

    methods: Names = Field(
        (), description="Methods to search; an empty list searches the one under `method`."
    )
    freeze: Names = Field(
        (),
        description="Keys of the search space that keep their configured value, for example "
        "training.learning_rate.",
    )
    trials: Trials = Field(
        20, description="Number of trials of the sweep; `--trials` overrides it."
    )
    time_budget: Seconds | None = Field(
        None, description="Wall-clock time limit of the search; null sets none."
    )
    scheduler: Scheduler = Field(
        "asha",
        description="Trial scheduler of Ray Tune. asha and median stop weak trials while others "
        "train. hyperband compares the trials of a bracket when all have reached a milestone; a "
        "resume rebuilds the brackets from unfinished trials. pbt copies the weights of strong "
        "trials into weak ones of the same method. none stops no trial.",
    )
    grace_epochs: Epochs = Field(
        2, description="Minimum number of epochs before a trial may be stopped (asha, median)."
    )
    reduction_factor: Annotated[int, Field(ge=2, le=1000)] = Field(
        3, description="One in this many trials continues at each rung (asha, hyperband)."
    )
    keep_checkpoints: Trials = Field(
        5,
        description="Number of best trials whose weights are kept; trials on the Pareto front and "
        "unfinished trials also keep theirs.",
    )
    max_failed_trials: Trials | None = Field(
        5, description="Consecutive failed trials that end the sweep; null sets no limit."
    )
    protect_initial_trials: bool = Field(
        True,
        description="Train the initial trials, which are the baselines, for all epochs (asha, "
        "median).",
    )
    perturb_epochs: Epochs = Field(
        5, description="Number of epochs between two comparisons of the population (pbt)."
    )
    quantile: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.25,
        description="Fraction of worst trials that copy weights from the same fraction of best "
        "trials of their method (pbt).",
    )
    resample_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25,
        description="Probability that a continuous setting is resampled instead of being "
        "multiplied by 0.8 or 1.2 (pbt).",
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="Optuna sampler: tpe (tree-structured Parzen estimator) or random."
    )
    objective: str = Field(
        "validation/accuracy", description="Metric to optimize, by its value after the last epoch."
    )
    direction: Literal["maximize", "minimize"] = Field(
        "maximize", description="Direction of search.objective."
    )
    objectives: Names = Field(
        (),
        description="Two or more metrics to optimize instead of search.objective; the result is "
        "a Pareto front, and the best trial is the best by the first metric.",
    )
    space: dict[str, SearchRange] = Field(
        {},
        description="Changes of the search space by parameter: kd.temperature, temperature for "
        "every method that has it, training.learning_rate. A list of two numbers is a range, [low, "
        "high]. Any other list, or {choices: [...]}, is a list of values. {low, high, log, step} "
        "is a range; what it leaves out stays as in the method's space. A parameter that is not "
        "in the space is added.",
    )
    extra_space: dict[str, Values] = Field(
        {},
        description="Additional configuration keys to search, each with a list of two or more "
        "values, also if these are two numbers; search.space also takes ranges.",
    )
    points: Points = Field(
        (),
        description="Initial trials before those of the methods, each a mapping of parameter "
        "names to values. A parameter that is left out has its default, or the nearest value of "
        "the search space.",
    )
    configurations: Points = Field(
        (),
        description="Explicit list of trials, each a mapping of parameter names to values; if "
        "given, nothing is searched.",
    )
    seeds: Seeds = Field(
        (),
        description="Random seeds; each entry of search.configurations is trained with each seed. "
        "An empty list uses `seed`.",
    )
    students: str = Field(
        "mean",
        description="Aggregation of metrics over the students of a trial: mean, min (the worst "
        "student) or the letter of one student.",
    )

    @field_validator("extra_space", "space", mode="before")
    @classmethod
    def _flatten_keys(cls, value: Any) -> Any:
        """Join nested keys with dots: `--set search.space.kd.temperature=...` nests them."""
        if not isinstance(value, dict):
            return value
        leaves = list(join_keys(value))
        keys = [key for key, _ in leaves]
        if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
            raise FieldError(
                f"{twice!r} is given twice, as a dotted key and in sections: remove one of them"
            ).with_details(None, twice, "once")
        return dict(leaves)


def join_keys(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[Any, Any]]:
    """Yield the dotted keys and values of a mapping of searched keys; a range is one value."""
    for name, value in values.items():
        if isinstance(value, dict) and value and not value.keys() & set(RANGE_KEYS):
            yield from join_keys(value, f"{prefix}{name}.")
        else:
            yield (f"{prefix}{name}" if prefix else name), value
