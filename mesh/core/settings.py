"""One typed tree of settings: defaults < ``maily.toml`` < ``MAILY_*`` variables < flags.

Nested names are joined with two underscores in variables: ``MAILY_GATEWAY__PORT=8080``. Tables
with names of your own (``llm.engines``) are TOML tables, and JSON objects elsewhere. Short
names exist for what operators set most (``MAILY_HOME``, ``MAILY_POSTGRES_URL``,
``MAILY_REDIS_URL``, ``RAY_ADDRESS``). An unknown or wrong setting stops the start and names
itself (``load_settings`` raises SettingsError). ``mesh`` itself never reads the environment
elsewhere: what it needs is passed in.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from mesh.core.settings_llm import EngineSettings, LLMSettings
from mesh.core.settings_streams import StreamSettings
from mesh.core.settings_tree import (
    AgentSettings,
    EvmSettings,
    GatewaySettings,
    ObservabilitySettings,
    PostgresSettings,
    RaySettings,
    RedisSettings,
    SecuritySettings,
    Settings,
    default_home,
)

__all__ = [
    "SETTINGS_VARIABLE",
    "AgentSettings",
    "EngineSettings",
    "EvmSettings",
    "GatewaySettings",
    "LLMSettings",
    "ObservabilitySettings",
    "PostgresSettings",
    "RaySettings",
    "RedisSettings",
    "SecuritySettings",
    "Settings",
    "SettingsError",
    "StreamSettings",
    "config_file",
    "default_home",
    "describe_setting",
    "load_settings",
    "setting_paths",
    "settings_from_json",
    "settings_to_json",
]

SETTINGS_VARIABLE = "MAILY_SETTINGS_JSON"
"""How a child process gets its parent's settings: as JSON, with the secrets in it."""

SHORT_NAMES: Mapping[str, str] = {
    "MAILY_HOME": "home",
    "MAILY_POSTGRES_URL": "postgres.url",
    "MAILY_REDIS_URL": "redis.url",
    "MAILY_RAY_ADDRESS": "ray.address",
    "RAY_ADDRESS": "ray.address",
}

NOT_SETTINGS = frozenset(
    {SETTINGS_VARIABLE, "MAILY_CONFIG", "MAILY_LOOPBACK", "MAILY_INSTANCE", "MAILY_API_KEY"}
)
"""Variables of ours that are no settings: they say where to look or mark a process."""


class SettingsError(ValueError):
    """A setting is unknown or wrong; the message names it and says what it may be."""


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Find and check all settings.

    ``flags``: dotted name → value (``{"gateway.port": 8080}``); None values are left out.
    ``environ``: defaults to the process's. ``file``: must exist when given, else see
    ``config_file``. Raises SettingsError, which lists every wrong setting with where it came from.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    home = Path(flags["home"]).expanduser() if "home" in flags else default_home(environ)
    path = config_file(home, environ, file)
    if path is not None:
        for name, value in _leaves(_read_toml(path)):
            _put(tree, origins, name, value, f"{name} in {path}")
    for name, value, variable in _from_environ(environ):
        _put(tree, origins, name, value, variable)
    for name, value in flags.items():
        field = setting_paths().get(name)
        if field is not None and _is_table(field) and isinstance(value, str):
            value = _parse(value, field)
        _put(tree, origins, name, value, f"flag {name}")
    tree.setdefault("home", home)
    tree["home"] = Path(str(tree["home"])).expanduser().absolute()
    try:
        return Settings(**tree)
    except ValidationError as error:
        lines = [_explain(item, origins) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def config_file(home: Path, environ: Mapping[str, str], file: Path | None = None) -> Path | None:
    """``file`` or ``$MAILY_CONFIG`` (must exist), else maily.toml in ``home``, else in the
    working directory, else None."""
    if file is None and (named := environ.get("MAILY_CONFIG")):
        file = Path(named)
    if file is not None:
        file = file.expanduser()
        if not file.is_file():
            raise SettingsError(f"the settings file {file} does not exist: check the path")
        return file
    return next((p for p in (home / "maily.toml", Path("maily.toml")) if p.is_file()), None)


def settings_to_json(settings: Settings) -> str:
    """For child processes alone: the secrets are in it."""

    def plain(value: Any) -> Any:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        return str(value)

    return json.dumps(settings.model_dump(mode="python"), default=plain)


def settings_from_json(text: str) -> Settings:
    """The settings that a parent process passed on. Raises SettingsError."""
    try:
        return Settings(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{SETTINGS_VARIABLE} can't be read: {error}") from None


def setting_paths() -> dict[str, FieldInfo]:
    """Every setting's dotted name and its field."""
    found: dict[str, FieldInfo] = {}
    for name, field in Settings.model_fields.items():
        section = _section(field)
        if section is None:
            found[name] = field
        else:
            found.update({f"{name}.{key}": sub for key, sub in section.model_fields.items()})
    return found


def describe_setting(field: FieldInfo) -> str:
    """What a setting may be, in words: ``a whole number, from 1, to 65535``."""
    if _is_table(field):
        return "a table (in a variable: a JSON object)"
    kinds: list[Any] = list(get_args(field.annotation) or (field.annotation,))
    words = [_KINDS[kind] for kind in kinds if kind in _KINDS]
    choices = [kind for kind in kinds if isinstance(kind, str)]
    if choices:
        return "one of " + ", ".join(choices)
    if ... in kinds:
        return "a list of texts"
    text = " or ".join(words) or "a text"
    for rule in field.metadata:
        match rule:
            case Ge(ge=bound):
                text += f", from {bound}"
            case Gt(gt=bound):
                text += f", above {bound}"
            case Le(le=bound):
                text += f", to {bound}"
            case Lt(lt=bound):
                text += f", below {bound}"
            case MinLen():
                text += ", not empty"
            case _ if pattern := getattr(rule, "pattern", None):
                text += f" matching {pattern}"
    return text


_KINDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    SecretStr: "a text (secret)",
    Path: "a path",
}


def _is_table(field: FieldInfo) -> bool:
    """Whether its keys are the operator's own names."""
    return get_origin(field.annotation) is dict


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from None


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    known = setting_paths()
    # Short names first, so that the long name of the same setting wins.
    ordered = sorted(environ, key=lambda variable: (variable not in SHORT_NAMES, variable))
    for variable in ordered:
        text = environ[variable]
        if variable in SHORT_NAMES:
            if text:
                yield SHORT_NAMES[variable], text, variable
            continue
        if not variable.startswith("MAILY_") or variable in NOT_SETTINGS:
            continue
        name = variable.removeprefix("MAILY_").lower().replace("__", ".")
        field = known.get(name)
        if field is None:
            raise SettingsError(f"unknown variable {variable}{_variable_hint(variable, known)}")
        yield name, _parse(text, field), variable


def _parse(text: str, field: FieldInfo) -> Any:
    """Tables are written as JSON, lists as JSON or with commas; everything else is converted by
    its type. What is no JSON stays text, and is refused with its origin."""
    if _is_table(field):
        try:
            return json.loads(text) if text else {}
        except ValueError:
            return text
    if ... not in get_args(field.annotation):
        return None if text == "" and type(None) in get_args(field.annotation) else text
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _variable_hint(variable: str, known: Mapping[str, FieldInfo]) -> str:
    names = [*SHORT_NAMES, *(f"MAILY_{name.upper().replace('.', '__')}" for name in known)]
    close = difflib.get_close_matches(variable, names, n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ": `maily doctor` lists the settings"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    known = setting_paths()
    for key, value in tree.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in known:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(tree: dict[str, Any], origins: dict[str, str], name: str, value: Any, origin: str) -> None:
    """Set a dotted name. Unknown names stop here, where their origin is known."""
    known = setting_paths()
    if name not in known:
        if "." not in name and _section_named(name):
            raise SettingsError(f"{origin}: {name} is a section; write [{name}] and its settings")
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        if not close:  # the right leaf under the wrong section
            leaf = name.rsplit(".", 1)[-1]
            close = [path for path in known if path.rsplit(".", 1)[-1] == leaf][:1]
        hint = f": did you mean {close[0]}?" if close else ""
        raise SettingsError(f"unknown setting {origin}{hint}")
    origins[name] = origin
    *parents, leaf = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def _section_named(name: str) -> bool:
    field = Settings.model_fields.get(name)
    return field is not None and _section(field) is not None


def _explain(item: Any, origins: Mapping[str, str]) -> str:
    known = setting_paths()
    location = [str(part) for part in item["loc"]]
    name = ".".join(location[:2]) if ".".join(location[:2]) in known else ".".join(location[:1])
    field = known.get(name)
    message = str(item["msg"]).removeprefix("Value error, ")
    if field is None:  # a rule between settings
        return f"{name + ': ' if name else ''}{message}"
    origin = origins.get(name, "defaults")
    if _is_table(field) and len(location) > 2:  # something within it; it may hold secrets
        return f"{'.'.join(location)}: {message} (from {origin})"
    secret = SecretStr in (get_args(field.annotation) or (field.annotation,))
    shown = "" if secret else f", but is {item['input']!r}"
    return f"{name} must be {describe_setting(field)}{shown} (from {origin})"
