"""As a reader's phone does it: a mail on the screen, its QR code, the page, the mail in the page.

A mail is written with the snippet (badge and QR code), certified, and rendered by Chromium at a
phone's size. The code is read from the screenshot, its link opened, and the message given to the
page as a file. Then a copy in which somebody changed a price and a link. Screenshots are kept.
"""

from __future__ import annotations

import asyncio
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from typing import Any

import zxingcpp
from PIL import Image
from playwright.async_api import Browser, BrowserContext, Page

from benchmarks.instance import Instance
from benchmarks.show.table import Claim
from benchmarks.show.trust_client import Trust, trust_of
from benchmarks.show.trust_letters import Campaign, Mail
from benchmarks.show.trust_verifiers import chromium
from mesh.trust.present.links import read_link
from mesh.trust.present.snippet import email_snippet

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
OUT = Path(__file__).resolve().parents[2] / ".cache" / "show-trust"
"""Screenshots of the last run."""
OTHERS = 5
PATIENCE_S = 60.0
FAKE_HOST = "evil.example"
EXACT = "This is exactly the certified email"


async def run(instance: Instance, full: bool) -> list[Claim]:
    campaign = _plain(int(time.time()))
    OUT.mkdir(parents=True, exist_ok=True)
    async with trust_of(instance) as trust, chromium() as browser:
        mail, certificate = await _certified(trust, campaign)
        phone = await browser.new_context(**PHONE)
        picture = await _rendered(phone, mail)
        texts = [code.text for code in zxingcpp.read_barcodes(Image.open(BytesIO(picture)))]
        read = Claim(
            "QR code in a mail, read by zxing from a phone's screenshot",
            f"{len(texts)} code: {texts[0] if texts else 'none'} "
            f"({OUT.name}/mail.png, {len(picture) // 1024} kB)",
            "the link of its certificate",
            len(texts) == 1 and read_link(texts[0]).id == certificate,
        )
        if not read.holds:
            return [read]
        claims = [read, *await _page(phone, texts[0], mail)]
        claims.append(await _whole(browser, trust, certificate, mail))
        return claims


async def _certified(trust: Trust, campaign: Campaign) -> tuple[Mail, str]:
    """Its id is known before it is written, so that it can hold its own link."""
    batch = (await trust.open("phone"))["id"]
    found = await trust.ask("GET", f"/v1/trust/batches/{batch}/ids?first=0&count=1")
    certificate = str(found["ids"][0])
    snippet = email_snippet(trust.instance.url, certificate)
    mail = campaign.mail(0, snippet.html, snippet.text + "\r\n")
    lines = [mail.line(certificate), *campaign.pieces(1, OTHERS)]
    await trust.send(f"/v1/trust/batches/{batch}/messages", lines, timeout_s=60)
    await trust.close(batch)
    await trust.until_state(batch, "final", PATIENCE_S)
    return mail, certificate


async def _rendered(phone: BrowserContext, mail: Mail) -> bytes:
    """The mail's HTML as a mail client on a phone shows it, with its pictures loaded."""
    message = message_from_bytes(mail.raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    part = message.get_body(("html",))
    assert part is not None
    page = await phone.new_page()
    # Mail clients show a mail as wide as the screen.
    head = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    html = str(part.get_content()).replace("<head>", f"<head>{head}", 1)
    await page.set_content(html, wait_until="networkidle")
    picture = await page.screenshot(full_page=True, path=OUT / "mail.png")
    await page.close()
    return picture


def _plain(seed: int) -> Campaign:
    """One whose first mail is not encoded: its bytes are its text."""
    while b"8bit" not in Campaign(seed).mail(0).raw:
        seed += 1
    return Campaign(seed)


async def _page(phone: BrowserContext, link: str, mail: Mail) -> list[Claim]:
    page = await phone.new_page()
    await page.goto(link, wait_until="networkidle")
    before = await _said(page)
    good, _ = await _given(page, mail.raw, "true")
    other_link = mail.raw.replace(b"https://shop", b"https://shop." + FAKE_HOST.encode() + b"/")
    links, what_link = await _given(page, other_link, "false-link")
    words, what_word = await _given(page, mail.raw.replace(b"Dear ", b"Poor "), "false-word")
    await page.close()
    return [
        Claim(
            "the page of that link, in Chromium on a phone",
            _short(before),
            "genuine; says its issuer and its chain state",
            "genuine" in before and "(final" in before and "localhost/trust" in before,
        ),
        Claim(
            "… with the mail given to it",
            _short(good),
            "verifies in the browser: exactly the certified one",
            good.startswith(EXACT) and "Not revoked" in good and "(final" in good,
        ),
        Claim(
            "… with a copy whose link leads elsewhere",
            f"{_short(links)}; {_short(what_link)}",
            "says so, and where",
            not links.startswith(EXACT) and f"shop.{FAKE_HOST}" in what_link,
        ),
        Claim(
            "… with a copy in which a word is another",
            f"{_short(words)}; {_short(what_word)}",
            "says that the text differs",
            not words.startswith(EXACT) and "text" in what_word.lower(),
        ),
    ]


async def _given(page: Page, raw: bytes, name: str) -> tuple[str, str]:
    """What the page says at its head, and of differences, once this file was given to it."""
    before = await page.inner_text("#status")
    await page.set_input_files(
        "input[type=file]", {"name": "mail.eml", "mimeType": "message/rfc822", "buffer": raw}
    )
    for _ in range(100):
        if await page.inner_text("#status") != before:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)  # it moves there softly
    await page.screenshot(full_page=True, path=OUT / f"{name}.png")
    hidden = await page.locator("#differences").is_hidden()
    differences = "" if hidden else _line(await page.inner_text("#differences-body"))
    return await _said(page), differences


async def _whole(browser: Browser, trust: Trust, certificate: str, mail: Mail) -> Claim:
    """The other code: it holds the whole proof, so the page needs no more of the instance."""
    picture = await trust.fetch("GET", f"/qr/{certificate}.png?proof=true", public=True)
    codes = zxingcpp.read_barcodes(Image.open(BytesIO(picture)))
    link = codes[0].text if codes else ""
    phone = await browser.new_context(**PHONE)
    page = await phone.new_page()
    await page.goto(link, wait_until="networkidle")
    await phone.set_offline(True)
    said, _ = await _given(page, mail.raw, "offline")
    await phone.close()
    proof = read_link(link).proof or b""
    return Claim(
        "… the QR code with the whole proof, the network cut once the page is open",
        f"{len(link)} characters, {len(proof)} bytes of proof; {_short(said)}",
        "verifies",
        bool(proof) and said.startswith(EXACT),
    )


async def _said(page: Page) -> str:
    return _line(await page.inner_text("#status"))


def _line(text: str) -> str:
    return " ".join(text.split())


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
