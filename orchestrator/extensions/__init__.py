"""Networks, data sets, methods, transforms and metrics that user code registers."""

__all__ = [
    "code_identity",
    "conformance",
    "data_checks",
    "decorators",
    "loading",
    "method_checks",
    "network_checks",
    "record",
    "registry",
    "shipping",
    "signature",
]
