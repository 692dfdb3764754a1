"""Hand a job to the running cluster, follow what it says, and know how it ended.

The job is a module of ours (``python -m cluster.jobs.…``): every node has it already, so nothing
is packed or uploaded. Ray's job server is the dashboard's; it asks for the cluster's token.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.core.errors import Unavailable
from mesh.core.settings import Settings

POLL_S = 0.5
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
        job: str = self._client.submit_job(
            entrypoint=command,
            runtime_env={"env_vars": dict(environ)},
            entrypoint_num_cpus=cpus,
            metadata={"module": module},
        )
        return job

    def follow(self, job: str, say: Callable[[str], None], timeout_s: float) -> JobEnd:
        """Say every new line of its log until it ends. Stops it after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        seen = 0
        while True:
            status = str(self._client.get_job_status(job))
            log: str = self._client.get_job_logs(job)
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
        self._client.stop_job(job)


_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


def job_server(settings: Settings) -> str:
    """Where the embedded Ray's job server answers."""
    return f"http://127.0.0.1:{settings.ray.dashboard_port}"
