"""Runs written to MLflow, by the driver alone."""
