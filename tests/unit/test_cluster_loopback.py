"""The patches that keep Ray on loopback, and that they still meet what Ray has."""

from __future__ import annotations

import subprocess
import sys

from cluster.loopback import patched_dashboard, patched_raylet

PROBE = """
import sys
from cluster import loopback
from ray._private import services
from ray._private.node import Node
from ray._private import ray_constants
assert callable(services.resolve_ip_for_localhost)
assert callable(services.get_node_ip_address)
assert callable(services.start_ray_process)
assert callable(Node.start_ray_client_server)
assert ray_constants.PROCESS_TYPE_DASHBOARD == "dashboard"
assert ray_constants.PROCESS_TYPE_RAYLET == "raylet"
before = services.get_node_ip_address
assert loopback.apply({}) is False
assert services.get_node_ip_address is before
assert loopback.apply({"MAILY_LOOPBACK": "1"}) is True
assert services.get_node_ip_address() == "127.0.0.1"
assert services.get_node_ip_address("8.8.8.8:53") == "127.0.0.1"
assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
assert services.resolve_ip_for_localhost("10.1.2.3") == "10.1.2.3"
print("ok")
"""


def test_the_patches_hold_and_only_when_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "ok", done.stderr


def test_the_dashboard_is_started_through_our_script() -> None:
    command = ["python", "-u", "/x/ray/dashboard/dashboard.py", "--host=127.0.0.1"]
    found = patched_dashboard(command)
    assert found[:2] == ["python", "-u"]
    assert found[2].endswith("cluster/loopback_dashboard.py")
    assert found[3:] == command[2:]
    assert patched_dashboard(["raylet"]) == ["raylet"]


def test_the_dashboard_s_agent_is_started_through_our_script() -> None:
    agent = "--dashboard_agent_command=python -u /x/ray/dashboard/agent.py --node-ip=127.0.0.1"
    found = patched_raylet(["raylet", agent, "--other=/x/ray/dashboard/agent.py"])
    assert found[0] == "raylet"
    start, script, rest = found[1].partition("loopback_dashboard.py")
    assert start.startswith("--dashboard_agent_command=python -u ")
    assert script
    assert rest == " /x/ray/dashboard/agent.py --node-ip=127.0.0.1"
    assert found[2] == "--other=/x/ray/dashboard/agent.py"
