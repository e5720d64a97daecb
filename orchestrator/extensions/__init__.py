"""Networks, data sets, methods, transforms and metrics that user code registers."""

__all__ = ["decorators", "loading", "record", "registry", "shipping", "signature"]
