"""Log lines carry their fields and never a secret."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.logging import MASK, bind, configure_logging, get_logger, redact
from mesh.core.tracing import span

KEY = "mk_018f3a_c2VjcmV0c2VjcmV0"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line]


def test_every_line_has_the_required_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("gateway", "INFO")
    get_logger("here").bind(part=1).info("hello", tokens=12)
    with span("work"):
        get_logger("here").warning("inside")
    outside, inside = lines(capsys)
    assert {"timestamp", "service", "trace_id", "level", "message"} <= outside.keys()
    assert outside["service"] == "gateway"
    assert outside["level"] == "info"
    assert outside["message"] == "hello"
    assert outside["logger"] == "here"
    assert (outside["tokens"], outside["part"], outside["trace_id"]) == (12, 1, None)
    assert len(inside["trace_id"]) == 32
    assert list(outside)[:2] == ["timestamp", "level"]


def test_below_the_level_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("x", "WARNING")
    get_logger("here").info("quiet")
    get_logger("here").warning("loud")
    assert [line["message"] for line in lines(capsys)] == ["loud"]


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log level"):
        configure_logging("x", "LOUD")


def test_library_lines_take_the_same_form_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("a", "INFO")
    configure_logging("b", "INFO")
    logging.getLogger("some.library").warning("token %s", JWT)
    (line,) = lines(capsys)
    assert line["service"] == "b"
    assert line["logger"] == "some.library"
    assert JWT not in json.dumps(line)


def test_secrets_are_masked_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("x", "INFO")
    log = get_logger("here")
    with bind(authorization="Basic abcdef"):
        log.info(f"got {KEY}", headers={"Authorization": f"Bearer {JWT}"}, items=[KEY, {"n": JWT}])
    try:
        raise RuntimeError(f"can't reach redis://user:hunter22@host/0 with {KEY}")
    except RuntimeError:
        log.exception("failed")
    log.info("seen", api_key="abc", key_id="018f", token_type="bearer", prompt_tokens=7)
    text = capsys.readouterr().err
    assert KEY not in text
    assert JWT not in text
    assert "hunter22" not in text
    assert "abcdef" not in text
    last = json.loads(text.splitlines()[-1])
    assert last["api_key"] == MASK
    assert (last["key_id"], last["token_type"], last["prompt_tokens"]) == ("018f", "bearer", 7)


def test_what_is_not_json_is_shown_and_cycles_end(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("x", "INFO")
    loop: list[Any] = []
    loop.append(loop)
    get_logger("here").info(
        "odd", error=ValueError("bad"), loop=loop, lone="\ud800", big="x" * 99_999
    )
    text = capsys.readouterr().err
    assert "bad" in text
    assert len(text) < 20_000


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_key_in_any_surroundings_is_masked(before: str, after: str) -> None:
    assert KEY not in redact(f"{before} {KEY} {after}")
