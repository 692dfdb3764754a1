"""``maily logs``: the last lines, and what comes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import cli
from cluster.cli import logs as logs_module
from cluster.failures import Failure
from cluster.layout import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("MAILY_HOME", str(tmp_path))
    layout = Layout(tmp_path)
    layout.make()
    (layout.logs / "postgres.log").write_text("".join(f"line {n}\n" for n in range(100)))
    (layout.logs / "valkey.log").write_text('{"level": "info"}\nplain\nhalf a li')
    serve = layout.runtime / "ray" / "session_1" / "logs" / "serve"
    serve.mkdir(parents=True)
    (layout.runtime / "ray" / "session_latest").symlink_to(serve.parents[1])
    (serve / "replica_gateway_Gateway_abc.log").write_text("gateway line\n")
    (serve / "replica_llm_LLM_abc.log").write_text("llm line\n")
    return layout


def test_the_last_lines(layout: Layout) -> None:
    result = CliRunner().invoke(cli.app, ["logs", "-s", "postgres", "-n", "2"])
    assert result.stdout.splitlines() == ["postgres   line 98", "postgres   line 99"]


def test_as_json_lines_that_were_json_are_json(layout: Layout) -> None:
    result = CliRunner().invoke(cli.app, ["logs", "-s", "valkey", "--json"])
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert found == [
        {"log": "valkey", "line": {"level": "info"}},
        {"log": "valkey", "line": "plain"},  # the half line comes when it is whole
    ]


def test_replicas_have_logs_too(layout: Layout) -> None:
    result = CliRunner().invoke(cli.app, ["logs", "-s", "gateway", "-s", "llm"])
    assert result.stdout.splitlines() == ["gateway    gateway line", "llm        llm line"]


def test_an_unknown_service_names_the_known(layout: Layout) -> None:
    with pytest.raises(Failure, match="no service postgras") as caught:
        CliRunner().invoke(cli.app, ["logs", "-s", "postgras"], catch_exceptions=False)
    assert "postgres" in caught.value.fix


def test_following_shows_what_comes_also_in_new_and_rotated_files(layout: Layout) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "logs", "-f", "-n", "1", "-s", "valkey", "-s", "evm"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "valkey     plain\n"
        with (layout.logs / "valkey.log").open("a") as file:
            file.write("ne\nmore\n")
        assert process.stdout.readline() == "valkey     half a line\n"
        assert process.stdout.readline() == "valkey     more\n"
        (layout.logs / "evm.log").write_text("hello\n")
        assert process.stdout.readline() == "evm        hello\n"
        (layout.logs / "valkey.log").write_text("anew\n")
        assert process.stdout.readline() == "valkey     anew\n"
    finally:
        process.kill()
        process.communicate()


def test_every_service_of_ours_is_known() -> None:
    from cluster.embedded.evm import EvmNode
    from cluster.embedded.postgres import Postgres
    from cluster.embedded.ray_head import RayHead
    from cluster.embedded.valkey import Valkey

    for service in (Postgres, Valkey, EvmNode, RayHead):
        assert service.name in logs_module.OWN
