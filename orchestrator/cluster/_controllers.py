"""Record the controller of each worker group in Ray's key-value store.

The driver finds a controller there even after the dispatcher has died. This module imports no
torch.
"""

import contextlib

import ray
from ray._private import worker
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

KEY = "distillation-controller/"
ANSWER_S = 10.0  # a controller answers at once, except while it starts workers


def record_controller(run: str) -> None:
    """Record this process as the controller of the run."""
    _internal_kv_put(KEY + run, ray.get_runtime_context().get_actor_id())


def end_controller(run: str, answer_s: float = 0.0) -> None:
    """Kill the controller of the run, if it has started.

    Only the driver, which started the controller, calls this.

    Args:
        run: Name of the Ray Train run.
        answer_s: Time limit in seconds. A controller that answers within it is kept. With 0 the
            controller is killed at once.
    """
    actor_id = _internal_kv_get(KEY + run)
    if not actor_id:
        return
    with contextlib.suppress(ray.exceptions.RayError):
        controller = worker.global_worker.core_worker.get_actor_handle(
            ray.ActorID.from_hex(actor_id.decode())
        )
        ready, _ = (
            ray.wait([controller.__ray_ready__.remote()], timeout=answer_s)
            if answer_s
            else ([], None)
        )
        if not ready:
            ray.kill(controller, no_restart=True)


def forget_controller(run: str) -> None:
    """Delete the record of the controller of a finished run."""
    with contextlib.suppress(ray.exceptions.RayError):
        _internal_kv_del(KEY + run)
