"""Check a configuration before anything expensive starts."""

__all__ = ["configuration", "preflight", "prepared"]
