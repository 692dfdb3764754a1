"""Hand a job to the running cluster, follow what it says, and know how it ended.

The job is a module of ours (``python -m cluster.jobs.…``): every node has it already, so nothing
is packed or uploaded. Ray's job server is the dashboard's; it asks for the cluster's token.
"""

from __future__ import annotations

import queue
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mesh.core.errors import Unavailable
from mesh.core.settings import Settings

POLL_S = 0.5
CALL_TIMEOUT_S = 60.0
"""For one answer of the job server; submitting starts a process."""
RESULT_MARK = "maily-job-result: "
"""The line by which a job says its result, as JSON."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended."""

    id: str
    succeeded: bool
    status: str
    message: str
    log: str


class Jobs:
    """Blocking; one cluster."""

    def __init__(self, address: str, token: str | None) -> None:
        """``address``: of the dashboard, ``http://host:port``. Raises Unavailable."""
        # Imported here: Ray takes a second, and only this needs it.
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {token}"} if token else None
        try:
            self._client: Any = JobSubmissionClient(address, headers=headers)
        except (ConnectionError, RuntimeError) as error:
            raise Unavailable(f"the cluster's job server at {address} does not answer") from error

    def submit(
        self, module: str, arguments: Sequence[str], environ: Mapping[str, str], cpus: float
    ) -> str:
        """The job's id. ``cpus``: what Ray sets aside for it."""
        command = shlex.join([sys.executable, "-m", module, *arguments])
        job: str = _within(
            CALL_TIMEOUT_S,
            partial(
                self._client.submit_job,
                entrypoint=command,
                runtime_env={"env_vars": dict(environ)},
                entrypoint_num_cpus=cpus,
                metadata={"module": module},
            ),
        )
        return job

    def follow(self, job: str, say: Callable[[str], None], timeout_s: float) -> JobEnd:
        """Say every new line of its log until it ends. Stops it after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        seen = 0
        while True:
            status = str(_within(CALL_TIMEOUT_S, partial(self._client.get_job_status, job)))
            log: str = _within(CALL_TIMEOUT_S, partial(self._client.get_job_logs, job))
            whole = log if status in _ENDED else log[: log.rfind("\n") + 1]
            for line in whole[seen:].splitlines():
                if not line.startswith(RESULT_MARK):
                    say(line)
            seen = len(whole)
            if status in _ENDED:
                info = self._client.get_job_info(job)
                return JobEnd(job, status == "SUCCEEDED", status, str(info.message or ""), log)
            if time.monotonic() > until:
                self._client.stop_job(job)
                return JobEnd(job, False, "STOPPED", f"took longer than {timeout_s:.0f} s", log)
            time.sleep(POLL_S)

    def stop(self, job: str) -> None:
        _within(CALL_TIMEOUT_S, partial(self._client.stop_job, job))


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The call's result; Unavailable when there is none in time: Ray's client knows no timeout.

    The thread that is left behind ends with the process."""
    done: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((call(), None))
        except Exception as error:  # handed to the caller below
            done.put((None, error))

    threading.Thread(target=run, daemon=True, name="job-server").start()
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        raise Unavailable(f"the cluster's job server did not answer in {seconds:.0f} s") from None
    if error is not None:
        raise error
    return result


_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


def job_server(settings: Settings) -> str:
    """Where the embedded Ray's job server answers."""
    return f"http://127.0.0.1:{settings.ray.dashboard_port}"
