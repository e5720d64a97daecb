"""Find and neutralize environment variables that redirect MLflow against the configuration."""

import os

from orchestrator.config.uris import WEB, scheme_of
from orchestrator.core.redact import redact

UNUSED = {  # variables that are ignored, and what applies instead
    "MLFLOW_TRACKING_URI": "runs are written to {uri}; `--set tracking.uri=...` sets another "
    "address",
    "MLFLOW_REGISTRY_URI": "models are registered where runs are written, {uri}",
    "MLFLOW_EXPERIMENT_NAME": "the setting `project` names the experiment",
    "MLFLOW_EXPERIMENT_ID": "the setting `project` names the experiment",
    "MLFLOW_RUN_ID": "every sweep and trial has its own run",
    "MLFLOW_WORKSPACE": "workspaces are not used with a database",
    "MLFLOW_WORKSPACE_STORE_URI": "runs are written to {uri}",
}
SWITCHED_OFF = {  # writes are synchronous and go to the only workspace of a database
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_WORKSPACES": "false",
}
OF_A_SERVER = (  # where `mlflow server` reads and writes
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "MLFLOW_ARTIFACTS_DESTINATION",
    "MLFLOW_ARTIFACTS_ONLY",
    "MLFLOW_SERVE_ARTIFACTS",
)


def switch_off() -> None:
    """Set the variables that could lose or misplace writes."""
    os.environ.update(SWITCHED_OFF)


def unused_variables(uri: str) -> list[str]:
    """Return a sentence for each variable that runs at `uri` ignore.

    A workspace that is used is reported too.
    """
    variables = {name: value for name in UNUSED if (value := os.environ.get(name)) and value != uri}
    workspace = variables.pop("MLFLOW_WORKSPACE", "") if scheme_of(uri) in WEB else ""
    shown = redact(uri)
    texts = [
        f"{name}={redact(value)} in the environment is ignored: {UNUSED[name].format(uri=shown)}"
        for name, value in variables.items()
    ]
    followed = (
        f"runs are written to the workspace {workspace!r} of {shown}, from "
        f"MLFLOW_WORKSPACE in the environment"
    )
    return [*texts, followed] if workspace else texts


def server_environment() -> tuple[dict[str, str], list[str]]:
    """Return the environment for MLflow's server on a store's database, and the variables left out.

    The variables left out would make the server use another database.
    """
    left_out = sorted(
        name for name in (*UNUSED, *SWITCHED_OFF, *OF_A_SERVER) if os.environ.get(name)
    )
    return {name: value for name, value in os.environ.items() if name not in left_out}, left_out
