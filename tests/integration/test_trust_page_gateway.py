"""The verification page as the gateway serves it: its policy, its routes, its files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import BytesIO
from typing import Any
from uuid import UUID

import httpx
import pytest
import zxingcpp
from PIL import Image
from streams_support import serving

from benchmarks.trustworks.papers import mail
from mesh.contracts.trust import BatchState
from mesh.trust.present.links import read_link
from tests.integration.test_trust_gateway import Both, anybody, both, certify, client
from tests.trust_page_support import browser, why_no_browser

__all__ = ["anybody", "both", "client"]

pytestmark = pytest.mark.skipif(why_no_browser() is not None, reason=str(why_no_browser()))


def seen(url: str, *acts: Callable[[Any], None]) -> list[str]:
    """The large words after opening, and after each act."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 390, "height": 844})
        told: list[str] = []
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("console", lambda message: told.append(message.text))
        page.goto(url)
        words = []
        for turn, act in enumerate((lambda _: None, *acts), 1):
            act(page)
            page.wait_for_selector(f"html[data-ready='{turn}']")
            words.append(page.inner_text("#title"))
        assert told == []
        return words


def choosing(message: bytes) -> Callable[[Any], None]:
    file = {"name": "mail.eml", "mimeType": "message/rfc822", "buffer": message}
    return lambda page: page.set_input_files("#file", files=[file])


async def test_page_from_the_gateway(
    client: httpx.AsyncClient, both: Both, anybody: httpx.AsyncClient
) -> None:
    filled = await certify(client, 800)
    ids = [told["id"] for told in filled["certificates"]]
    await both.trust.anchor(UUID(filled["batch"]["id"]), BatchState.FINAL)
    message = mail(number=801)
    tampered = message.replace(b"third", b"tenth")
    picture = await anybody.get(f"/qr/{ids[1]}.png?proof=true&size=720")
    (code,) = zxingcpp.read_barcodes(Image.open(BytesIO(picture.content)).convert("L"))
    assert read_link(code.text).id == ids[1]
    async with serving(both.house.app) as place:
        _, _, path = code.text.partition("/verify/")
        acts = (choosing(message), choosing(tampered))
        words = await asyncio.to_thread(seen, f"http://{place}/verify/{path}", *acts)
        assert words == [
            "This certificate is genuine",
            "This is exactly the certified email",
            "The text was changed",
        ]
        await client.post(f"/v1/trust/certificates/{ids[1]}/revoke", json={"reason": "other"})
        words = await asyncio.to_thread(seen, f"http://{place}/verify/{ids[1].upper()}", acts[0])
        assert words == ["Taken back, as the site says"] * 2
