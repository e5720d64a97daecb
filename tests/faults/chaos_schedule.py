"""Draw a schedule of failures from a seed: kind, time, and the wait for recovery."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

SHORTEST_S, LONGEST_S = 0.3, 2.5  # between two failures
OUTAGE_S = (1.0, 4.0)  # of a full disk, an unreachable MLflow, a stopped driver
WAITED_FOR = 0.15  # share of kills after which no failure occurs until an epoch is finished

# name -> beginning of its title, or name of its program
PROCESSES: dict[str, str | tuple[str, ...]] = {
    "worker": "ray::RayTrainWorker",
    "controller": "ray::TrainController",
    "dispatcher": "ray::Dispatcher",
    "Tune process": ("ray::ResourceTrainable", "ray::ProxyTrainable"),
    "influence actor": "ray::InfluenceActor",
    "raylet": "raylet",
    "GCS": "gcs_server",
}
WEIGHTS = {
    "SIGKILL worker": 10,
    "SIGSTOP worker": 3,
    "SIGKILL controller": 6,
    "SIGSTOP controller": 1,
    "SIGKILL dispatcher": 6,
    "SIGSTOP dispatcher": 2,
    "SIGKILL Tune process": 6,
    "SIGSTOP Tune process": 2,
    "SIGKILL influence actor": 6,
    "SIGSTOP influence actor": 3,
    "SIGKILL raylet": 1,
    "SIGSTOP raylet": 0.7,
    "SIGKILL GCS": 0.7,
    "SIGSTOP GCS": 0.7,
    "SIGKILL driver": 2,
    "SIGSTOP driver": 3,
    "SIGTERM driver": 0.7,
    "truncated checkpoint": 5,
    "missing checkpoint": 4,
    "truncated cache view": 5,
    "missing cache view": 4,
    "truncated record": 1,
    "missing record": 1,
    "truncated study": 0.7,
    "missing study": 0.7,
    "full disk": 5,
    "MLflow killed": 2,
    "MLflow stopped": 5,
}
# caused while no driver runs
OFFLINE = ("truncated record", "missing record", "truncated study", "missing study")


@dataclass(frozen=True)
class Failure:
    """One failure.

    Attributes:
        after_s: Seconds since the last failure.
        outage_s: Duration of a failure that ends by itself.
        choice: Random number in [0, 1).
        waits: No other failure occurs until an epoch is finished or the driver has ended.
    """

    seed: int
    number: int
    kind: str
    after_s: float
    outage_s: float
    choice: float
    waits: bool

    @property
    def action(self) -> str:
        """Return SIGKILL, SIGSTOP, SIGTERM, truncated, missing, full or MLflow."""
        return self.kind.partition(" ")[0]

    @property
    def target(self) -> str:
        """Return the target of the action."""
        return self.kind.partition(" ")[2]


def schedule(seed: int, without: frozenset[str] = frozenset()) -> Iterator[Failure]:
    """Yield failures endlessly, the same ones for the same seed, except kinds in `without`."""
    kinds = [kind for kind in WEIGHTS if kind not in without]
    weights = [WEIGHTS[kind] for kind in kinds]
    draw, number = random.Random(seed), 0
    while True:
        number += 1
        kind = draw.choices(kinds, weights)[0]
        after_s, outage_s = draw.uniform(SHORTEST_S, LONGEST_S), draw.uniform(*OUTAGE_S)
        choice, waits = (
            draw.random(),
            draw.random() < WAITED_FOR or kind.startswith(("SIGSTOP", "SIGTERM")),
        )
        yield Failure(seed, number, kind, after_s, outage_s, choice, waits)
