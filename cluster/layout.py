"""Where an instance keeps its things, and how its parts find each other.

``$MAILY_HOME``::

    maily.toml        settings (optional, yours)
    data/             postgres/, valkey/, evm/, evm-standby/: survive a restart
    store/            model files and binaries, checked against their sums
    secrets/          0700: api-key, instance.key, wallet.key, ray-token, …
    logs/             one file a service; Ray's own lie under run/ray/session_latest/logs
    run/              lock, state.json, metrics/; gone things are no loss

Unix socket paths end at 107 bytes, and Ray's and HAProxy's are long on their own. So sockets and
Ray's session live in ``run/`` only when that path is short, else in a private directory under /tmp
named after the home (refused when someone else made it).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from cluster.failures import START_FAILED, Failure
from mesh.core.settings import Settings
from mesh.core.settings_trust import NetworkSettings
from mesh.trust.chain.development import CHAIN_ID, STANDBY_CHAIN_ID

MAX_SOCKET_BASE = 31
"""Longest runtime directory, in bytes, that still leaves room for the names below it: Ray's take
64 of 107 bytes, HAProxy's (``h/``, Serve's node id of 56 digits, ``/m.sock``) 66 of 97."""


@dataclass(frozen=True, slots=True)
class Layout:
    home: Path

    @property
    def instance(self) -> str:
        """Names this home; marks every process of ours (``MAILY_INSTANCE``)."""
        return hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def runtime(self) -> Path:
        """Sockets and Ray's session: a short path."""
        if len(os.fsencode(self.run)) <= MAX_SOCKET_BASE:
            return self.run
        base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())  # noqa: S108
        return base / f"maily-{os.getuid()}-{self.instance[:8]}"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def state(self) -> Path:
        return self.run / "state.json"

    @property
    def metrics(self) -> Path:
        return self.run / "metrics"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def ray_logs(self) -> Path:
        return self.runtime / "ray" / "session_latest" / "logs"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def api_key(self) -> Path:
        return self.secrets / "api-key"

    @property
    def postgres_data(self) -> Path:
        return self.home / "data" / "postgres"

    @property
    def postgres_sockets(self) -> Path:
        """Beside the runtime directory, not in it: as root, another user owns and reaches it."""
        return self.runtime.with_name(f"{self.runtime.name}-pg")

    @property
    def valkey_data(self) -> Path:
        return self.home / "data" / "valkey"

    @property
    def valkey_socket(self) -> Path:
        return self.runtime / "valkey.sock"

    @property
    def evm_state(self) -> Path:
        return self.home / "data" / "evm" / "state.json"

    @property
    def evm_standby_state(self) -> Path:
        return self.home / "data" / "evm-standby" / "state.json"

    @property
    def haproxy_sockets(self) -> Path:
        return self.runtime / "h"

    @property
    def engine_sockets(self) -> Path:
        return self.runtime / "e"

    @property
    def ray_temp(self) -> Path:
        return self.runtime / "ray"

    def make(self) -> None:
        """Create the directories. Failure when one can't be made or belongs to someone else."""
        try:
            self.home.parent.mkdir(parents=True, exist_ok=True)
            for path in (self.home, self.home / "data"):
                path.mkdir(mode=0o700, exist_ok=True)
            # Ray opens its own directories to everyone: these keep everyone else out of them.
            for path in (self.run, self.logs, self.metrics, self.secrets, self.runtime):
                path.mkdir(mode=0o700, exist_ok=True)
                if path.lstat().st_uid == os.getuid():
                    path.chmod(0o700)
        except OSError as error:
            raise Failure(
                f"{error.filename or self.home} can't be made: {error.strerror}",
                "make it writable for you, or set MAILY_HOME to a directory that is",
                START_FAILED,
            ) from None
        info = self.runtime.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            raise Failure(
                f"{self.runtime} belongs to user {info.st_uid}, not to you",
                f"remove it (rm -rf {self.runtime}), or set MAILY_HOME to a shorter path",
                START_FAILED,
            )

    def secret(self, name: str) -> str:
        """Read ``secrets/NAME``; make it of 32 random bytes (hex), mode 0600, when it is not
        there. Two processes that make it at once agree on one."""
        path = self.secrets / name
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            pass
        write_private(path, secrets.token_hex(32) + "\n", replace=False)
        return path.read_text(encoding="ascii").strip()


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file of mode 0600 atomically. ``replace=False``: an existing file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)  # mkstemp made it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return
    finally:
        temporary.unlink(missing_ok=True)


def resolve(settings: Settings) -> Settings:
    """Fill in where the embedded services are, so that no other part knows the profiles.

    External profile: only the secret is filled in.
    """
    layout = Layout(settings.home)
    update: dict[str, object] = {}
    if settings.security.secret is None:
        secret = SecretStr(layout.secret("instance.key"))
        update["security"] = settings.security.model_copy(update={"secret": secret})
    if settings.profile == "embedded":
        if settings.postgres.url is None:
            dsn = f"postgresql://postgres@/maily?host={layout.postgres_sockets}"
            update["postgres"] = settings.postgres.model_copy(update={"url": SecretStr(dsn)})
        if settings.redis.url is None:
            url = SecretStr(f"unix://{layout.valkey_socket}")
            update["redis"] = settings.redis.model_copy(update={"url": url})
        if settings.llm.sockets is None:
            update["llm"] = settings.llm.model_copy(update={"sockets": layout.engine_sockets})
        if settings.ray.address is None:
            address = f"127.0.0.1:{settings.ray.port}"
            update["ray"] = settings.ray.model_copy(update={"address": address})
        if settings.evm.enabled and settings.evm.url is None:
            update["evm"] = settings.evm.model_copy(
                update={"url": f"http://127.0.0.1:{settings.evm.port}"}
            )
    networks = settings.trust.networks or _evm_networks(settings)
    if any(network.key is None for network in networks.values()):
        key = SecretStr(layout.secret("wallet.key"))
        networks = {
            name: network if network.key else network.model_copy(update={"key": key})
            for name, network in networks.items()
        }
    update["trust"] = settings.trust.model_copy(update={"networks": networks})
    return settings.model_copy(update=update)


def _evm_networks(settings: Settings) -> dict[str, NetworkSettings]:
    """Trust's networks when none are named: the node of section ``evm``, and the standby one."""
    evm = settings.evm
    if not evm.enabled:
        return {}
    if evm.url is not None:
        return {"local": NetworkSettings(url=evm.url, chain_id=evm.chain_id)}
    if settings.profile != "embedded":
        return {}
    ports = {"local": (evm.port, CHAIN_ID)}
    if evm.standby:
        ports["standby"] = (evm.standby_port, STANDBY_CHAIN_ID)
    return {
        name: NetworkSettings(url=f"http://127.0.0.1:{port}", chain_id=chain_id, development=True)
        for name, (port, chain_id) in ports.items()
    }
