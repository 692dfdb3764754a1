"""schemathesis over ``/openapi.json``: no 5xx, no answer that the document does not state."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.instance import Instance
from benchmarks.show.table import Claim

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
HOOKS = "benchmarks.show.fuzz_hooks"
ROOT = str(Path(__file__).resolve().parents[2])
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


async def run(instance: Instance, *, examples: int, timeout_s: float) -> list[Claim]:
    process = await asyncio.create_subprocess_exec(
        str(SCHEMATHESIS),
        "run",
        f"{instance.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {instance.key}",
        "--checks",
        ",".join(CHECKS),
        "--max-examples",
        str(examples),
        "--phases",
        "examples,coverage,fuzzing",
        "--request-timeout",
        "60",
        "--seed",
        "1",
        "--exclude-path-regex",
        "/events$",  # an open stream has no end to wait for; the resume demonstration reads it
        "--no-color",
        env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": ROOT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        return [Claim("schemathesis", f"not done after {timeout_s:.0f} s", "no finding", False)]
    text = out.decode(errors="replace")
    cases = re.search(r"([\d,]+) generated", text)
    failures = re.findall(r"^- (.+)$", text, re.MULTILINE)
    figure = f"{cases.group(1) if cases else '?'} cases generated, exit {process.returncode}"
    if process.returncode != 0:
        figure += ": " + "; ".join(sorted(set(failures))[:6]) + text[-400:]
    return [
        Claim(
            f"schemathesis on /openapi.json ({', '.join(CHECKS)})",
            figure,
            "no 5xx, no undocumented answer",
            process.returncode == 0,
        )
    ]
