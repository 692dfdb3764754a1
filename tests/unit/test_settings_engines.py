"""Engines and routes as settings: from TOML, variables and flags, and what is said when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from actors.llm_client import routes, routing_options
from mesh.core.settings import (
    LLMSettings,
    SettingsError,
    load_settings,
    settings_from_json,
    settings_to_json,
)

ENGINES = (
    '{"backup": {"kind": "openai", "model": "m", "remote_url": "http://x/v1", '
    '"remote_api_key": "hush-hush"}}'
)
TOML = """
[llm]
connect_timeout_s = 3
[llm.engines.backup]
kind = "openai"
model = "m"
remote_url = "http://x/v1"
remote_api_key = "hush-hush"
[llm.routes]
fast = ["default", "backup"]
"""


def load(
    environ: dict[str, str] | None = None, toml: str | None = None, folder: Path | None = None
) -> LLMSettings:
    file = None
    if toml is not None and folder is not None:
        file = folder / "maily.toml"
        file.write_text(toml)
    return load_settings({}, environ or {}, file).llm


def test_one_engine_needs_no_table() -> None:
    llm = load({"MAILY_LLM__MODEL": "mine", "MAILY_LLM__SLOTS": "3"})
    assert list(llm.engine_table()) == ["default"]
    assert llm.engine_table()["default"].slots == 3
    assert llm.route_table() == dict.fromkeys(("mine", "fast", "quality"), ("default",))


def test_tables_from_toml_variables_and_flags_are_the_same(tmp_path: Path) -> None:
    chain = '{"fast": ["default", "backup"]}'
    by_file = load(toml=TOML, folder=tmp_path)
    by_variable = load(
        {
            "MAILY_LLM__ENGINES": ENGINES,
            "MAILY_LLM__ROUTES": chain,
            "MAILY_LLM__CONNECT_TIMEOUT_S": "3",
        }
    )
    flags = {"llm.engines": ENGINES, "llm.routes": chain, "llm.connect_timeout_s": "3"}
    by_flag = load_settings(flags, {}).llm
    assert by_file == by_variable == by_flag
    assert by_file.route_table()["fast"] == ("default", "backup")
    assert by_file.route_table()["m"] == ("backup",)
    assert by_file.engine_table()["backup"].remote_api_key == SecretStr("hush-hush")


def test_secrets_in_tables_reach_children_and_no_message(tmp_path: Path) -> None:
    settings = load_settings({}, {"MAILY_LLM__ENGINES": ENGINES})
    assert settings_from_json(settings_to_json(settings)) == settings
    assert "hush-hush" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        load({"MAILY_LLM__ENGINES": ENGINES.replace('"openai"', '"open"')})
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"ENGINES": '{"b": {"kind": "vlm"}}'}, ["llm.engines.b.kind", "MAILY_LLM__ENGINES"]),
        ({"ENGINES": '{"b": {"kin": "fake"}}'}, ["llm.engines.b.kin", "not permitted"]),
        ({"ENGINES": '{"b": '}, ["llm.engines must be a table", "JSON object"]),
        ({"ENGINES": "[]"}, ["llm.engines must be a table"]),
        ({"ENGINES": '{"B b": {"kind": "fake"}}'}, ["'B b' is no name"]),
        ({"ENGINES": '{"default": {"kind": "fake"}}'}, ["choose another name"]),
        ({"ENGINES": '{"b": {"kind": "openai"}}'}, ["llm.engines.b", "needs remote_url"]),
        ({"ENGINES": '{"b": {"faults": {"every": 2}}}'}, ["faults", "'fake' alone"]),
        ({"ROUTES": '{"fast": ["nobody"]}'}, ["'fast'", "'nobody'", "there is default"]),
        ({"ROUTES": '{"fast": []}'}, ["'fast' needs at least one"]),
        ({"ROUTES": '{"fast": ["default", "default"]}'}, ["twice"]),
        ({"ROUTES": '{"embed": ["default"]}'}, ["embedding model's name"]),
        ({"BREAKER_OPEN_S": "90"}, ["breaker_open_s must be at most"]),
        ({"HEDGE_BUDGET": "0.9"}, ["llm.hedge_budget", "to 0.5"]),
    ],
)
def test_what_is_wrong_is_named(environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load({f"MAILY_LLM__{name}": value for name, value in environ.items()})
    for word in words:
        assert word in str(caught.value)


def test_routes_become_chains_of_targets_with_one_state_each(tmp_path: Path) -> None:
    llm = load(toml=TOML, folder=tmp_path)
    chains = routes(llm)
    assert [target.name for target in chains["fast"]] == ["default", "backup"]
    assert chains["fast"][1] is chains["m"][0]
    assert chains["fast"][0].prefix == "prefill"
    assert chains["m"][0].prefix == "continue_final_message"
    options = routing_options(llm)
    assert (options.connect_s, options.breaker.failures) == (3.0, 5)
