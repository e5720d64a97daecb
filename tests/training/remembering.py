"""Define a method that depends on its bank, its trials, and the expected content of the banks."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from methods import METHODS, Batch, Knowledge, Method, Objective, Output, Settings
from methods.bank_plan import BankPlan
from methods.retrieval import Neighbours
from orchestrator.config.schema import LETTERS
from orchestrator.config.trial import TrialSpec
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.models.build import build

SMALL = (
    "method.name=remembering",
    "data.limit.train=140",
    "data.limit.validation=40",
    "data.limit.test=40",
    "training.batch_size=32",
    "data.augmentation=crop",
    "data.views=2",
    "training.epochs=4",
)
STUDENTS = {
    "own": ("student.name=cnn", "student.width=4", "method.source=own"),
    "peers": (
        "student.name=cnn",
        "student.width=4",
        "method.source=peers",
        "peers.b.network.name=mlp",
        "peers.b.network.width=6",
        "peers.c.network.name=mlp",
        "peers.c.network.width=5",
    ),
}


class RememberingSettings(Settings):
    """Settings of the bank schedule."""

    source: Literal["own", "peers"] = Field("own", description="students of the bank")
    fill: Literal["epoch", "ema", "momentum"] = Field("epoch", description="update rule")
    momentum: float = Field(0.5, description="share of the old entry", ge=0, le=1)
    queue: int = Field(0, description="entries that can be retrieved", ge=0)
    first: int = Field(1, description="first epoch with a bank", ge=1)


class Remembering(Method):
    """Cross entropy, and the squared distance from the bank's logits, features and members.

    An error in any of these changes the loss.
    """

    Settings = RememberingSettings
    settings: RememberingSettings
    bank_updates: ClassVar[list[Knowledge]] = []

    def __init__(self, settings: RememberingSettings) -> None:
        super().__init__(settings)
        self.knowledge: Knowledge | None = None

    updates_alternately = False
    neighbours = None

    @property
    def uses_peers(self) -> bool:
        return self.settings.source == "peers"

    def bank_plan(self, epochs: int) -> BankPlan | None:
        chosen = self.settings
        schedule = (chosen.fill, chosen.momentum, chosen.queue, chosen.first)
        return BankPlan(chosen.source, 0, 0, *schedule)  # type: ignore[arg-type]

    def update_bank(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        Remembering.bank_updates.append(knowledge)

    def forward(self, batch: Batch) -> Objective:
        loss = batch.cross_entropy()
        if self.knowledge is None:
            return Objective(loss, {"remembered": loss.new_zeros(())})
        bank_logits, features, _, members, _ = (
            getattr(self.knowledge, name) for name in self.knowledge.__dataclass_fields__
        )
        target = bank_logits[batch.index] + features[batch.index].mean(dim=1, keepdim=True)
        if members is not None:
            target = target + members[batch.index, None]
        remembered = (batch.student.logits - target).square().mean()
        return Objective(loss + 0.1 * remembered, {"remembered": remembered.detach()})


METHODS_WITH_IT: dict[str, type[Method]] = {**METHODS, "remembering": Remembering}


def clean(spec: TrialSpec) -> Tensor:
    """Return the images (n, C, H, W) of the training part, as networks receive them."""
    dataset, configuration = Dataset.open(spec.data), spec.configuration
    (whole,) = Batches(
        dataset, Views.from_config(dataset, configuration.data, 0), len(dataset.train), 0
    ).iterate_in_order("train")
    return whole.inputs


def network(spec: TrialSpec, letter: str, state: dict[str, Tensor]) -> nn.Module:
    """Return a student with these weights, in eval mode."""
    dataset, chosen = Dataset.open(spec.data), spec.configuration.students[letter].network
    model = build(chosen.name, len(dataset.classes), dataset.shape, chosen.settings)
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def fresh(spec: TrialSpec, states: list[dict[str, Tensor]]) -> list[Output]:
    """Return the students' outputs on the clean training part with these weights."""
    return [network(spec, LETTERS[place], state)(clean(spec)) for place, state in enumerate(states)]


def brute_force(
    features: Tensor,
    labels: Tensor,
    positives: int,
    negatives: int,
    members: Tensor | None,
    queries: Tensor | None = None,
    **_: object,
) -> Neighbours:
    """Return the result of `nearest`, computed slowly by a double loop over samples."""
    classes, able = labels.tolist(), [True] * len(labels) if members is None else members.tolist()
    tables: list[list[list[float]]] = [[], [], [], []]
    for query in range(len(labels)) if queries is None else queries.tolist():
        similarity = torch.cosine_similarity(features[query][None], features, dim=1).tolist()
        order = sorted(range(len(labels)), key=similarity.__getitem__, reverse=True)
        for place, (same, count) in enumerate(((True, positives), (False, negatives))):
            fit = [
                each
                for each in order
                if able[each] and each != query and (classes[each] == classes[query]) == same
            ][:count]
            missing = count - len(fit)
            tables[place].append([*fit, *[-1] * missing])
            tables[place + 2].append([*(similarity[other] for other in fit), *[0.0] * missing])
    found = [torch.tensor(table) for table in tables]
    return Neighbours(found[0].int(), found[1].int(), found[2], found[3])
