"""Execute trials on Ray: worker groups, workers, the dispatcher and jobs."""

__all__ = [
    "connect",
    "descendants",
    "dispatcher_client",
    "group_autoscaler",
    "groups",
    "jobs",
    "local_backend",
    "local_pool",
    "overview",
    "own_cluster",
    "package",
    "smoke_test",
]
