"""Test whole networks as influence problems, and Kronecker factors, by per-sample gradients."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import influence
from methods.influence_network import WholeNetwork
from methods.kfac import compute_factors, factor_bytes, kfac
from methods.kronecker import Kronecker
from methods.sample_weighting import Part, SurveyedNetwork
from methods.tempered_objective import Losses, Term

SAMPLES, HELD_OUT, CLASSES = 12, 7, 3
DAMPING = 1e-2


def blocks(inputs: Tensor, size: int) -> Callable[[], Iterator[Tensor]]:
    return lambda: iter(inputs.split(size))  # type: ignore[no-untyped-call]


def surveyed(
    network: nn.Module, training: Tensor, held_out: Tensor, size: int = 5
) -> SurveyedNetwork:
    network.double().eval()

    def logits(parameters: object, inputs: Tensor) -> Tensor:
        found = torch.func.functional_call(network, parameters, (inputs,))  # type: ignore[arg-type]
        assert isinstance(found, Tensor)
        return found

    return SurveyedNetwork(
        dict(network.named_parameters()), logits, blocks(training, size), blocks(held_out, size)
    )


def convolutional() -> nn.Sequential:
    """Return a network with every supported kind of layer, an unsupported and an in-place one."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 2, padding="same", groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 9, CLASSES),
    )
    statistics = network[1]
    assert isinstance(statistics, nn.BatchNorm2d)
    statistics.running_mean, statistics.running_var = (
        torch.randn(4).double(),
        torch.rand(4).double() + 0.5,
    )
    return network


def problem_of(network: nn.Module, hessian: bool = False, size: int = 5) -> WholeNetwork:
    torch.manual_seed(1)
    training, held_out = (
        torch.randn(SAMPLES, 2, 5, 5).double(),
        torch.randn(HELD_OUT, 2, 5, 5).double(),
    )
    hard = functional.one_hot(torch.randint(CLASSES, (SAMPLES,)), CLASSES).double()
    soft = torch.randn(SAMPLES, CLASSES).double().softmax(1)
    terms = [
        Term(torch.rand(SAMPLES).double(), 1.0, hard),
        Term(torch.rand(SAMPLES).double(), 2.0, soft),
    ]
    labels = torch.randint(CLASSES, (HELD_OUT,))
    labels[2] = -1
    survey = surveyed(network, training, held_out, size)
    return WholeNetwork(survey, Losses(terms), labels, 2 * torch.rand(SAMPLES).double(), hessian)


def everything(problem: WholeNetwork) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the parameters as one vector, and the logits (n, K) as a function of it."""
    inputs = torch.cat(list(problem.network.training()))
    return problem.to_vector(problem.parameters), lambda vector: problem.network.logits(
        problem.to_tensors(vector), inputs
    )


pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@pytest.fixture(scope="module", params=[5, 100], ids=["blocks", "whole"])
def problem(request: pytest.FixtureRequest) -> WholeNetwork:
    return problem_of(convolutional(), size=request.param)


def test_the_gauss_newton_product_is_that_of_the_jacobian(problem: WholeNetwork) -> None:
    at, logits = everything(problem)
    jacobian = torch.func.jacrev(logits)(at)
    each = [
        torch.func.hessian(lambda z, row=row: one_loss(problem, z, row))(logits(at)[row])
        for row in range(SAMPLES)
    ]
    curvature = torch.stack(each)
    expected = (
        torch.einsum("n,nkp,nkl,nlq->pq", problem.weights, jacobian, curvature, jacobian) / SAMPLES
    )
    vector = torch.randn(problem.size).double()
    torch.testing.assert_close(problem.product(vector), expected @ vector)


def one_loss(problem: WholeNetwork, logits: Tensor, row: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for term in problem.losses.terms:
        log_q = (logits / term.temperature).log_softmax(0)
        total = total - term.weight[row] * term.temperature**2 * (term.targets[row] * log_q).sum()
    return total


def test_the_hessian_product_is_that_of_the_hessian() -> None:
    torch.manual_seed(0)
    found = problem_of(
        nn.Sequential(nn.Flatten(), nn.Linear(50, 4), nn.Tanh(), nn.Linear(4, CLASSES)),
        hessian=True,
    )
    at, logits = everything(found)

    def objective(vector: Tensor) -> Tensor:
        each = [one_loss(found, of_one, row) for row, of_one in enumerate(logits(vector))]
        return (found.weights * torch.stack(each)).mean()

    vector = torch.randn(found.size).double()
    hessian = torch.func.hessian(objective)(at)
    torch.testing.assert_close(found.product(vector), hessian @ vector)
    assert torch.linalg.eigvalsh(hessian).min() < -1e-6  # Gauss-Newton would be wrong


def test_along_is_the_product_with_every_samples_gradient(problem: WholeNetwork) -> None:
    at, logits = everything(problem)
    vector = torch.randn(problem.size).double()
    expected = [
        torch.func.grad(lambda of, row=row: one_loss(problem, logits(of)[row], row))(at) @ vector
        for row in range(SAMPLES)
    ]
    torch.testing.assert_close(problem.directional_derivatives(vector), torch.stack(expected))


def test_the_held_out_gradient_is_of_the_labelled(problem: WholeNetwork) -> None:
    inputs = torch.cat(list(problem.network.held_out()))

    def loss(vector: Tensor) -> Tensor:
        return functional.cross_entropy(
            problem.network.logits(problem.to_tensors(vector), inputs),
            problem.labels,
            ignore_index=-1,
        )

    torch.testing.assert_close(
        problem.held_out_gradient(), torch.func.grad(loss)(problem.to_vector(problem.parameters))
    )


def test_a_network_of_one_layer_is_its_last_layer() -> None:
    torch.manual_seed(0)
    whole = problem_of(nn.Sequential(nn.Flatten(), nn.Linear(50, CLASSES)))
    at, logits = everything(whole)
    training, held_out = (
        torch.cat(list(of())).flatten(1) for of in (whole.network.training, whole.network.held_out)
    )
    outside = whole.network.logits(whole.parameters, held_out.view(-1, 2, 5, 5)).detach()
    part = Part(logits(at).detach(), training, torch.full((SAMPLES,), -1))
    layer = influence.LastLayer(
        part, whole.losses, Part(outside, held_out, whole.labels), whole.weights, 1 << 20
    )
    expected = influence.scores(layer, influence.exact, DAMPING).phi
    torch.testing.assert_close(influence.scores(whole, influence.exact, DAMPING).phi, expected)
    torch.testing.assert_close(
        influence.scores(whole, influence.cg, DAMPING, tolerance=1e-12).phi, expected
    )


def test_the_direction_of_kfac_is_the_inverse_of_its_factors(problem: WholeNetwork) -> None:
    gradient, factors = problem.held_out_gradient(), compute_factors(problem, 0)
    wanted, found = (
        problem.to_tensors(gradient),
        problem.to_tensors(kfac(problem, gradient, DAMPING).direction),
    )
    assert list(factors) == ["0.weight", "3.weight", "6.weight"]
    for name, layer in factors.items():
        groups = layer.inputs.shape[0]
        for group in range(groups):
            rows = slice(group * layer.outputs.shape[1], (group + 1) * layer.outputs.shape[1])
            given, solved = wanted[name][rows].flatten(1), found[name][rows].flatten(1)
            if layer.bias:
                given, solved = (
                    torch.cat([tensor, of[layer.bias][rows, None]], dim=1)
                    for tensor, of in ((given, wanted), (solved, found))
                )
            matrix = torch.kron(layer.outputs[group], layer.inputs[group]) / SAMPLES**2
            system = matrix + DAMPING * torch.eye(len(matrix), dtype=torch.float64)
            torch.testing.assert_close(
                solved.flatten(), torch.linalg.solve(system, given.flatten())
            )
    assert not found["1.weight"].any()
    assert not found["1.bias"].any()


def test_the_factors_of_convolutions_are_those_of_patches_and_slopes() -> None:
    """With one place per sample a layer's gradient is slope (x) patch, so it gives the factors."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 5, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(4, CLASSES)
    )
    found = problem_of(network)
    layer = compute_factors(found, 3)["0.weight"]
    inputs = torch.cat(list(found.network.training()))
    patches = functional.pad(
        inputs.flatten(2), (0, 1), value=1.0
    )  # (n, 2, 26): a group has one channel
    torch.testing.assert_close(layer.inputs, torch.einsum("ngi,ngj->gij", patches, patches))
    generator = torch.Generator().manual_seed(3)
    expected = torch.zeros(2, 2, 2).double()
    at, logits = everything(found)
    for first in range(0, SAMPLES, 5):
        rows = slice(first, min(first + 5, SAMPLES))
        drawn = found.losses.drawn_gradients(logits(at)[rows].detach(), rows, generator)
        for row, slope in zip(
            range(rows.start, rows.stop), drawn * found.weights[rows, None].sqrt(), strict=True
        ):
            of_bias = found.to_tensors(
                torch.func.grad(lambda of, row=row, slope=slope: logits(of)[row] @ slope)(at)
            )["0.bias"]
            expected += torch.einsum("gi,gj->gij", of_bias.view(2, 2), of_bias.view(2, 2))
    torch.testing.assert_close(layer.outputs, expected)


def test_the_factors_over_places_are_the_sum_of_inputs_and_the_mean_of_slopes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )
    found = problem_of(network, size=SAMPLES)
    layer = compute_factors(found, 3)["0.weight"]
    inputs = torch.cat(list(found.network.training())).flatten(2)  # (n, 2, 25)
    kernel, last = found.parameters["0.weight"].flatten(1), found.parameters["4.weight"]
    active = (kernel @ inputs + found.parameters["0.bias"][:, None] > 0).double()
    logits = found.network.logits(found.parameters, inputs.view(SAMPLES, 2, 5, 5))
    drawn = found.losses.drawn_gradients(
        logits, slice(0, SAMPLES), torch.Generator().manual_seed(3)
    )
    slopes = (drawn * found.weights[:, None].sqrt() @ last)[:, :, None] * active / 25
    torch.testing.assert_close(layer.outputs[0], torch.einsum("nit,njt->ij", slopes, slopes) / 25)
    with_one = functional.pad(inputs, (0, 0, 0, 1), value=1.0)
    torch.testing.assert_close(layer.inputs[0], torch.einsum("nit,njt->ij", with_one, with_one))


def test_patches_give_the_gradient_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel's gradient is the sum of slope (x) patch over positions, for any block size."""
    from methods import kfac as module

    found, whole = problem_of(convolutional()), {}
    for limit in (1, 1 << 27):
        monkeypatch.setattr(module, "UNFOLDED_BYTES", limit)
        whole[limit] = compute_factors(found, 0)
    for name in whole[1]:
        torch.testing.assert_close(whole[1][name].inputs, whole[1 << 27][name].inputs)
    parameters = {
        name: tensor.clone().requires_grad_() for name, tensor in found.parameters.items()
    }
    names = {id(tensor): name for name, tensor in parameters.items()}
    with module._CallRecorder(names) as recorder:
        logits = found.network.logits(parameters, torch.cat(list(found.network.training())))
    loss = (logits * torch.randn(SAMPLES, CLASSES).double()).sum()
    calls = [call for call, _ in recorder.calls]
    slopes = torch.autograd.grad(loss, [output for _, output in recorder.calls], retain_graph=True)
    expected = torch.autograd.grad(loss, [call.weight for call in calls])
    assert len(calls) == 3
    for call, slope, kernel in zip(calls, slopes, expected, strict=True):
        patches = call.patches(call.layer_input)
        positions = call.positions(slope).reshape(SAMPLES, call.groups, -1, patches.shape[3])
        torch.testing.assert_close(
            torch.einsum("ngop,ngip->goi", positions, patches).reshape(kernel.shape), kernel
        )


def test_kfac_nears_the_exact_direction_where_curvature_and_inputs_are_independent() -> None:
    samples = 20_000
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(4, CLASSES)
    nn.init.zeros_(network.weight)
    inputs = (
        torch.randn(samples, 4, generator=generator).double()
        * torch.tensor([2.0, 1.0, 0.5, 0.1]).double()
    )
    targets = torch.full((samples, CLASSES), 1 / CLASSES).double()
    losses = Losses(
        [
            Term(torch.ones(samples).double(), 1.0, targets),
            Term(torch.ones(samples).double(), 2.0, targets),
        ]
    )
    survey = surveyed(network, inputs, inputs[:50], size=5000)
    whole = WholeNetwork(survey, losses, torch.arange(50) % CLASSES, torch.ones(samples).double())
    gradient = whole.held_out_gradient()
    solved = influence.cg(whole, gradient, DAMPING, tolerance=1e-12).direction
    assert (kfac(whole, gradient, DAMPING).direction - solved).norm() < 0.05 * solved.norm()
    # a solution without curvature would be wrong
    assert (gradient / DAMPING - solved).norm() > solved.norm()


def test_kfac_refuses_network_without_supported_layers() -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(CLASSES))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :CLASSES] * self.scale

    with pytest.raises(ValueError, match="last_layer"):
        influence.scores(problem_of(Scales()), kfac, DAMPING)


def test_a_kronecker_product_is_inverted_as_a_whole() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 3, 2).double(), torch.randn(2, 4, 4).double()
    left, right = left @ left.mT, right @ right.mT  # the left ones are singular
    matrix = torch.randn(2, 3, 4).double()
    found = Kronecker(left, right, 0.1).solve(matrix)
    for one in range(2):
        system = torch.kron(left[one], right[one]) + 0.1 * torch.eye(12).double()
        torch.testing.assert_close(
            found[one].flatten(), torch.linalg.solve(system, matrix[one].flatten())
        )


def test_factors_of_a_linear_and_a_convolutional_layer_are_counted() -> None:
    found = factor_bytes(
        {"a": torch.zeros(5, 7), "b": torch.zeros(4, 2, 3, 3), "c": torch.zeros(9)}
    )
    factors = [5**2 + 8**2, 4**2 + 19**2]
    assert found == 4 * sum(factors) + 32 * max(factors)
