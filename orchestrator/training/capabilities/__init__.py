"""Serve each capability of a method (`methods/capabilities.py`) by a component."""

__all__ = [
    "component",
    "components",
    "feature_maps",
    "feature_maps_checks",
    "look_ahead",
    "memory_bank",
    "memory_bank_checks",
    "peers",
    "plots",
    "sample_weights",
    "sample_weights_checks",
    "teacher_update",
    "teacher_weights",
]
