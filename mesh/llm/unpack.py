"""Take one file or one folder out of a wheel, a zip or a tarball, and nothing else."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from mesh.llm.download import need_space
from mesh.llm.store_errors import SourceNotFound, StoreError


class _Archive(Protocol):
    def members(self) -> dict[str, int]: ...
    def open(self, name: str) -> IO[bytes]: ...
    def executable(self, name: str) -> bool: ...


def unpack(archive: Path, member: str, target: Path) -> None:
    """Write ``member`` to ``target`` (a folder when the member ends with ``/``).

    Only regular files are taken: links and devices in an archive are not followed. Raises
    SourceNotFound when the member is not there, StoreError when the archive is broken.
    """
    try:
        with _open(archive) as source:
            members = source.members()
            if member.endswith("/"):
                chosen = {name: name[len(member) :] for name in members if name.startswith(member)}
            else:
                chosen = {member: ""} if member in members else {}
            if not chosen:
                raise SourceNotFound(f"{archive.name} holds no {member!r}", {"member": member})
            need_space(target.parent, sum(members[name] for name in chosen))
            for name, relative in chosen.items():
                if ".." in Path(relative).parts:
                    raise StoreError(f"{archive.name} holds a path that leads outside: {name!r}")
                path = target / relative if relative else target
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(name) as reader, path.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, 1024 * 1024)
                if source.executable(name):
                    path.chmod(0o755)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as exc:
        raise StoreError(f"{archive.name} is no archive that can be read: {exc}") from exc


@contextmanager
def _open(path: Path) -> Iterator[_Archive]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            yield _Zip(file)
    else:
        with tarfile.open(path) as tar:
            yield _Tar(tar)


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def members(self) -> dict[str, int]:
        return {i.filename: i.file_size for i in self._file.infolist() if not i.is_dir()}

    def open(self, name: str) -> IO[bytes]:
        return self._file.open(name)

    def executable(self, name: str) -> bool:
        return bool(self._file.getinfo(name).external_attr >> 16 & 0o100)


class _Tar:
    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file

    def members(self) -> dict[str, int]:
        return {m.name.removeprefix("./"): m.size for m in self._file.getmembers() if m.isfile()}

    def _member(self, name: str) -> tarfile.TarInfo:
        try:
            return self._file.getmember(name)
        except KeyError:
            return self._file.getmember(f"./{name}")

    def open(self, name: str) -> IO[bytes]:
        reader = self._file.extractfile(self._member(name))
        if reader is None:
            raise StoreError(f"{name!r} is no regular file")
        return reader

    def executable(self, name: str) -> bool:
        return bool(self._member(name).mode & 0o100)
