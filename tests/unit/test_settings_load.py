"""Where settings come from, which source wins, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.settings import (
    Settings,
    SettingsError,
    describe_setting,
    load_settings,
    setting_paths,
    settings_from_json,
    settings_to_json,
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a maily.toml of the checkout must not play a part


def _home(tmp_path: Path, toml: str) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "maily.toml").write_text(toml)
    return {"MAILY_HOME": str(home)}


def test_defaults_need_nothing() -> None:
    settings = load_settings({}, {})
    assert settings.profile == "embedded"
    assert settings.gateway.port == 8000
    assert settings.ray.port == 7379


def test_each_source_wins_over_the_one_before(tmp_path: Path) -> None:
    environ = _home(tmp_path, "[gateway]\nport = 8001\nreplicas = 3\nqueue_limit = 5\n")
    environ |= {"MAILY_GATEWAY__PORT": "8002", "MAILY_GATEWAY__REPLICAS": "4"}
    settings = load_settings({"gateway.port": 8003}, environ)
    assert settings.gateway.port == 8003
    assert settings.gateway.replicas == 4
    assert settings.gateway.queue_limit == 5
    assert settings.gateway.max_json_depth == 32


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    assert (
        load_settings({"gateway.port": None}, {"MAILY_GATEWAY__PORT": "8002"}).gateway.port == 8002
    )


def test_the_file_in_home_wins_over_the_one_here(tmp_path: Path) -> None:
    Path("maily.toml").write_text("[llm]\nslots = 3\n")
    assert load_settings({}, {"MAILY_HOME": str(tmp_path / "none")}).llm.slots == 3
    assert load_settings({}, _home(tmp_path, "[llm]\nslots = 4\n")).llm.slots == 4
    other = tmp_path / "other.toml"
    other.write_text("[llm]\nslots = 5\n")
    assert load_settings({}, _home(tmp_path, ""), other).llm.slots == 5
    assert load_settings({}, {"MAILY_CONFIG": str(other)}).llm.slots == 5


def test_short_names(tmp_path: Path) -> None:
    environ = {
        "MAILY_HOME": str(tmp_path),
        "MAILY_PROFILE": "external",
        "MAILY_POSTGRES_URL": "postgresql://a:b@h/d",
        "MAILY_REDIS_URL": "redis://h",
        "RAY_ADDRESS": "h:1",
    }
    settings = load_settings({}, environ)
    assert settings.home == tmp_path
    assert settings.postgres_url == "postgresql://a:b@h/d"
    assert settings.redis_url == "redis://h"
    assert settings.ray.address == "h:1"
    assert "a:b" not in repr(settings)


def test_lists_are_written_with_commas_or_as_json() -> None:
    for text in ("http://a, http://b", '["http://a", "http://b"]'):
        settings = load_settings({}, {"MAILY_GATEWAY__CORS_ORIGINS": text})
        assert settings.gateway.cors_origins == ("http://a", "http://b")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MAILY_GATEWAY__PRT": "1"}, ["MAILY_GATEWAY__PRT", "did you mean MAILY_GATEWAY__PORT"]),
        ({"MAILY_HOEM": "/x"}, ["MAILY_HOEM", "MAILY_HOME"]),
        ({"MAILY_GATEWAY__PORT": "abc"}, ["gateway.port", "whole number", "'abc'", "__PORT"]),
        ({"MAILY_GATEWAY__PORT": "70000"}, ["gateway.port", "from 1", "to 65535", "'70000'"]),
        ({"MAILY_LLM__ENGINE": "vlm"}, ["llm.engine", "llama.cpp, openai, vllm, fake", "'vlm'"]),
        ({"MAILY_GATEWAY__HAPROXY": "perhaps"}, ["gateway.haproxy", "true or false"]),
        ({"MAILY_LLM__SHA256": "12"}, ["llm.sha256", "[0-9a-f]{64}"]),
        ({"MAILY_PROFILE": "external"}, ["MAILY_POSTGRES_URL", "MAILY_REDIS_URL", "RAY_ADDRESS"]),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, ["RAY_ADDRESS", "10.0.0.1:6379", "external"]),
        ({"MAILY_LLM__ENGINE": "openai"}, ["llm", "remote_url"]),
        ({"MAILY_POSTGRES__POOL_MIN": "9"}, ["postgres", "pool_min", "pool_max"]),
        ({"MAILY_AGENTS__HEARTBEAT_S": "2"}, ["agents", "heartbeat_s", "lease_s"]),
    ],
)
def test_a_wrong_variable_names_itself_and_what_it_may_be(
    environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}, environ)
    for word in words:
        assert word in str(caught.value)


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {"MAILY_GATEWAY__PORT": "x", "MAILY_LLM__SLOTS": "0"})
    assert "gateway.port" in str(caught.value)
    assert "llm.slots" in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[gatway]\nport = 1\n", ["gatway.port", "did you mean gateway.port", "maily.toml"]),
        ("[gateway]\nprot = 1\n", ["gateway.prot", "did you mean gateway.port"]),
        ("port = 1\n", ["unknown setting port", "did you mean"]),
        ("gateway = 1\n", ["gateway is a section"]),
        ("[gateway]\nport = 'x'\n", ["gateway.port", "whole number", "maily.toml"]),
        ("[gateway\n", ["not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_file_names_itself(tmp_path: Path, toml: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}, _home(tmp_path, toml))
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml does not exist"):
        load_settings({}, {}, tmp_path / "nowhere.toml")


def test_a_secret_of_the_wrong_kind_is_not_printed(tmp_path: Path) -> None:
    environ = _home(tmp_path, "[llm]\nremote_api_key = 4711\n")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, environ)
    assert "llm.remote_api_key" in str(caught.value)
    assert "4711" not in str(caught.value)


def test_building_a_tree_reads_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILY_GATEWAY__PORT", "1234")
    monkeypatch.setenv("GATEWAY", '{"port": 1234}')
    assert Settings().gateway.port == 8000


def test_a_child_gets_the_same_tree_with_its_secrets() -> None:
    settings = load_settings(
        {}, {"MAILY_POSTGRES_URL": "postgresql://u:p@h/d", "MAILY_LLM__REMOTE_API_KEY": "s3"}
    )
    again = settings_from_json(settings_to_json(settings))
    assert again == settings
    assert again.postgres_url == "postgresql://u:p@h/d"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"gateway": {"port": 0}}', '{"nothing": 1}'])
def test_a_child_refuses_what_is_no_tree(text: str) -> None:
    with pytest.raises(SettingsError, match="MAILY_SETTINGS_JSON"):
        settings_from_json(text)


def test_every_setting_says_what_it_may_be() -> None:
    for name, field in setting_paths().items():
        assert describe_setting(field), name


@given(st.integers())
def test_ports_are_taken_exactly_when_they_are_ports(number: int) -> None:
    try:
        settings = load_settings({"gateway.port": number}, {})
    except SettingsError:
        assert not 1 <= number <= 65535
    else:
        assert settings.gateway.port == number


@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789", min_size=1, max_size=30))
def test_no_unknown_variable_passes(suffix: str) -> None:
    variable = f"MAILY_{suffix}"
    known = {f"MAILY_{name.upper().replace('.', '__')}" for name in setting_paths()}
    known |= {"MAILY_HOME", "MAILY_CONFIG", "MAILY_LOOPBACK", "MAILY_INSTANCE", "MAILY_API_KEY"}
    known |= {"MAILY_POSTGRES_URL", "MAILY_REDIS_URL", "MAILY_RAY_ADDRESS", "MAILY_SETTINGS_JSON"}
    if variable not in known:
        with pytest.raises(SettingsError, match=variable):
            load_settings({}, {variable: "1"})
