"""The gateway as the commands speak to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape

from cluster.cli.console import err, load

if TYPE_CHECKING:
    from cluster.client import TaskClient


@contextmanager
def connected(url: str | None, *, quiet: bool) -> Iterator[TaskClient]:
    """``url`` None: the gateway of this machine's settings. ``quiet``: don't say what it waits
    for. Raises Failure when there is no key to speak with."""
    from cluster.cli.write import api_key
    from cluster.client import TaskClient
    from cluster.layout import Layout

    settings = load()
    key = api_key(Layout(settings.home).api_key)

    def waits(reason: str) -> None:
        if not quiet:
            err.print(f"[dim]waiting: {escape(reason)}[/]", soft_wrap=True)

    with TaskClient(url or settings.gateway_url, key, waits) as client:
        yield client
