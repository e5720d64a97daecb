"""List published top-1 accuracies with their source, protocol and marks.

A cell is `accuracy`, `accuracy±deviation` (standard deviation over the runs), or `-` if the source
has no number. Marks follow the number: `?` not verified in the source itself, `*` another protocol
than the other rows, a letter a note of `NOTES`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

Chosen = Literal["last epoch", "best test epoch", "not stated"]
ONE_VIEW = "1 per epoch: crop and flip"
TWO_VIEWS = "2 per epoch: weak and strong"


class Source(NamedTuple):
    """Publication of one or more rows, and how it trained and chose the reported epoch.

    Attributes:
        protocol: The training recipe.
        epochs: Number of epochs; None if the source does not state it.
        views: Augmented versions of each image.
        chosen: The epoch whose test accuracy is reported.
        source: The document that contains the numbers.
    """

    protocol: str
    epochs: int | None
    views: str
    chosen: Chosen
    source: str


@dataclass(frozen=True)
class PublishedAccuracy:
    """Published top-1 accuracy of one method for one pair of networks.

    Attributes:
        accuracy: In per cent.
        deviation: Standard deviation over the runs, in per cent; None if the source has none.
        protocol: The training recipe of the source.
        epochs: Number of epochs; None if the source does not state it.
        views: Augmented versions of each image.
        chosen: The epoch whose test accuracy is reported.
        source: The document that contains the number.
        verified: Whether the number was read in that document.
        comparable: Whether the protocol is that of the other rows.
        note: A remark on the number.
    """

    accuracy: float
    deviation: float | None
    protocol: str
    epochs: int | None
    views: str
    chosen: Chosen
    source: str
    verified: bool = True
    comparable: bool = True
    note: str = ""

    @property
    def text(self) -> str:
        """Return the number with its deviation and its marks, such as `71.92 ± 0.40` or `74.84 ?`.

        The mark ? means not verified, * another protocol.
        """
        deviation = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        marks = ("" if self.verified else " ?") + ("" if self.comparable else " *")
        return f"{self.accuracy:.2f}{deviation}{marks}"


@dataclass(frozen=True)
class Published:
    """Published results for one data set and one pair of networks.

    Attributes:
        data: The data set.
        teacher: The network of the teacher.
        student: The network of the student.
        teacher_accuracy: The teacher's top-1 accuracy, in per cent.
        accuracies: Results by method; `kd+standardize` is kd with `standardize: true`.
    """

    data: str
    teacher: str
    student: str
    teacher_accuracy: float
    accuracies: dict[str, PublishedAccuracy]


STANDARDIZED = "+standardize"
RECIPE = "SGD 0.05 (0.01: MobileNetV2, ShuffleNets), batch 64, x 0.1 after 150, 180, 210"
REPDISTILLER = Source(
    *(RECIPE, 240, ONE_VIEW, "last epoch"),
    "README of HobbitLong/RepDistiller; deviations: arXiv 2402.11148, Tables 11 and 12",
)
TTM = Source(
    *(RECIPE, 240, ONE_VIEW, "not stated"),
    "README of zkxufo/TTM; arXiv 2402.11148, Tables 11 and 12",
)
MDISTILLER = Source(
    RECIPE, 240, ONE_VIEW, "best test epoch", "README of megvii-research/mdistiller (DKD)"
)
LSKD = Source(
    RECIPE, 240, ONE_VIEW, "best test epoch", "README of sunshangquan/logit-standardization-KD"
)
REVIEWKD = Source(
    "SGD 0.1 (0.02: MobileNetV2, ShuffleNets) with Nesterov, batch 128, x 0.1 after 150, 180, 210",
    *(240, ONE_VIEW, "not stated"),
    "README of DevPranjal/reproduction-review-kd (numbers of arXiv 2104.09044)",
)
SOURCES: dict[str, Source] = {
    "cross_entropy": REPDISTILLER,
    "kd": REPDISTILLER,
    "fitnet": REPDISTILLER._replace(source="README of HobbitLong/RepDistiller"),
    "attention_transfer": REPDISTILLER._replace(source="README of HobbitLong/RepDistiller"),
    "crd": REPDISTILLER,
    "dist": TTM,
    "dkd": MDISTILLER,
    "review_kd": REVIEWKD,
    "mlkd": LSKD._replace(
        views=TWO_VIEWS,
        protocol="SGD 0.025 (other rates for pairs of different families), batch 64, x 0.1 after "
        "150, 180, 210; two passes of both networks",
    ),
    "kd+standardize": LSKD,
    "dkd+standardize": LSKD,
    "ttm": TTM,
    "wttm": TTM,
}
# epochs of MLKD for pairs of different families; 240 for all others
LONGER = {
    **dict.fromkeys((("vgg13", "mobilenet_v2_half"), ("resnet50", "mobilenet_v2_half")), 480),
    ("resnet32x4", "shuffle_v2"): 960,
}
NOTES = {
    "a": "the README of hunto/DIST_KD has 74.43 ± 0.24",
    "b": "only in the README of sunshangquan/logit-standardization-KD",
    "c": "the README of megvii-research/mdistiller has 76.23",
    "d": "in the READMEs of zkxufo/TTM and sunshangquan/logit-standardization-KD, for "
    "ResNet-32x4 and ShuffleNetV2; mdistiller's README names the student MobileNet-V2",
    "e": "from the README of KD++",
}
# The first two lines are the networks of teacher and student; then the teacher's accuracy.
SAME_FAMILY = """
teacher            wrn_40_2   wrn_40_2   resnet56   resnet110  resnet110  resnet32x4 vgg13
student            wrn_16_2   wrn_40_1   resnet20   resnet20   resnet32   resnet8x4  vgg8
accuracy           75.61      75.61      72.34      74.31      74.31      79.42      74.64
cross_entropy      73.26      71.98      69.06      69.06      71.14      72.50      70.36
kd                 74.92±.28  73.54±.20  70.66±.24  70.67±.27  73.08±.18  73.33±.25  72.98±.19
fitnet             73.58      72.24      69.21      68.99      71.06      73.50      71.02
attention_transfer 74.08      72.77      70.55      70.22      72.31      73.44      71.43
crd                75.48±.09  74.14±.22  71.16±.17  71.46±.09  73.48±.13  75.51±.18  73.94±.22
dist               75.51±.04  74.73±.24a 71.75±.30  71.65±.21  73.69±.23  76.31±.19  73.89±.19
dkd                76.24c     74.81      71.97      71.06b     74.11      76.32      74.68
review_kd          76.12      75.09      71.89      -          73.89      75.63      74.84?
mlkd               76.63*     75.35*     72.19*     71.89*     74.11*     77.08*     75.18*
kd+standardize     76.11      74.37      71.43      71.48      74.17      76.62      74.36
dkd+standardize    76.39      74.89      72.32      71.85      74.29      77.01      74.81
ttm                76.23±.15  74.32±.31  71.83±.16  71.46±.16  73.97±.23  76.17±.28  74.33±.07
wttm               76.37±.10  74.58±.26  71.92±.40  71.67±.28  74.13±.37  76.06±.27  74.44±.19
"""
# A known slip: KD++ prints 67.65 for kd, ResNet-50 -> MobileNetV2; RepDistiller has 67.35.
DIFFERENT_FAMILIES = """
teacher            vgg13             resnet50          resnet50    resnet32x4 resnet32x4 wrn_40_2
student            mobilenet_v2_half mobilenet_v2_half vgg8        shuffle_v1 shuffle_v2 shuffle_v1
accuracy           74.64             79.34             79.34       79.42      79.42      75.61
cross_entropy      64.60             64.60             70.36       70.50      71.82      70.50
kd                 67.37±.32         67.35±.32         73.81±.13   74.07±.19  74.45±.27  74.83±.17
fitnet             64.14             63.16             70.69       73.59      73.54      73.73
attention_transfer 59.40             58.58             71.84       71.73      72.73      73.32
crd                69.73±.42         69.11±.28         74.30±.14   75.11±.32  75.65±.10  76.05±.14
dist               68.50±.26         68.66±.23         74.11±.07   76.34±.18  77.35±.25  76.40±.03
dkd                69.71             70.35             -           76.45      77.07d     76.70
review_kd          70.37?            69.89e            -           77.45      77.78      77.14
mlkd               70.57*            71.04*            -           -          78.44*     -
kd+standardize     68.61             69.02             -           -          75.56      -
dkd+standardize    69.98             70.45             -           -          77.37      -
ttm                68.98±.85         69.24±.28         74.87±.31   74.18±.26  76.57±.26  75.39±.33
wttm               69.16±.20         69.59±.58         74.82±.28   74.37±.39  76.55±.08  75.42±.34
"""
WTTM_IMAGENET = Source(
    *("standard settings of torchdistill", None, "not stated", "not stated"),
    "arXiv 2402.11148, Table 5, and the README of zkxufo/TTM",
)
WTTM_DEIT = Source(
    *("settings of yzd-v/cls_KD", None, "not stated", "not stated"),
    "arXiv 2402.11148 and the README of zkxufo/TTM",
)
IMAGENET = """
teacher            resnet34   resnet50     deit3_small
student            resnet18   mobilenet_v1 deit_tiny
accuracy           73.31      76.16        82.76
cross_entropy      69.76      68.87        74.42
kd                 70.66      70.50        76.01
crd                71.17      71.37        -
review_kd          71.61      72.56        -
dkd                71.70      72.05        -
dist               72.07      73.24        -
wttm               72.19      73.09        77.03
"""
_CELL = re.compile(r"(\d+\.\d+)(?:±(\.\d+))?([?*]*)([a-z]?)")


def name_published(method: str, settings: Mapping[str, Any]) -> str:
    """Return the name of the published row of a method with its settings.

    Args:
        method: The method.
        settings: Its settings, of which `standardize` alone has rows of its own.
    """
    return f"{method}{STANDARDIZED}" if settings.get("standardize") else method


@cache
def list_published() -> tuple[Published, ...]:
    """Return all published results, pair by pair: CIFAR-100, then ImageNet."""
    return (
        *_read("CIFAR100", SAME_FAMILY),
        *_read("CIFAR100", DIFFERENT_FAMILIES),
        *_read("ImageNet", IMAGENET),
    )


def _read(data: str, text: str) -> list[Published]:
    rows = [line.split() for line in text.strip().splitlines()]
    (_, *teachers), (_, *students), (_, *reached), *methods = rows
    return [
        Published(
            *(data, teacher, student, float(accuracy)),
            {
                method: _accuracy(cells[column], _source(data, method, teacher, student))
                for method, *cells in methods
                if cells[column] != "-"
            },
        )
        for column, (teacher, student, accuracy) in enumerate(
            zip(teachers, students, reached, strict=True)
        )
    ]


def _source(data: str, method: str, teacher: str, student: str) -> Source:
    if data == "ImageNet":
        return WTTM_DEIT if student == "deit_tiny" else WTTM_IMAGENET
    source = SOURCES[method]
    longer = LONGER.get((teacher, student)) if method == "mlkd" else None
    return source._replace(epochs=longer) if longer else source


def _accuracy(cell: str, source: Source) -> PublishedAccuracy:
    match = _CELL.fullmatch(cell)
    assert match, cell
    accuracy, deviation, marks, note = match.groups()
    return PublishedAccuracy(
        *(float(accuracy), float(deviation) if deviation else None, *source),
        *("?" not in marks, "*" not in marks, NOTES.get(note, "")),
    )
