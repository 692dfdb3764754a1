"""A message that shows its own certificate's id gets that place, or is refused by its line."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from actors.trust_lane import Held, Request, sift
from benchmarks.trustworks.papers import mail
from mesh.contracts.trust import NewMessage
from mesh.core.errors import Conflict, InvalidInput
from mesh.trust.ids import CertificateIds
from mesh.trust.intake import Claims, claims_of, prepare, read_lines
from mesh.trust.marks import MarkIndex
from mesh.trust.vault import TrustVault

IDS = CertificateIds(b"s" * 32)
VAULT = TrustVault.of(b"s" * 32)
WORKSPACE = uuid4()
SERIAL = 7


class Row:
    """What ``sift`` needs of a batch's row."""

    serial = SERIAL
    workspace_id = WORKSPACE
    id = UUID(int=1)


class Nothing:
    """A batch without leaves."""

    async def marks_at(self, batch: UUID, indexes: list[int]) -> dict[int, bytes]:
        return {}


def messages(*numbers: int, **certificates: str) -> list[NewMessage]:
    return [
        NewMessage(
            message=mail(number=number).decode(),
            recipient=f"anna{number}@example.org",
            certificate=certificates.get(f"n{number}"),
        )
        for number in numbers
    ]


async def answered(lines: list[NewMessage], size: int = 0, first_line: int = 1) -> Any:
    rows = prepare(VAULT, WORKSPACE, read_lines(lines, first_line, 1 << 20), first_line)
    claims: Claims = claims_of(lines, first_line, IDS)
    request = Request(
        WORKSPACE, rows, first_line, asyncio.get_running_loop().create_future(), claims
    )
    row: Any = Row()
    leaves: Any = Nothing()
    fresh, good = await sift([request], Held(row, MarkIndex(), size), None, leaves)
    if good:
        assert sum(map(len, fresh)) == len({index for _, index, _ in request.places})
        request.finish()
    return await request.answer


async def test_places_as_they_were_given_out() -> None:
    lines = messages(1, 2, 3, n1=IDS.make(SERIAL, 5), n3=IDS.make(SERIAL, 7).upper())
    assert await answered(lines, size=5) == [(7, 5, False), (7, 6, False), (7, 7, False)]


@pytest.mark.parametrize(
    ("claim", "size"),
    [((SERIAL, 2), 0), ((SERIAL, 0), 0), ((SERIAL, 1), 1), ((SERIAL + 1, 1), 0)],
    ids=["later", "earlier", "others came between", "another batch"],
)
async def test_another_place_is_refused_by_its_line(claim: tuple[int, int], size: int) -> None:
    lines = messages(1, 2, n2=IDS.make(*claim))
    with pytest.raises(Conflict) as refused:
        await answered(lines, size=size, first_line=41)
    assert refused.value.details == {"line": 42, "index": size + 1}


async def test_a_repeat_keeps_its_first_place() -> None:
    """An interrupted stream is sent again whole: each line still names its own place."""
    first, second = IDS.make(SERIAL, 0), IDS.make(SERIAL, 1)
    lines = messages(1, 2, 1, n1=first, n2=second)
    assert await answered(lines) == [(7, 0, False), (7, 1, False), (7, 0, True)]
    # A stream that repeats one goes out of step with the ids, and is told where.
    with pytest.raises(Conflict) as refused:
        await answered(messages(1, 1, 2, n2=IDS.make(SERIAL, 2)))
    assert refused.value.details == {"line": 3, "index": 1}


async def test_an_id_that_was_never_given_out() -> None:
    for wrong in ("a" * 32, CertificateIds(b"t" * 32).make(SERIAL, 0)):
        with pytest.raises(InvalidInput) as refused:
            await answered(messages(1, n1=wrong), first_line=9)
        assert refused.value.details == {"field": "certificate", "line": 9}
