"""Before anything starts: ports and disk, said clearly."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import preflight
from cluster.failures import DISK_FULL, PORT_TAKEN, Failure
from cluster.preflight import check_disk, check_ports, free_bytes, port_is_free
from mesh.core.settings import Settings


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_port_names_itself_its_setting_and_who_has_it(taken: int) -> None:
    with pytest.raises(Failure) as caught:
        check_ports({"gateway.port": taken})
    failure = caught.value
    assert failure.exit_code == PORT_TAKEN
    assert str(taken) in failure.message
    assert str(os.getpid()) in failure.message
    assert "MAILY_GATEWAY__PORT" in failure.fix


def test_all_taken_ports_are_named_at_once(taken: int) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        second = other.getsockname()[1]
        with pytest.raises(Failure) as caught:
            check_ports({"gateway.port": taken, "evm.port": second})
    assert str(taken) in caught.value.message
    assert str(second) in caught.value.message
    assert "MAILY_EVM__PORT" in caught.value.fix


def test_two_settings_with_one_port_are_told() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Failure, match=r"gateway\.port and evm\.port are both port"):
        check_ports({"gateway.port": port, "evm.port": port})


def test_a_closed_port_is_free_again_at_once() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0] as accepted:
            accepted.close()  # we closed first: our side lingers in TIME_WAIT
        assert not port_is_free(port)
    assert port_is_free(port)
    check_ports({"gateway.port": port})


def test_a_full_disk_is_told_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_bytes", lambda path: 12_000_000)
    with pytest.raises(Failure) as caught:
        check_disk(Settings(home=tmp_path), 500_000_000)
    assert caught.value.exit_code == DISK_FULL
    assert "12 MB free" in caught.value.message
    assert "500 MB are needed" in caught.value.message
    assert "MAILY_HOME" in caught.value.fix


def test_room_is_measured_where_the_home_will_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet" / "there") > 0
    check_disk(Settings(home=tmp_path / "not" / "yet"), 1)
