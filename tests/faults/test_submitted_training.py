"""Submit a training from another folder to a head with its own token."""

import json
from pathlib import Path

import pytest

from tests.cluster.running_head import head

SMALL = [
    "--set",
    "training.epochs=1",
    "--set",
    "teacher=null",
    "--set",
    "method.name=cross_entropy",
    "--set",
    "data.limit.train=200",
]


@pytest.mark.ray
@pytest.mark.faults
def test_a_training_is_submitted_followed_and_its_status_returned(tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with head() as cluster:
        address = ["--address", cluster.address]
        code, output = cluster.call(
            "submit", *address, "--", "train", "--store", str(store), token="another", cwd=elsewhere
        )
        assert (code, output.count("\n")) == (3, 1) and "the cluster rejects the token" in output
        assert "another" not in output.removeprefix("error")
        code, output = cluster.call(
            "submit",
            *address,
            "--",
            "train",
            "--store",
            str(store),
            "--name",
            "mine",
            *SMALL,
            cwd=elsewhere,
        )
        assert code == 0, output
        positions = (
            output.index("packed"),
            output.index("submitted mine-"),
            output.index("trial 0 complete"),
            output.index(": succeeded"),
        )
        assert list(positions) == sorted(positions), output
        assert not any(
            secret in output
            for name, secret in cluster.environment.items()
            if name == "RAY_AUTH_TOKEN"
        )
        code, listed = cluster.call("status", *address, "--json", cwd=elsewhere)
    (job,) = json.loads(listed)
    assert code == 0 and (job["state"], job["returned"], job["labels"]["run"]) == (
        "succeeded",
        0,
        "mine",
    )
    assert job["name"].startswith("mine-") and "--store" in job["entrypoint"]
    assert json.loads((store / "sweeps/mine/sweep.json").read_text())["state"] == "finished"
    assert not list(elsewhere.iterdir())  # nothing was left in the calling folder
