"""docs/trust-api.md keeps its word: its examples run, as they stand, and answer what it says."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest
from gateway_support import build_house
from streams_support import serving
from trust_memory import MemoryTrust

from mesh.storage.pool import Database

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust-api.md"
LOCAL = "http://127.0.0.1:8000"


def blocks() -> list[str]:
    """Shell examples in order; those of the command line have tests of their own."""
    found = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if "maily trust" not in block]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are written for curl")
async def test_the_examples_run(database: Database, valkey_url: str, tmp_path: Path) -> None:
    house = await build_house(database, valkey_url)
    house.gateway.trust = MemoryTrust(house.streams)
    secrets = tmp_path / ".local/share/maily/secrets"
    secrets.mkdir(parents=True)
    (secrets / "api-key").write_text(house.key)
    async with serving(house.app) as address:
        script = "\necho '#'\n".join(blocks()).replace(LOCAL, f"http://{address}")
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            re.sub(r"--max-time 20 (.*)", r"--max-time 2 \1 || true", script),
            cwd=tmp_path,
            env={
                "HOME": str(tmp_path),
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    await house.gateway.apart.aclose()
    await house.redis.aclose()
    said = out.decode().split("#\n")
    assert process.returncode == 0, (said[-1], err.decode()[-2_000:])
    opened, lines, events, public, verdict, last = said[1:]
    assert json.loads(opened)["batch"]["name"] == "Spring"
    assert (json.loads(opened)["lines"], json.loads(opened)["repeated"]) == (3, 0)
    assert [json.loads(line)["index"] for line in lines.splitlines()] == [0, 1, 2]
    assert "event: snapshot" in events
    assert json.loads(public[: public.index("}{") + 1])["state"] == "included"
    assert (tmp_path / "certificate.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "qr.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "certificate.json").read_bytes())["version"] == 1
    assert (json.loads(verdict)["level"], json.loads(verdict)["holds"]) == ("exact", True)
    revoked, forgotten = json.loads(f"[{last.replace('}{', '},{')}]")
    assert revoked["state"] == "revoked"
    assert len(forgotten["certificates"]) == 1
