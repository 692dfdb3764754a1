"""Work in Ray tasks: wherever there is room, given again when a worker dies.

Tasks ask for no CPU of Ray's count: a busy cluster makes them slow and never keeps them out. What
bounds them is how many a process has out at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from mesh.core.errors import DeadlineExceeded, Internal, MailyError, Unavailable

T = TypeVar("T")

TRIES = 4
"""Of a task whose worker dies."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


class RayWork:
    """``mesh.trust.work.Work``. One per process."""

    def __init__(self, at_once: int) -> None:
        self._gate = asyncio.Semaphore(at_once)
        self._done = self._failed = 0
        self._remote: Any = ray.remote(_call).options(
            num_cpus=0,
            max_retries=TRIES - 1,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": _ONE_THREAD},
        )

    async def run(self, function: Callable[..., T], *args: Any, timeout_s: float) -> T:
        reference: Any = None
        try:
            async with asyncio.timeout(timeout_s), self._gate:
                # Large arguments are copied into the object store.
                reference = await asyncio.to_thread(self._remote.remote, function, *args)
                result: T = await reference
                reference = None
        except RayTaskError as error:
            reference = None
            cause = error.cause
            raise (cause if isinstance(cause, MailyError) else Internal()) from error
        except TimeoutError as error:
            raise DeadlineExceeded("The work was not done in time.") from error
        except RayError as error:
            self._failed += 1
            raise Unavailable(
                "The work could not be given to a worker.", {"part": "ray"}, retry_after_s=1.0
            ) from error
        finally:
            if reference is not None:  # nobody waits for it any more
                ray.cancel(reference)
        self._done += 1
        return result

    def statistics(self) -> dict[str, int | float]:
        return {"work_done": self._done, "work_failed": self._failed}
