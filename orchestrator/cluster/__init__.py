"""Everything that Ray executes: worker groups, workers, dispatcher, jobs."""

__all__ = [
    "connect",
    "descendants",
    "dispatcher_client",
    "group_autoscaler",
    "groups",
    "jobs",
    "local_backend",
    "package",
    "smoke_test",
]
