"""What must hold before anything is started or downloaded: free ports, room on the disk."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from cluster.failures import DISK_FULL, PORT_TAKEN, Failure
from cluster.processes import port_holder
from mesh.core.settings import Settings

MINIMUM_TO_START = 300_000_000
"""Bytes: logs, the write-ahead logs of both databases and Ray's session."""


def free_bytes(path: Path) -> int:
    """Bytes that we may still write where ``path`` is or will be."""
    while not path.exists():
        path = path.parent
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_frsize


def check_disk(settings: Settings, needed: int = MINIMUM_TO_START) -> None:
    """Failure when the disks under the home and the runtime directory have too little room."""
    free = free_bytes(settings.home)
    if free < needed:
        raise Failure(
            f"the disk of {settings.home} has {_megabytes(free)} free, "
            f"{_megabytes(needed)} are needed",
            "free some space (old models: `maily models list`), or set MAILY_HOME to a larger disk",
            DISK_FULL,
        )


def check_ports(ports: Mapping[str, int]) -> None:
    """Failure that names every port that is taken, by whom, and the settings to change."""
    taken: list[str] = []
    settings: list[str] = []
    for name, port in ports.items():
        if not port_is_free(port):
            taken.append(f"port {port} ({name}) is taken by {port_holder(port) or 'a process'}")
            settings.append(f"MAILY_{name.upper().replace('.', '__')}")
    doubles = sorted({port for port in ports.values() if list(ports.values()).count(port) > 1})
    for port in doubles:
        names = [name for name, other in ports.items() if other == port]
        taken.append(f"{' and '.join(names)} are both port {port}")
        settings.append(f"MAILY_{names[-1].upper().replace('.', '__')}")
    if taken:
        raise Failure(
            "; ".join(taken),
            f"end that process, or choose another port with {', '.join(settings)}",
            PORT_TAKEN,
        )


def port_is_free(port: int) -> bool:
    """Whether we could listen on it on loopback."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a connection in TIME_WAIT does not count, a listener does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
