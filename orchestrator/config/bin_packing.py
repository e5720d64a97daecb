"""Place the workers of groups on nodes by their resources."""

from collections.abc import Mapping, Sequence

Resources = Mapping[str, float]
DIGITS = 6  # Ray counts in ten-thousandths; 0.1 + 0.2 is 0.30000000000000004


def has_space(remaining: Resources, needs: Resources) -> bool:
    """Return whether a worker fits a node.

    Args:
        remaining: The free resources of the node, under Ray's names.
        needs: The resources of the worker; a fraction of a GPU must fit one GPU.
    """
    return _Node(remaining).take(needs)


def count_fitting_groups(
    bundles: Sequence[Resources],
    nodes: Sequence[Resources],
    most: int,
    held: Sequence[Resources] = (),
) -> int:
    """Return the number of groups that fit the free resources of the nodes.

    Groups are placed in sequence (first fit decreasing): the largest workers first, each on the
    first node with space. No worker is split over two nodes, and no fraction of a GPU over two
    GPUs. A node's free GPUs beyond whole ones are treated as a fraction of a single GPU.

    Args:
        bundles: The resources of each worker of a group, under Ray's names.
        nodes: The free resources of each node.
        most: The largest number of groups.
        held: Workers that are placed before the groups.
    """
    remaining = [_Node(node) for node in nodes]
    for bundle in _largest_first(held):
        # A worker that does not fit waits, and takes no resources from the groups.
        any(node.take(bundle) for node in remaining)
    for number in range(most):
        if not all(
            any(node.take(bundle) for node in remaining) for bundle in _largest_first(bundles)
        ):
            return number
    return most


def _largest_first(bundles: Sequence[Resources]) -> list[Resources]:
    return sorted(
        bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), reverse=True
    )


class _Node:
    """Free resources of a node: sums, but for GPUs the free fraction of each."""

    def __init__(self, resources: Resources) -> None:
        self.remaining = dict(resources)
        gpus = round(self.remaining.pop("GPU", 0.0), DIGITS)
        part = round(gpus % 1, DIGITS)
        self.gpus = [part] * bool(part) + [1.0] * int(gpus)

    def take(self, needs: Resources) -> bool:
        """Reserve resources if they fit; return whether they do.

        As in Ray, a fraction of a GPU goes to the fullest GPU that has space.
        """
        non_gpu = {name: value for name, value in needs.items() if name != "GPU"}
        if any(
            round(self.remaining.get(name, 0.0) - value, DIGITS) < 0
            for name, value in non_gpu.items()
        ):
            return False
        if not self._take_gpus(needs.get("GPU", 0.0)):
            return False
        for name, value in non_gpu.items():
            self.remaining[name] = round(self.remaining.get(name, 0.0) - value, DIGITS)
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
