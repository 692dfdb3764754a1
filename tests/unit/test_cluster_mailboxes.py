"""Messages from files, folders, mailboxes and lines: each whole, byte for byte."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.trustworks.papers import mail
from cluster.failures import USAGE, Failure
from cluster.mailboxes import _split, items, size_of


def messages(source: Path | str, recipient: str | None = None) -> list[tuple[bytes, str]]:
    found = [json.loads(item.line) for item in items(str(source), recipient)]
    return [(base64.b64decode(one["message_base64"]), one["recipient"]) for one in found]


def test_a_file_is_a_message(tmp_path: Path) -> None:
    path = tmp_path / "one.eml"
    raw = mail(number=1).replace(b"Anna", b"\xff\x00")
    path.write_bytes(raw)
    assert messages(path) == [(raw, "anna1@example.org")]
    assert messages(path, "other@example.org") == [(raw, "other@example.org")]
    assert size_of(str(path)) == len(raw)


def test_a_folder_is_searched_for_mails(tmp_path: Path) -> None:
    for at, place in enumerate(("b.eml", "a/c.EML", "box/cur/1700.M1:2,S", "box/new/1701")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(mail(number=at))
    (tmp_path / "notes.txt").write_text("not a mail")
    (tmp_path / "box" / "tmp").mkdir()
    (tmp_path / "box" / "tmp" / "half").write_bytes(b"half")
    found = messages(tmp_path)
    assert sorted(found) == sorted((mail(number=at), f"anna{at}@example.org") for at in range(4))
    assert size_of(str(tmp_path)) == sum(len(raw) for raw, _ in found)
    with pytest.raises(Failure, match="holds no mail"):
        messages(tmp_path / "box" / "tmp")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_mbox_is_taken_apart(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "box"
    one = mail(number=1).replace(b"\r\n", end)
    two = mail("Dear all,\r\n>From the heart\r\n>>From it", number=2).replace(b"\r\n", end)
    parts = [b"From a@b.c Thu Jan  1 00:00:00 1970" + end + raw + end for raw in (one, two)]
    path.write_bytes(b"".join(parts))
    plain = two.replace(b">From the", b"From the").replace(b">>From it", b">From it")
    assert [raw for raw, _ in messages(path)] == [one, plain]


@given(
    st.lists(
        st.lists(
            st.sampled_from([b"text\n", b"\n", b">From x\n", b"From here\n", b"last\n"]),
            min_size=1,
            max_size=6,
        ).map(lambda lines: b"A: b\n\n" + b"".join(lines)),
        min_size=1,
        max_size=4,
    )
)
def test_what_was_put_into_an_mbox_comes_out(bodies: list[bytes]) -> None:
    """Quoted as mboxrd does: one ``>`` before every line that is From behind any number of them."""
    boxed: list[bytes] = []
    for body in bodies:
        boxed.append(b"From x@y Thu Jan  1 00:00:00 1970\n")
        for line in body.splitlines(keepends=True):
            quoted = line.lstrip(b">").startswith(b"From ")
            boxed.append(b">" + line if quoted else line)
        boxed.append(b"\n")
    assert list(_split(boxed)) == bodies


def test_lines_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "lines.ndjson"
    path.write_bytes(b'{"message":"x","recipient":"a@b.c"}\n\n  {"message":"y"} \n')
    found = list(items(str(path), None))
    assert [item.line for item in found] == [
        b'{"message":"x","recipient":"a@b.c"}\n',
        b'{"message":"y"}\n',
    ]
    assert found[1].where.endswith("line 3")
    filled = [json.loads(item.line) for item in items(str(path), "z@b.c")]
    assert [one["recipient"] for one in filled] == ["a@b.c", "z@b.c"]
    path.write_bytes(b"[1]\n")
    with pytest.raises(Failure, match="no JSON object"):
        list(items(str(path), "z@b.c"))


def test_standard_input_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(data: bytes) -> list[Any]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return [json.loads(item.line) for item in items("-", None)]

    assert given(b'{"message":"x","recipient":"a@b.c"}\n') == [
        {"message": "x", "recipient": "a@b.c"}
    ]
    assert len(given(b"From a@b\n" + mail(number=1) + b"\nFrom a@b\n" + mail(number=2))) == 2
    (one,) = given(mail(number=3))
    assert base64.b64decode(one["message_base64"]) == mail(number=3)
    assert size_of("-") is None


def test_what_can_not_be_read_is_told(tmp_path: Path) -> None:
    for source, why in ((tmp_path / "nothing", "can't be read"),):
        with pytest.raises(Failure, match=why) as caught:
            list(items(str(source), None))
        assert caught.value.exit_code == USAGE
    path = tmp_path / "nobody.eml"
    path.write_bytes(b"From: a@b.c\n\nHello")
    with pytest.raises(Failure, match="whom it goes to") as caught:
        list(items(str(path), None))
    assert "--recipient" in caught.value.fix
