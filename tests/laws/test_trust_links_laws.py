"""Links of certificates: what is written is read back, and nothing else is."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.errors import InvalidInput
from mesh.trust.present import links

IDS = st.text(alphabet=string.ascii_lowercase + "234567", min_size=32, max_size=32)
BASES = st.sampled_from(
    (
        "https://mail.example.com",
        "http://localhost:8080",
        "https://example.com/trust/of-us",
        "https://[::1]:8443",
        "https://xn--mnchen-3ya.example",
        # A path that looks like a link of ours: the last one counts.
        "https://example.com/verify",
        f"https://example.com/verify/{'a' * 32}",
    )
)
PROOFS = st.one_of(
    st.binary(min_size=1, max_size=64),
    st.binary(min_size=links.MAX_PROOF_BYTES - 3, max_size=links.MAX_PROOF_BYTES),
    st.integers(1, 64).map(bytes),
)


@given(BASES, IDS, st.none() | PROOFS, st.booleans(), st.booleans())
def test_a_link_is_read_back(
    base: str, id: str, proof: bytes | None, upper: bool, tracked: bool
) -> None:
    url = links.verify_url(base + "/" * upper, id.upper() if upper else id, proof)
    assert url.isascii()
    assert "%" not in url
    assert len(url) <= links.MAX_LINK
    if tracked:
        head, mark, tail = url.partition("#")
        url = f" {head}?utm_source=mail&x=/verify/{'b' * 32}{mark}{tail}\n"
    read = links.read_link(url)
    assert read == links.VerifyLink(base, id, proof)
    assert links.read_link(str(read)) == read


@given(PROOFS)
def test_digits_are_only_digits_and_name_one_proof(proof: bytes) -> None:
    digits = links.fragment_of(proof)
    assert set(digits) <= set(string.digits)
    assert len(digits) <= links.MAX_DIGITS
    assert links.proof_of_fragment(digits) == links.proof_of_fragment("#" + digits) == proof
    for other in (f"0{digits}", f"+{digits}", f"{digits} ", f"{digits}\n", f"##{digits}"):
        with pytest.raises(InvalidInput):
            links.proof_of_fragment(other)


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{1,60}", fullmatch=True))
def test_any_fragment_is_refused_or_is_the_one_of_its_proof(text: str) -> None:
    try:
        proof = links.proof_of_fragment(text)
    except InvalidInput:
        return
    assert links.fragment_of(proof) == text.removeprefix("#")


@given(st.binary(min_size=20, max_size=200), st.data())
def test_lost_digits_are_noticed_or_give_another_proof(proof: bytes, data: st.DataObject) -> None:
    digits = links.fragment_of(proof)
    at = data.draw(st.integers(0, len(digits) - 1))
    with suppress(InvalidInput):
        assert links.proof_of_fragment(digits[:at] + digits[at + 1 :]) != proof


@given(BASES, IDS, st.sampled_from(("png", "svg")), st.booleans())
def test_addresses_of_images_are_read_back(
    base: str, id: str, form: links.ImageForm, whole: bool
) -> None:
    qr = links.read_image_link(links.qr_url(base, id, form, whole=whole))
    assert qr == links.ImageLink(base, "qr", id, form, whole)
    badge = links.read_image_link(links.badge_url(base, id, form))
    assert badge == links.ImageLink(base, "badge", id, form)


@given(st.text(max_size=80))
def test_any_text_at_all_is_a_link_or_invalid_input(text: str) -> None:
    for read in (links.read_link, links.read_image_link, links.public_base, links.certificate_id):
        for tried in (text, f"https://example.com/verify/{text}", f"https://{text}/verify/"):
            with suppress(InvalidInput):
                assert read(tried)


@pytest.mark.parametrize(
    "base",
    [
        "ftp://example.com",
        "javascript:alert(1)",
        "https://",
        "https://user@example.com",
        "https://example.com?x=1",
        "https://example.com#x",
        "https://exa mple.com",
        'https://example.com/"onload="x',
        "https://example.com:port",
        "https://[::1",
        "https://münchen.example",
        "",
    ],
)
def test_what_is_no_public_address(base: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        links.verify_url(base, "a" * 32)
    assert refused.value.details == {"field": "base"}


def test_a_proof_that_is_too_long_is_refused() -> None:
    for proof in (b"", bytes(links.MAX_PROOF_BYTES + 1)):
        with pytest.raises(InvalidInput):
            links.fragment_of(proof)
    with pytest.raises(InvalidInput):
        links.proof_of_fragment("9" * links.MAX_DIGITS)
    with pytest.raises(InvalidInput):
        links.proof_of_fragment("1" * 5000)


def test_the_largest_certificate_fits_in_a_link() -> None:
    from mesh.trust.certificate import MAX_PATH, Compact, Proof

    proof = Proof(2**40 - 1, 2**40, (bytes(32),) * MAX_PATH)
    compact = Compact(bytes(16), bytes(32), b"k" * 16, 2**32 - 1, proof, bytes(68)).to_cbor()
    assert links.proof_of_fragment(links.fragment_of(compact)) == compact
    assert len(compact) <= links.MAX_PROOF_BYTES


def test_what_people_read_of_an_address() -> None:
    assert links.host_of("https://Mail.Example.com/x/") == "mail.example.com"
    assert links.host_of("http://localhost:8080") == "localhost:8080"
