"""The files that the runtime needs before it starts: the model, the embedder, the EVM node."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.failures import DISK_FULL, NO_NETWORK, START_FAILED, Failure
from mesh.core.errors import MailyError
from mesh.core.settings import Settings
from mesh.core.settings_llm import DEFAULT_ENGINE
from mesh.llm.store import ModelStore
from mesh.llm.store_errors import DiskFull, NoNetwork

Progress = Callable[[int, int | None], None]
"""Bytes done, bytes in total (None: unknown)."""


@dataclass(frozen=True, slots=True)
class Artefact:
    name: str
    source: str
    sha256: str | None
    setting: str
    """What to change to fetch it from elsewhere."""


def artefacts(settings: Settings) -> list[Artefact]:
    """What these settings need, in the order in which it is fetched."""
    llm = settings.llm
    needed: list[Artefact] = []
    for name, engine in llm.engine_table().items():
        known = any(item.source == engine.source for item in needed)
        if engine.kind == "llama.cpp" and not known:
            setting = "llm.source" if name == DEFAULT_ENGINE else f"llm.engines.{name}.source"
            needed.append(Artefact(engine.model, engine.source, engine.sha256, setting))
    needed.append(Artefact(llm.embedding_model, llm.embedding_source, None, "llm.embedding_source"))
    evm = settings.evm
    if settings.profile == "embedded" and evm.enabled and evm.url is None:
        needed.append(Artefact("EVM node (anvil)", evm.source, evm.sha256, "evm.source"))
    return needed


def store_of(settings: Settings, environ: Mapping[str, str]) -> ModelStore:
    return ModelStore(settings.store_directory, environ=environ)


def missing(settings: Settings, environ: Mapping[str, str]) -> list[Artefact]:
    store = store_of(settings, environ)
    return [item for item in artefacts(settings) if store.path(item.source) is None]


def fetch(
    settings: Settings,
    environ: Mapping[str, str],
    artefact: Artefact,
    progress: Progress | None = None,
) -> Path:
    """Blocks. Failure with the cause in words and what to do."""
    if artefact.setting == "evm.source" and (sys.platform, platform.machine()) != (
        "linux",
        "x86_64",
    ):
        _check_evm_platform(artefact)
    try:
        return store_of(settings, environ).fetch(artefact.source, artefact.sha256, progress)
    except NoNetwork as error:
        raise Failure(
            f"{artefact.name} can't be fetched: {error}",
            "check the network and pip's index settings, then run it again (a broken download "
            f"goes on where it stopped); or point {artefact.setting} to a file:/path",
            NO_NETWORK,
        ) from error
    except DiskFull as error:
        raise Failure(
            f"{artefact.name} can't be stored: {error}",
            "free some space, or set MAILY_STORE to a directory on a larger disk",
            DISK_FULL,
        ) from error
    except (MailyError, OSError) as error:
        raise Failure(
            f"{artefact.name} can't be fetched: {error}",
            f"check the setting {artefact.setting} ({artefact.source})",
            START_FAILED,
        ) from error


def evm_binary(settings: Settings, environ: Mapping[str, str]) -> Path:
    """The EVM node, fetched when it is not there, and executable. Blocks."""
    evm = settings.evm
    artefact = Artefact("EVM node (anvil)", evm.source, evm.sha256, "evm.source")
    path = fetch(settings, environ, artefact)
    if not path.stat().st_mode & 0o100:
        path.chmod(0o755)
    return path


def _check_evm_platform(artefact: Artefact) -> None:
    if "linux-amd64" in artefact.source:
        raise Failure(
            f"{artefact.source} is for Linux on x86-64, this is {sys.platform} on "
            f"{platform.machine()}",
            "set evm.source to the package for this machine (…/anvil-linux-arm64, "
            "…/anvil-darwin-arm64), evm.url to a node of yours, or evm.enabled = false",
            START_FAILED,
        )
