"""Whether an MLflow server answers and lets us in. Asks once, writes nothing, and knows no run."""

import os

from orchestrator.errors import UserError

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}  # MLflow would try for minutes
REFUSED = (401, 403)


def refusal(uri: str) -> str:
    """Why MLflow at `uri` cannot be used, with the next step; empty when it answers. The credentials are the environment's."""
    from orchestrator.tracking.client import connect

    before = {name: os.environ.get(name) for name in PATIENCE}
    os.environ.update({name: value for name, value in PATIENCE.items() if before[name] is None})
    try:
        connect(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow raises what its store, its server or the network raise
        if isinstance(error, UserError):
            return str(error)
        status = getattr(error, "get_http_status_code", lambda: None)()
        if status in REFUSED:
            step = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return f"MLflow at {uri} does not let us in ({status}): {step}"
        reason = " ".join(str(error).split())[:300]
        return f"MLflow at {uri} does not answer ({reason}): start it, or leave tracking.uri out to write into the store"
    finally:
        for name in [name for name, value in before.items() if value is None]:
            os.environ.pop(name, None)
    return ""
