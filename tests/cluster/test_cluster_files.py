"""Test the shipped cluster files: their headers, enabled authentication, and Ray's schema."""

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.local.config import prepare_local
from ray.autoscaler._private.util import fillout_defaults, validate_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs/cluster").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_cluster_file_begins_with_its_command(file: Path) -> None:
    name = file.relative_to(ROOT).as_posix()
    assert file.read_text().splitlines()[0] in (f"# ray up {name}", f"# kubectl apply -f {name}")
    assert name in (ROOT / "docs/how-to/cluster.md").read_text()


def test_the_static_cluster_is_valid_and_requires_a_token() -> None:
    config = yaml.safe_load((ROOT / "configs/cluster/static.yaml").read_text())
    prepared, _ = prepare_local(config)
    validate_config(fillout_defaults(prepared))
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])
    for role in ("head", "worker"):
        (start,) = [line for line in config[f"{role}_start_ray_commands"] if "ray start" in line]
        assert (
            start.index("export RAY_AUTH_MODE=token;") < start.index("ray start")
            and "dashboard-host=0.0.0.0" not in start
        )
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert all(not local.startswith("/") for local in config["file_mounts"].values())
    assert (ROOT / config["file_mounts"]["~/distillation/constraints.txt"]).is_file()


def test_the_kubernetes_cluster_requires_a_token_and_shares_the_store() -> None:
    claim, policy, cluster = yaml.safe_load_all((ROOT / "configs/cluster/kuberay.yaml").read_text())
    assert [each["kind"] for each in (claim, policy, cluster)] == [
        "PersistentVolumeClaim",
        "NetworkPolicy",
        "RayCluster",
    ]
    assert cluster["apiVersion"] == "ray.io/v1" and cluster["spec"]["authOptions"] == {
        "mode": "token"
    }
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert cluster["spec"]["rayVersion"] == pinned["ray"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {
        "ray.io/cluster": cluster["metadata"]["name"]
    }
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        pod: dict[str, Any] = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {"name": "store", "mountPath": "/store"} in container["volumeMounts"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["store"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["image"].endswith(f":{pinned['ray']}")


def test_the_installed_ray_is_the_pinned_version() -> None:
    assert f"ray=={ray.__version__}" in (ROOT / "constraints.txt").read_text()
