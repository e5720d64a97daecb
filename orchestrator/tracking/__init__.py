"""Runs written to MLflow, by the driver alone."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it when it is imported, which happens below here alone
