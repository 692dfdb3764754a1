"""Where things lie: short socket paths, private secrets, one instance a home."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from cluster.failures import Failure
from cluster.layout import Layout, resolve, write_private
from mesh.core.settings import Settings, load_settings

RAYS_OWN = len("/ray/session_2026-11-24_02-16-33_123456_1234567/sockets/plasma_store")
HAPROXYS_OWN = len("/" + "f" * 56 + "/m.sock")


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 20, 60])
def test_socket_paths_fit_however_deep_the_home_lies(depth: int) -> None:
    layout = Layout(Path("/home/someone") / "/".join(["deep"] * depth))
    assert len(os.fsencode(layout.runtime)) + RAYS_OWN <= 107
    assert len(os.fsencode(layout.haproxy_sockets)) + HAPROXYS_OWN <= 97
    assert len(os.fsencode(layout.postgres_sockets / ".s.PGSQL.5432")) <= 107


def test_two_homes_never_share_a_runtime_directory() -> None:
    deep = "/home/someone/" + "deeper/" * 20
    assert Layout(Path(deep + "a")).runtime != Layout(Path(deep + "b")).runtime
    assert Layout(Path(deep + "a")).instance != Layout(Path(deep + "b")).instance


def test_secrets_are_private_and_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    layout.make()
    first = layout.secret("ray-token")
    assert len(first) == 64
    assert layout.secret("ray-token") == first
    assert layout.secret("other") != first
    assert stat.S_IMODE((layout.secrets / "ray-token").stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.secrets.stat().st_mode) == 0o700


def test_nobody_else_gets_into_what_ray_leaves_open(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    layout.make()
    for path in (layout.run, layout.runtime, layout.logs, layout.metrics):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert layout.runtime not in layout.postgres_sockets.parents


def test_processes_that_make_a_secret_at_once_agree(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    layout.make()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(layout.secret("s"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    write_private(path, "three", replace=False)
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_home_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(Failure) as caught:
        Layout(tmp_path / "home").make()
    assert str(tmp_path / "home") in caught.value.message
    assert "MAILY_HOME" in caught.value.fix


def test_a_runtime_directory_made_by_someone_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "theirs"
    monkeypatch.setattr(Layout, "runtime", property(lambda self: runtime))
    runtime.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    with pytest.raises(Failure, match="belongs to user"):
        Layout(tmp_path / "home").make()


def test_the_embedded_profile_knows_its_addresses(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    settings = resolve(Settings(home=tmp_path))
    assert str(layout.postgres_sockets) in settings.postgres_url
    assert settings.redis_url == f"unix://{layout.valkey_socket}"
    assert settings.ray.address == "127.0.0.1:7379"
    assert settings.evm.url == "http://127.0.0.1:8545"
    assert settings.security.secret is not None
    assert resolve(settings) == settings


def test_addresses_of_yours_are_kept(tmp_path: Path) -> None:
    Layout(tmp_path).make()
    environ = {
        "MAILY_HOME": str(tmp_path),
        "MAILY_PROFILE": "external",
        "MAILY_POSTGRES_URL": "postgresql://h/d",
        "MAILY_REDIS_URL": "redis://h",
        "RAY_ADDRESS": "h:1",
        "MAILY_SECURITY__SECRET": "mine",
    }
    settings = load_settings({}, environ)
    assert resolve(settings) == settings
