"""Search the settings of `configs/digits.yaml` without this project, as a rival of its sweep.

    python benchmarks/plain_sweep.py optuna [--trials 60] [--no-stop]
    python benchmarks/plain_sweep.py stock [--trials 4]

What one would otherwise write: `optuna` is a script of one process, with a plain loop and
successive halving, or without (`--no-stop`). `stock` runs the same loop under Ray Tune, with a
TorchTrainer in each trial, and no early stops. Both fit the same teacher first and compute its
logits once. They draw plain training, KD, or AKD; a trial of AKD is KD with alpha = 0.9 here, so
it costs less than ours. Nothing is kept but the best accuracy.
"""

import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

BATCH, EPOCHS, GRACE, REDUCTION = 64, 16, 4, 3
METHODS = ("cross_entropy", "kd", "akd")
CPU = {"memory": 50 * 2**20}  # of the process of a Tune trial, which holds no core


@dataclass
class Data:
    """Training and validation part: images (n, 1, 8, 8) and labels, and the teacher's logits."""

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor
    taught: Tensor | None = None


def load_digits() -> Data:
    """Return the digits, normalised, in parts of the same sizes as ours."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    planes = torch.tensor(images[order] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    planes = (planes - planes[:1222].mean()) / planes[:1222].std()
    targets = torch.tensor(labels[order])
    return Data(planes[:1222], targets[:1222], planes[1222:1438], targets[1222:1438])


def make_cnn(width: int) -> nn.Sequential:
    """Return three convolutions with batch norm, and a linear head."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def evaluate(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy."""
    network.eval()
    with torch.no_grad():
        return float((network(images).argmax(dim=1) == labels).float().mean())


def train(
    network: nn.Module,
    data: Data,
    epochs: int,
    learning_rate: float,
    settings: dict[str, Any],
    report: Callable[[int, float], None] = lambda epoch, accuracy: None,
) -> float:
    """Train a network with cross entropy or KD; report each epoch, and return the accuracy."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    accuracy, alpha = 0.0, settings.get("alpha", 0.0)
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(len(data.labels))
        for index in torch.split(order[: len(order) // BATCH * BATCH], BATCH):
            logits = network(data.images[index])
            loss = (1 - alpha) * functional.cross_entropy(
                logits, data.labels[index], label_smoothing=settings.get("label_smoothing", 0.0)
            )
            if alpha and data.taught is not None:
                temperature = settings["temperature"]
                soft = functional.kl_div(
                    functional.log_softmax(logits / temperature, dim=1),
                    functional.softmax(data.taught[index] / temperature, dim=1),
                    reduction="batchmean",
                )
                loss = loss + alpha * temperature**2 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        accuracy = evaluate(network, data.held_out_images, data.held_out_labels)
        report(epoch, accuracy)
    return accuracy


def fit_teacher(data: Data) -> None:
    """Fit the teacher, and compute its logits."""
    torch.manual_seed(0)
    teacher = make_cnn(32)
    accuracy = train(teacher, data, epochs=40, learning_rate=0.1, settings={})
    with torch.no_grad():
        data.taught = teacher.eval()(data.images)
    print(f"teacher ready: validation accuracy {accuracy:.4f}", flush=True)


def draw(trial: Any) -> dict[str, Any]:
    """Draw the settings of a trial; a fixed learning rate, as in the configuration."""
    method = trial.suggest_categorical("method", METHODS)
    if method == "cross_entropy":
        return {"label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2)}
    temperature = trial.suggest_float("temperature", 1.0, 10.0, log=True)
    alpha = trial.suggest_float("alpha", 0.1, 0.99) if method == "kd" else 0.9
    return {"temperature": temperature, "alpha": alpha}


def search_with_optuna(trials: int, stop: bool) -> float:
    """Search in this process; return the best accuracy."""
    import optuna

    torch.set_num_threads(1)
    data = load_digits()
    fit_teacher(data)

    def run_trial(trial: optuna.Trial) -> float:
        state = "failed"

        def report(epoch: int, accuracy: float) -> None:
            if epoch == trial.number == 0:
                print("first epoch of a student", flush=True)
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            accuracy = train(make_cnn(6), data, EPOCHS, 0.05, draw(trial), report)
            state = "complete"
        except optuna.TrialPruned:
            state = "stopped_early"
            raise
        finally:
            print(f"trial {trial.number} {state}", flush=True)
        return accuracy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=GRACE, reduction_factor=REDUCTION)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=halving if stop else optuna.pruners.NopPruner(),
    )
    study.optimize(run_trial, n_trials=trials)
    return float(study.best_value)


def search_with_stock_ray(trials: int, at_once: int, folder: Path) -> float:
    """Search with Ray Tune, whose function trainable runs a TorchTrainer; return the best."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    torch.set_num_threads(1)
    data = load_digits()
    fit_teacher(data)
    file = folder / "data.safetensors"
    save_file(vars(data), file)
    print("starting Ray", flush=True)
    cluster = ray.init(address="local", log_to_driver=False, include_dashboard=False)
    os.environ["RAY_ADDRESS"] = cluster.address_info["gcs_address"]
    print("Ray is up", flush=True)

    class Lines(tune.Callback):  # type: ignore[misc]
        """Print the end of each trial."""

        ended = 0

        def on_trial_result(self, iteration: int, **info: Any) -> None:
            if not self.ended and info["result"].get("training_iteration") == 1:
                print("first epoch of a student", flush=True)

        def on_trial_complete(self, iteration: int, **info: Any) -> None:
            print(f"trial {self.ended} complete", flush=True)
            self.ended += 1

    results = tune.Tuner(
        tune.with_resources(stock_trial, CPU),
        param_space={"folder": str(folder), "data": str(file)},
        tune_config=tune.TuneConfig(
            num_samples=trials,
            max_concurrent_trials=at_once,
            search_alg=OptunaSearch(draw, metric="accuracy", mode="max", seed=0),
        ),
        run_config=tune.RunConfig(
            name="stock", storage_path=str(folder), verbose=0, callbacks=[Lines()]
        ),
    ).fit()
    ray.shutdown()
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trials failed: {results.errors[0]}")
    return float(results.get_best_result("accuracy", "max").metrics["accuracy"])


def stock_trial(config: dict[str, Any]) -> None:
    """Run one Tune trial with its own TorchTrainer, and forward its reports as in Ray's guide."""
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        stock_loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=f"trial-{tune.get_context().get_trial_id()}",
            storage_path=config["folder"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def stock_loop(config: dict[str, Any]) -> None:
    """Train a student in the worker of a TorchTrainer."""
    import ray.train

    torch.set_num_threads(1)
    data = Data(**load_file(config["data"]))
    train(
        make_cnn(6),
        data,
        EPOCHS,
        0.05,
        config,
        lambda epoch, accuracy: ray.train.report({"accuracy": accuracy, "epoch": epoch + 1}),
    )


def main() -> None:
    """Run a search, and print the best accuracy."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=["optuna", "stock"])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--no-stop", action="store_true", help="no early stops (optuna)")
    parser.add_argument("--at-once", type=int, default=2, help="trials at the same time (stock)")
    options = parser.parse_args()
    if options.kind == "optuna":
        best = search_with_optuna(options.trials, not options.no_stop)
    else:
        with tempfile.TemporaryDirectory() as folder:
            best = search_with_stock_ray(options.trials, options.at_once, Path(folder))
    print(f"best validation accuracy {best:.4f}", flush=True)


if __name__ == "__main__":
    main()
