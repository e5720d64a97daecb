"""Track runs, figures and models in MLflow."""

__all__ = ["artifacts", "health", "model_registry", "overrides", "schema", "tracker", "ui"]
