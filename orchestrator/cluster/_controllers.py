"""The controller of each worker group, noted where its driver finds it, also after a death of the dispatcher. Imports no torch."""

import contextlib

import ray
from ray._private import worker
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

KEY = "distillation-controller/"
ANSWER_S = 10.0  # it answers at once, but while it starts workers


def note_controller(run: str) -> None:
    """Note that this process is the controller of the run."""
    _internal_kv_put(KEY + run, ray.get_runtime_context().get_actor_id())


def end_controller(run: str, answer_s: float = 0.0) -> None:
    """End the controller of the run, if it has begun; not where it answers within `answer_s`. For the driver, which started it."""
    noted = _internal_kv_get(KEY + run)
    if not noted:
        return
    with contextlib.suppress(ray.exceptions.RayError):
        controller = worker.global_worker.core_worker.get_actor_handle(ray.ActorID.from_hex(noted.decode()))
        ready, _ = ray.wait([controller.__ray_ready__.remote()], timeout=answer_s) if answer_s else ([], None)
        if not ready:
            ray.kill(controller, no_restart=True)


def forget_controller(run: str) -> None:
    """The run is over."""
    with contextlib.suppress(ray.exceptions.RayError):
        _internal_kv_del(KEY + run)
