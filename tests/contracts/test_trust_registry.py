"""The registry's checked-in code is what its source compiles to, anywhere, any time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.trust.chain import registry

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "mesh" / "trust" / "chain" / "contract" / "AnchorRegistry.vy"
PEER = ROOT / ".cache" / "peers" / "vyper"
"""An environment of its own: the compiler's dependencies clash with ours."""


def compiler() -> Path:
    vyper = PEER / "bin" / "vyper"
    if not vyper.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True, timeout=120)
            subprocess.run(
                [str(PEER / "bin" / "pip"), "install", "-q", "vyper==0.4.3"],
                check=True,
                timeout=240,
                capture_output=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"Vyper 0.4.3 can't be installed: {error}")
    return vyper


@pytest.mark.slow
def test_the_source_compiles_to_the_code_that_is_deployed() -> None:
    done = subprocess.run(
        [
            str(compiler()),
            "--no-bytecode-metadata",
            *("-f", "bytecode,bytecode_runtime,method_identifiers"),
            str(SOURCE),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    made, runtime, names = done.stdout.split()[0], done.stdout.split()[1], done.stdout
    assert bytes.fromhex(made[2:]) == registry.INIT_CODE
    assert bytes.fromhex(runtime[2:]) == registry.RUNTIME_CODE
    assert f'"anchor(bytes32)": "0x{registry.SELECTOR.hex()}"' in names


def test_the_source_says_how_it_was_compiled() -> None:
    head = SOURCE.read_text().splitlines()[:3]
    assert head == [
        "# pragma version 0.4.3",
        "# pragma evm-version paris",
        "# pragma optimize gas",
    ]


def test_the_address_is_known() -> None:
    """It is in people's policies: it may never change by accident."""
    assert registry.ADDRESS.hex() == "09c69756558727e9c7aad25c6b6744e5e4ca46ed"
    assert len(registry.RUNTIME_CODE) == 80
    assert registry.TOPIC.hex() in registry.RUNTIME_CODE.hex()
