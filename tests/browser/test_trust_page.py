"""The verification page in Chromium, against a site with one certificate.

What people read is what is checked here: the large words, what differs, what is the site's word
and what is not. The verdicts themselves are compared with the package's elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.trustworks.mutants import Cases
from benchmarks.trustworks.papers import NEXT_KEY, batch, mail
from mesh.trust.attach import with_header
from tests.trust_page_questions import differences, question_of, verdict_of
from tests.trust_page_site import Site, new_site, running
from tests.trust_page_support import BrowserJudge, browser, served, why_no_browser

pytestmark = pytest.mark.skipif(why_no_browser() is not None, reason=str(why_no_browser()))

FOOTER = b'<p>-- Scanned by Mail Guard. See <a href="https://guard.example.net/x">why</a></p>'
LISTENS = "http://127.0.0.1:"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def site() -> Iterator[Site]:
    with running(new_site(leaves=100)) as found:
        yield found


@pytest.fixture
def page(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """Anything that the page logs or that its policy refuses is a failure."""
    context = chromium.new_context(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    tab = context.new_page()
    told: list[str] = []
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("console", lambda message: told.append(message.text))
    yield tab
    context.close()
    assert [one for one in told if "Failed to load resource" not in one] == []


def opened(page: Any, url: str) -> Any:
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    return page


def checked(page: Any, message: bytes) -> str:
    """The large words after an email was chosen."""
    before = int(page.evaluate("document.documentElement.dataset.ready"))
    file = {"name": "mail.eml", "mimeType": "message/rfc822", "buffer": message}
    page.set_input_files("#file", files=[file])
    page.wait_for_selector(f"html[data-ready='{before + 1}']")
    return str(page.inner_text("#title"))


def tone(page: Any) -> str:
    return str(page.get_attribute("#status", "data-tone"))


def lines(page: Any, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def test_opens_with_what_is_proven_so_far(page: Any, site: Site) -> None:
    opened(page, site.url)
    assert (page.inner_text("#title"), tone(page)) == ("This certificate is genuine", "neutral")
    told = lines(page, "#proven li")
    assert told[0] == "Signed by example.com/trust"
    assert told[1].startswith("Not revoked, as of ")
    assert told[2] == "Recorded in block 4711 of local (final, by the site’s word)"
    assert told[3] == "Your email: not compared yet"
    assert "Spring has begun" in page.inner_text("#facts")
    assert "a…@e….org" in page.inner_text("#facts")
    assert page.inner_text("#as-of") == "As of 21 March 2026 at 10:00 UTC."
    assert set(site.asked) >= {f"/v1/trust/receipts/{site.root}"}
    assert not any("POST" in path for path in site.asked)


def test_the_certified_email_is_exactly_it(page: Any, site: Site) -> None:
    opened(page, site.url)
    assert checked(page, site.message) == "This is exactly the certified email"
    assert tone(page) == "good"
    assert not page.is_visible("#differences")
    assert page.inner_text("#facts").count("✓ as in your email") == 3
    results = [
        page.get_attribute(f"#steps li:nth-child({n}) .result", "data-tone") for n in range(1, 10)
    ]
    assert results == ["good"] * 8 + ["part"]  # the block is the site's word
    assert page.evaluate("document.activeElement.id") == "title"


def test_pasted_source_is_the_same_text(page: Any, site: Site) -> None:
    opened(page, site.url)
    page.click("text=Paste its source instead")
    page.fill("#source", site.message.decode())
    page.click("#check-source")
    page.wait_for_selector("html[data-ready='2']")
    assert page.inner_text("#title") == "This is exactly the certified email"


def test_added_text_is_shown_as_text(page: Any, site: Site) -> None:
    opened(page, site.url)
    markup = b"<p>&lt;img src=x onerror=alert(1)&gt; pay here</p>" + FOOTER
    words = checked(page, site.message.rstrip(b"\r\n") + markup + b"\r\n")
    assert (words, tone(page)) == ("The certified text, with something added", "warn")
    told = page.inner_text("#differences")
    assert "<img src=x onerror=alert(1)> pay here" in told
    assert "-- Scanned by Mail Guard. See why" in told
    assert "https://guard.example.net" in told
    assert page.locator("#differences img").count() == 0


@pytest.mark.parametrize(
    ("old", "new", "words", "told"),
    [
        (b"a third off", b"free", "The text was changed", "The text"),
        (
            b"shop.example.com/spring",
            b"shop.evil.example/spring",
            "Links were changed",
            "https://shop.evil.example",
        ),
        (
            b"Hello <b>Anna</b>",
            b"https://evil.example",
            "This is not the certified email",
            "The text",
        ),
    ],
)
def test_tampered_copies_say_what_differs(
    page: Any, site: Site, old: bytes, new: bytes, words: str, told: str
) -> None:
    opened(page, site.url)
    assert old in site.message
    assert checked(page, site.message.replace(old, new)) == words
    assert tone(page) == "bad"
    assert told in page.inner_text("#differences")
    assert page.get_attribute("#steps li:nth-child(4) .result", "data-tone") == "bad"


def test_another_email_and_another_recipient(page: Any, site: Site) -> None:
    opened(page, site.url)
    assert checked(page, mail("<p>Something else entirely, of another day.</p>")) == (
        "This is not the certified email"
    )
    other = site.message.replace(b"anna1@example.org", b"bert@example.org")
    assert checked(page, other) == "Genuine, but for another address"
    assert "✕ another one in your email" in page.inner_text("#facts")


def test_issuer_that_is_not_the_sender_is_noted(page: Any, site: Site) -> None:
    """Anybody may certify mail that says it is from a bank."""
    closed = batch([mail("<p>Your account is closed.</p>", From="bank@bank.example")])
    site.certificate = closed.certificates[0].to_json()
    opened(page, site.url)
    assert "example.com/trust vouches for this email from bank.example" in page.inner_text(
        "#notices"
    )


def test_recipient_that_is_entered_counts(page: Any, site: Site) -> None:
    opened(page, site.url)
    checked(page, site.message)
    page.click("text=Whom this check trusts")
    page.fill("#own-recipient", "bert@example.org")
    page.click("text=Check with these")
    page.wait_for_selector("html[data-ready='3']")
    assert page.inner_text("#title") == "Genuine, but for another address"
    assert "Not for the address that you entered." in page.inner_text("#notices")


def test_own_block_makes_the_record_ones_own(page: Any, site: Site) -> None:
    opened(page, site.url)
    page.click("text=Whom this check trusts")
    page.fill("#own-blocks", site.block.replace(":", ":0x"))
    page.click("text=Check with these")
    page.wait_for_selector("html[data-ready='2']")
    assert "Recorded in block 4711 of local (final, by your own sources)" in lines(
        page, "#proven li"
    )
    page.fill("#own-blocks", "31337:" + "00" * 32)
    page.click("text=Check with these")
    page.wait_for_selector("html[data-ready='3']")
    assert page.inner_text("#title") == "This certificate does not hold"
    assert "not known as its own" in page.inner_text("#lead")
    page.fill("#own-blocks", "nonsense")
    page.click("text=Check with these")
    assert "a block is written as chain:hash" in page.inner_text("#own-error")


def test_own_key_is_believed_instead_of_the_sites(page: Any, site: Site) -> None:
    opened(page, site.url)
    page.click("text=Whom this check trusts")
    page.fill("#own-keys", str(NEXT_KEY.verifier))
    page.click("text=Check with these")
    page.wait_for_selector("html[data-ready='2']")
    assert page.inner_text("#title") == "This certificate does not hold"
    assert "No trusted key has signed" in page.inner_text("#lead")


def test_the_sites_word_is_not_taken(page: Any, site: Site) -> None:
    """It says final; the certificate is of a key that nobody trusts, the receipt is not there."""
    site.keys, site.receipt = [str(NEXT_KEY.verifier)], None
    opened(page, site.url)
    assert (page.inner_text("#title"), tone(page)) == ("This certificate does not hold", "bad")
    assert lines(page, "#proven li")[0] == "Signature: not proven"
    assert not any("Recorded" in line for line in lines(page, "#proven li"))


def revoke(site: Site) -> None:
    site.revocations.append(site.revocation)


def say_revoked(site: Site) -> None:
    assert site.view
    site.view["revoked"] = {
        "reason": "sent in error",
        "at": "2026-03-21T08:00:00Z",
        "state": "open",
    }


def orphan(site: Site) -> None:
    assert site.view
    site.view |= {"state": "orphaned", "anchors": []}
    site.receipt = None


def hold_open(site: Site) -> None:
    assert site.view
    site.view |= {"state": "open", "size": 0, "root": None, "leaf": None, "anchors": []}
    site.certificate = site.receipt = None


def forget(site: Site) -> None:
    assert site.view
    site.view |= {"forgotten": True, "subject": None, "date": None, "recipient_masked": None}
    site.certificate = None


def lose(site: Site) -> None:
    site.view = site.certificate = site.receipt = None


def break_down(site: Site) -> None:
    site.down = True


@pytest.mark.parametrize(
    ("change", "words", "noted"),
    [
        (revoke, "The sender has taken this certificate back", ""),
        (say_revoked, "Taken back, as the site says", ""),
        (orphan, "This certificate is genuine", "Being recorded again."),
        (hold_open, "Taken in, not sealed yet", ""),
        (forget, "The personal data was erased", ""),
        (lose, "There is no such certificate here", ""),
        (break_down, "The site can’t be reached", ""),
    ],
)
def test_states(
    page: Any, site: Site, change: Callable[[Site], None], words: str, noted: str
) -> None:
    change(site)
    opened(page, site.url)
    assert page.inner_text("#title") == words
    assert noted in page.inner_text("#notices")


def test_link_with_the_whole_proof_needs_no_papers(page: Any, site: Site) -> None:
    """The server knows its keys and nothing else: the certificate is in the link."""
    lose(site)
    opened(page, site.url_with_proof)
    assert page.inner_text("#title") == "Now choose the email"
    assert checked(page, site.message) == "This is exactly the certified email"
    assert (
        checked(page, site.message.replace(b"third", b"tenth")) == "This is not the certified email"
    )


def test_link_with_another_proof_is_noted(page: Any, site: Site) -> None:
    site.compact = new_site(leaves=7).compact
    opened(page, site.url_with_proof)
    assert "The link’s proof is another certificate’s." in page.inner_text("#notices")


def test_email_that_carries_its_certificate(page: Any, site: Site) -> None:
    lose(site)
    site.view = None
    opened(page, site.url)
    message = with_header(site.message, site.compact)
    assert checked(page, message) == "This is exactly the certified email"


def test_saved_page_works_alone(chromium: Any, page: Any, site: Site, tmp_path: Path) -> None:
    opened(page, site.url)
    with page.expect_download() as download:
        page.click("#save")
    file = tmp_path / "certificate.html"
    download.value.save_as(file)
    markup = file.read_text().partition("<script")[0]
    assert not re.search(r'(src|href)="(?!data:|#)', markup)
    site.down = True
    site.asked.clear()
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab = context.new_page()
    told: list[str] = []
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("console", lambda message: told.append(message.text))
    opened(tab, file.as_uri())
    assert tab.inner_text("#title") == "This certificate is genuine"
    assert "Saved on" in tab.inner_text("#as-of")
    assert checked(tab, site.message) == "This is exactly the certified email"
    assert checked(tab, site.message.replace(b"third", b"tenth")) == "The text was changed"
    japanese = "Subject: x\r\nContent-Type: text/plain; charset=iso-2022-jp\r\n\r\nこんにちは\r\n"
    assert checked(tab, japanese.encode("iso-2022-jp")) == "This is not the certified email"
    assert not tab.is_visible("#save")
    context.close()
    assert (told, site.asked) == ([], [])


def test_saved_page_asks_the_readers_own_nodes(
    chromium: Any, page: Any, site: Site, tmp_path: Path
) -> None:
    opened(page, site.url)
    with page.expect_download() as download:
        page.click("#save")
    file = tmp_path / "certificate.html"
    download.value.save_as(file)
    context = chromium.new_context(reduced_motion="reduce")
    tab = opened(context.new_page(), file.as_uri())
    tab.click("text=Whom this check trusts")
    tab.fill("#own-nodes", f"{site.address}/node\n{site.address}/other-node")
    tab.fill("#own-need", "2")
    tab.click("text=Check with these")
    tab.wait_for_selector("html[data-ready='2']")
    assert "Recorded in block 4711 of local (final, by your own sources)" in lines(
        tab, "#proven li"
    )
    assert site.asked.count("eth_chainId") == 2
    tab.fill("#own-need", "3")
    tab.click("text=Check with these")
    tab.wait_for_selector("html[data-ready='3']")
    assert "not known as its own" in tab.inner_text("#lead")
    context.close()


def test_without_webcrypto(page: Any, site: Site) -> None:
    """As on plain http from another host: the page's own code verifies the signature."""
    page.add_init_script("Object.defineProperty(crypto, 'subtle', { value: undefined })")
    opened(page, site.url)
    assert checked(page, site.message) == "This is exactly the certified email"
    site.keys = [str(NEXT_KEY.verifier)]
    opened(page, site.url)
    assert page.inner_text("#title") == "This certificate does not hold"


def test_verdicts_in_the_browser_are_the_packages(chromium: Any) -> None:
    """In its own engine and its own WebCrypto; the many are judged where it is quicker."""
    cases = Cases()
    chosen = cases.originals() + list(cases.mutants(150, 6))
    with served() as address:
        tab = chromium.new_page()
        tab.goto(f"{address}/serve_apps/trust_page/package.json")
        answers = BrowserJudge(tab)([question_of(cases, case) for case in chosen])
        tab.close()
    for case, theirs in zip(chosen, answers, strict=True):
        assert not differences(verdict_of(cases, case), theirs), case


def test_fits_a_phone_and_can_be_used_by_keys(page: Any, site: Site) -> None:
    opened(page, site.url)
    checked(page, site.message)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    unlabelled = page.evaluate(
        "[...document.querySelectorAll('input, textarea, button')]"
        ".filter((one) => !(one.labels?.length || one.textContent)).length"
    )
    assert unlabelled == 0
    page.focus("#file")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.get_attribute("#status", "aria-live") == "polite"
