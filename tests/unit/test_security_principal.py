"""Scopes and principals: pure."""

from __future__ import annotations

import uuid

import pytest

from mesh.core.errors import Forbidden, InvalidInput
from mesh.security.principal import Principal
from mesh.security.scopes import ALL_SCOPES, CHAT_WRITE, TASKS_READ, known_scopes


def test_a_missing_scope_is_named() -> None:
    principal = Principal("k", uuid.uuid4(), frozenset({CHAT_WRITE}), "key", "k")
    principal.require(CHAT_WRITE)
    with pytest.raises(Forbidden) as caught:
        principal.require(TASKS_READ)
    assert caught.value.details == {"scope": TASKS_READ}


def test_known_scopes_refuses_unknown_ones_and_none_at_all() -> None:
    assert known_scopes(ALL_SCOPES) == ALL_SCOPES
    with pytest.raises(InvalidInput) as caught:
        known_scopes([CHAT_WRITE, "chat:*"])
    assert caught.value.details["unknown"] == ["chat:*"]
    with pytest.raises(InvalidInput):
        known_scopes([])
