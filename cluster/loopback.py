"""Keep a single-host Ray on 127.0.0.1.

Ray resolves ``127.0.0.1`` to the host's outward address, binds its servers there and hands it to
every process. Two functions decide that. With both replaced, GCS, raylet, agents, dashboard and
workers bind loopback alone. Every driver must do the same before ``ray.init``: one that does not
looks for the node under another address and hangs.

The head's own processes are started by ``python -m cluster.loopback start --head …``, which takes
the arguments of ``ray``. ``MAILY_LOOPBACK=1`` in the environment says that a process belongs to
such a Ray.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOOPBACK_VARIABLE = "MAILY_LOOPBACK"
ADDRESS = "127.0.0.1"
_SCRIPT = Path(__file__).with_name("loopback_dashboard.py")


def apply(environ: Mapping[str, str] | None = None) -> bool:
    """Patch Ray in this process when ``MAILY_LOOPBACK=1``; call it before ``ray.init``.

    Returns whether it did.
    """
    environ = os.environ if environ is None else environ
    if environ.get(LOOPBACK_VARIABLE) != "1":
        return False
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host
    services.get_node_ip_address = lambda address=None: ADDRESS
    return True


def patched_dashboard(command: Sequence[str]) -> list[str]:
    """The command that starts the dashboard, with our script before Ray's."""
    found: list[str] = []
    for part in command:
        if part.endswith(str(Path("dashboard", "dashboard.py"))):
            found.append(str(_SCRIPT))
        found.append(part)
    return found


def patched_raylet(command: Sequence[str]) -> list[str]:
    """The command that starts the raylet, with our script before that of the dashboard's agent,
    which the raylet starts: the agent is a driver, too, when it is asked to run a job."""
    agent = re.compile(r"(\S*dashboard/agent\.py)")
    ours = subprocess.list2cmdline([str(_SCRIPT)])
    return [
        agent.sub(lambda found: f"{ours} {found[1]}", part, count=1)
        if part.startswith("--dashboard_agent_command=")
        else part
        for part in command
    ]


def main() -> None:
    apply({LOOPBACK_VARIABLE: "1"})
    from ray._private import services
    from ray._private.node import Node
    from ray.scripts import scripts

    start = services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *args: Any, **more: Any) -> Any:
        if process_type == "dashboard":
            command = patched_dashboard(command)
        elif process_type == "raylet":
            command = patched_raylet(command)
        return start(command, process_type, *args, **more)

    services.start_ray_process = start_ray_process
    # Nobody speaks the Ray client protocol here, and its fixed port would clash between instances.
    Node.start_ray_client_server = lambda self: None
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
