"""Memories as lines of JSON (NDJSON): what an export writes and an import reads.

A line is a ``NewMemory``. Its ``client_id`` makes an import idempotent, into the same workspace
and into another. Links between memories are kept within it as ``source.ref``; merged ones are
said by their survivor and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from mesh.contracts.memory import MemoryItem, MemoryState, NewMemory
from mesh.core.errors import InvalidInput

MEDIA = "application/x-ndjson"


def export_line(item: MemoryItem, vector: list[float] | None = None) -> bytes | None:
    """One line with its end; None: it is not exported."""
    if item.state is MemoryState.MERGED:
        return None
    new = NewMemory.model_construct(
        namespace=item.namespace,
        kind=item.kind,
        text=item.text,
        client_id=item.client_id or f"export:{item.id}",
        tags=item.tags,
        metadata=item.metadata,
        importance=item.importance,
        pinned=item.pinned,
        statement=item.statement,
        contacts=item.contacts,
        source=item.source.model_copy(
            update={"derived_from": [], "ref": item.source.ref or f"mem:{item.id}"}
        ),
        language=item.language,
        valid_from=item.valid_from,
        valid_to=item.valid_to,
        expires_at=item.expires_at,
        created_at=item.created_at,
        vector=vector,
    )
    return new.model_dump_json(exclude_none=True).encode() + b"\n"


def import_lines(lines: Iterable[bytes]) -> Iterator[NewMemory]:
    """Empty lines are passed over. Raises InvalidInput that names the line, from 1."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield NewMemory.model_validate_json(line, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidInput(
                f"Line {number}: {where or 'the line'}: {first['msg']}"[:300],
                {"field": where, "line": number},
            ) from None
