"""What the doctor finds, and that each problem comes with a fix."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import doctor
from cluster.doctor import Finding, as_json, examine
from cluster.layout import Layout
from cluster.state import State, take_lock, write_state
from mesh.core.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        ports = []
        for one in (a, b, c):
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    flags = {
        "home": tmp_path / "home",
        "gateway.port": ports[0],
        "evm.port": ports[1],
        "ray.port": ports[2],
    }
    return load_settings(flags, {})


def find(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def test_every_problem_has_a_fix_and_looking_makes_nothing(settings: Settings) -> None:
    findings = examine(settings, {})
    assert {f.check for f in findings} >= {
        "python", "settings", "disk", "memory", "clock", "files", "ports", "ray auth", "leftovers"
    }  # fmt: skip
    assert all(f.fix for f in findings if f.level != "ok")
    assert not settings.home.exists()
    missing = find(findings, "files")
    assert len(missing) == 3
    assert all(f.fix == "maily models pull" for f in missing)


def test_a_taken_port(settings: Settings) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", settings.gateway.port))
        holder.listen()
        found = [f for f in find(examine(settings, {}), "ports") if f.level == "problem"]
    text = next(f for f in found if str(settings.gateway.port) in f.detail)
    assert str(os.getpid()) in text.detail
    assert "MAILY_GATEWAY__PORT" in text.fix


def test_a_full_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_bytes", lambda path: 1_000)
    findings = examine(settings, {})
    assert all(f.level == "problem" for f in find(findings, "disk"))
    assert not as_json(findings)["healthy"]


def test_a_clock_that_is_years_behind(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 1_000_000.0)
    assert find(examine(settings, {}), "clock")[0].level == "problem"


def test_a_file_that_was_changed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.downloads import store_of
    from mesh.llm import known
    from mesh.llm.sources import parse_source

    store = store_of(settings, {})
    place = store._place(parse_source(settings.llm.source))
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not the model")
    monkeypatch.setitem(known.KNOWN_SHA256, settings.llm.source, "0" * 64)
    found = [f for f in find(examine(settings, {}), "files") if f.level == "problem"]
    assert len(found) == 1
    assert str(place) in found[0].fix


def test_a_secret_that_others_may_read(settings: Settings) -> None:
    layout = Layout(settings.home)
    layout.make()
    layout.secret("ray-token")
    assert find(examine(settings, {}), "secrets")[0].level == "ok"
    (layout.secrets / "ray-token").chmod(0o644)
    assert find(examine(settings, {}), "secrets")[0].level == "problem"


def test_a_ray_of_yours_without_token_auth() -> None:
    environ = {
        "MAILY_PROFILE": "external",
        "MAILY_POSTGRES_URL": "postgresql://h/d",
        "MAILY_REDIS_URL": "redis://h",
        "RAY_ADDRESS": "h:1",
    }
    external = load_settings({"home": "/nowhere"}, environ)
    assert find(examine(external, {}), "ray auth")[0].level == "problem"
    assert find(examine(external, {"RAY_AUTH_MODE": "token"}), "ray auth")[0].level == "ok"


def test_processes_that_an_earlier_run_left(settings: Settings) -> None:
    layout = Layout(settings.home)
    layout.make()
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"],
        env={**os.environ, "MAILY_INSTANCE": layout.instance},
        stdout=subprocess.PIPE,
    )
    try:
        assert left.stdout is not None
        left.stdout.readline()
        found = find(examine(settings, {}), "leftovers")[0]
        assert found.level == "problem"
        assert str(left.pid) in found.detail
        assert found.fix == "maily down"
    finally:
        left.kill()
        left.communicate()


def test_a_socket_that_other_machines_reach(settings: Settings) -> None:
    """The running instance is this process: its sockets are looked at."""
    layout = Layout(settings.home)
    layout.make()
    code = (
        "import socket; s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); import time; time.sleep(600)"
    )
    wide = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    lock = take_lock(layout.lock)
    assert lock is not None
    try:
        assert wide.stdout is not None
        port = wide.stdout.readline().decode().strip()
        write_state(
            layout,
            State(instance="i", pid=os.getpid(), created=0, version="0", profile="embedded"),
        )
        found = [f for f in find(examine(settings, {}), "listening") if f.level == "problem"]
        assert any(f"0.0.0.0:{port}" in f.detail for f in found)
    finally:
        os.close(lock)
        wide.kill()
        wide.communicate()
