"""Which workers find room on which nodes, by arithmetic alone. Knows Ray's names of resources; no torch and no ray."""

from collections.abc import Mapping, Sequence

Resources = Mapping[str, float]
DIGITS = 6  # Ray counts in ten-thousandths; 0.1 + 0.2 is 0.30000000000000004


def has_space(left: Resources, needs: Resources) -> bool:
    """Whether a node that has so much left can hold a worker of these needs, a part of a GPU on one GPU."""
    return _Node(left).take(needs)


def place_workers(bundles: Sequence[Resources], nodes: Sequence[Resources], most: int, held: Sequence[Resources] = ()) -> int:
    """Groups of `bundles` that find room on what the nodes have free, at most `most`; `held` is placed before them.

    One after another, the largest workers first, each on the first node that has room. No worker is split over two nodes, and no
    part of a GPU over two GPUs. What the nodes have of a GPU beyond whole ones is taken for a part of a single one.
    """
    left = [_Node(node) for node in nodes]
    for bundle in _largest_first(held):
        any(node.take(bundle) for node in left)  # one that has no room waits, and takes nothing from the groups
    for number in range(most):
        if not all(any(node.take(bundle) for node in left) for bundle in _largest_first(bundles)):
            return number
    return most


def _largest_first(bundles: Sequence[Resources]) -> list[Resources]:
    return sorted(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), reverse=True)


class _Node:
    """What is left of a node: sums, but of GPUs what is left of each."""

    def __init__(self, resources: Resources) -> None:
        self.left = dict(resources)
        gpus = round(self.left.pop("GPU", 0.0), DIGITS)
        part = round(gpus % 1, DIGITS)
        self.gpus = [part] * bool(part) + [1.0] * int(gpus)

    def take(self, needs: Resources) -> bool:
        """Hold these needs, if there is room. As Ray does, a part of a GPU goes to the fullest one that has room."""
        others = {name: value for name, value in needs.items() if name != "GPU"}
        if any(round(self.left.get(name, 0.0) - value, DIGITS) < 0 for name, value in others.items()):
            return False
        if not self._take_gpus(needs.get("GPU", 0.0)):
            return False
        for name, value in others.items():
            self.left[name] = round(self.left.get(name, 0.0) - value, DIGITS)
        return True

    def _take_gpus(self, need: float) -> bool:
        each, count = (need, 1) if need < 1 else (1.0, int(need))
        fitting = sorted(index for index, free in enumerate(self.gpus) if free >= each)
        fitting.sort(key=lambda index: self.gpus[index])
        if need and len(fitting) < count:
            return False
        for index in fitting[: count if need else 0]:
            self.gpus[index] = round(self.gpus[index] - each, DIGITS)
        return True
