"""``maily verify``: finds the certificate, asks only whom it was told to, says what differs."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from cluster import cli
from cluster.cli import console
from cluster.failures import NO_CERTIFICATE, NO_NETWORK, REVOKED, UNHEALTHY, USAGE
from mesh.trust.attach import attached
from mesh.trust.certificate import Proof, Revocation
from mesh.trust.leaf import revocation_hash
from mesh.trust.present import links, snippet
from mesh.trust.receipt import Anchor, Receipt
from tests.trust_support import CHAIN, CONTRACT, KEY, Batch, batch, event_anchor, mail

ID = "a2b3c4d5" * 4
MIXED = {"Content-Type": 'multipart/mixed; boundary="b"'}
BODY = (
    "--b\r\nContent-Type: text/html\r\n\r\n<p>Hello Anna, our spring sale has begun: everything "
    "for the garden is a third off until Sunday.</p>\r\n--b--"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("MAILY_", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAILY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """(exit code, standard output) of ``maily verify …``, as the shell would run it."""

    def go(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["maily", "verify", *map(str, arguments)])
        monkeypatch.setattr(console, "current", console.Invocation())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out + told.err

    return go


class Papers:
    """A mail, its batch, receipt and revocation."""

    def __init__(self) -> None:
        self.raw = mail(BODY, **MIXED)
        self.batch: Batch = batch([self.raw], filler=7)
        self.certificate = self.batch.certificates[0]
        self.anchor: Anchor = event_anchor(self.batch.tree.root, count=8)
        self.receipt = Receipt(self.batch.note, (self.anchor,))
        leaf = self.certificate.leaf.hash
        later = batch([], extra=(revocation_hash(leaf, 1_780_000_000, 1),), filler=3, seed=5)
        self.revocation = Revocation(leaf, 1_780_000_000, 1, Proof.of(later.tree, 0), later.note)
        self.block = f"{CHAIN}:0x{keccak(self.anchor.header).hex()}"
        self.key = str(KEY.verifier)


@pytest.fixture(scope="module")
def papers() -> Papers:
    return Papers()


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def row(text: str, name: str) -> str:
    """What stands beside a name in the answer for people."""
    return next(line for line in text.splitlines() if line.startswith(f"  {name} "))


# --- Where the certificate is -------------------------------------------------------------------


def test_the_certificate_is_found_in_the_message(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    code, text = run(sent, "--key", papers.key)
    assert code == 0
    assert "✓ exact" in text
    assert "in the message (part), JSON" in text
    assert "example.com: same as in the message" in text
    # Of a message that is no multipart/mixed: the header.
    raw = mail()
    small = batch([raw], filler=3).certificates[0]
    sent = write(home / "h.eml", attached(raw.replace(b"\r\n", b"\n"), small.to_json()))
    code, text = run(sent, "--key", papers.key, "--exact")
    assert code == 0
    assert "in the message (header), CBOR" in text


@pytest.mark.parametrize("ending", [".certificate.json", ".json", ".cbor"])
def test_the_certificate_is_found_beside_the_message(
    home: Path, papers: Papers, run: Any, ending: str
) -> None:
    sent = write(home / "m.eml", papers.raw)
    code, text = run(sent, "--key", papers.key)
    assert code == NO_CERTIFICATE
    assert "no certificate" in text
    form = papers.certificate
    data = form.compact().to_cbor() if ending == ".cbor" else form.to_json() + b"\n"
    write(home / f"m{ending}", data)
    code, text = run(sent, "--key", papers.key)
    assert code == 0
    assert f"m{ending}" in text


def test_a_certificate_can_be_named_in_any_form(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", papers.raw)
    compact = papers.certificate.compact().to_cbor()
    named = [
        str(write(home / "c.json", papers.certificate.to_json())),
        str(write(home / "c.cbor", compact)),
        links.fragment_of(compact),
        f"#{links.fragment_of(compact)}",
        links.verify_url("https://mail.example.com", ID, compact),
    ]
    for one in named:
        code, text = run(sent, "--key", papers.key, "--certificate", one, "--offline")
        assert (code, "✓ exact" in text) == (0, True), one
    for wrong in ("nothing.json", "12345", "https://example.com/other", "ö", "\x00"):
        code, text = run(sent, "--key", papers.key, "-c", wrong)
        assert code == USAGE, wrong
    for known_there in (ID, links.verify_url("https://mail.example.com", ID)):
        code, text = run(sent, "--key", papers.key, "-c", known_there)
        assert code == USAGE
        assert "--server" in text


def test_a_link_in_the_message_is_told_and_not_opened(home: Path, papers: Papers, run: Any) -> None:
    said = snippet.email_snippet("https://mail.example.com", ID).html
    sent = write(home / "m.eml", mail(f"<p>Hello</p>{said}"))
    code, text = run(sent, "--key", papers.key)
    assert code == NO_CERTIFICATE
    assert f"https://mail.example.com/verify/{ID}" in text
    # One that holds the proof needs nobody.
    whole = links.verify_url("https://x.example", ID, papers.certificate.compact().to_cbor())
    sent = write(
        home / "w.eml", papers.raw.replace(b"</p>", f' <a href="{whole}">x</a></p>'.encode())
    )
    code, text = run(sent, "--key", papers.key)
    assert "in the message (link), CBOR" in text


# --- What it says -------------------------------------------------------------------------------


def test_what_differs_is_said(home: Path, papers: Papers, run: Any) -> None:
    certificate = write(home / "c.json", papers.certificate.to_json())
    give = ("--key", papers.key, "-c", certificate)

    code, text = run(write(home / "a.eml", papers.raw.replace(b"a third", b"a half")), *give)
    assert code == UNHEALTHY
    assert "✗ different" in text
    assert "Step 4" in text
    assert "text" in row(text, "differs")

    subject = write(home / "b.eml", papers.raw.replace(b"Spring has", b"Winter has"))
    code, text = run(subject, *give)
    assert code == 0
    assert "✓ same text" in text
    assert "Subject, attachments" in text
    assert run(subject, *give, "--exact")[0] == UNHEALTHY

    more = papers.raw.replace(
        b"Sunday.", b"Sunday. \x1b[31mPay at https://evil.example/x\x1b[0m now"
    )
    code, text = run(write(home / "c.eml", more), *give)
    assert code == 0
    assert "✓ same text with additions" in text
    assert "https://evil.example" in text
    assert "\x1b" not in text  # what a message says gets at no terminal

    code, text = run(write(home / "d.eml", papers.raw), *give, "--recipient", "eve@example.org")
    assert code == 0
    assert "another than in the message" in row(text, "recipient")


def test_json_says_the_same(home: Path, papers: Papers, run: Any) -> None:
    certificate = write(home / "c.json", papers.certificate.to_json())
    give = ("--key", papers.key, "-c", certificate, "--json")
    code, text = run(write(home / "a.eml", papers.raw), *give)
    told = json.loads(text)
    assert code == told["exit_code"] == 0
    assert (told["holds"], told["level"], told["state"]) == (True, "exact", "included")
    assert told["root"] == papers.batch.tree.root.hex()
    assert told["checked"] == {"revocations": None, "receipt": False}
    code, text = run(write(home / "b.eml", b"\r\nother"), *give)
    told = json.loads(text)
    assert code == told["exit_code"] == UNHEALTHY
    assert (told["holds"], told["failed_step"], told["level"]) == (False, 4, "different")


def test_several_messages_are_a_table(home: Path, papers: Papers, run: Any) -> None:
    good = write(home / "good.eml", attached(papers.raw, papers.certificate.to_json()))
    bad = write(
        home / "bad.eml",
        attached(papers.raw, papers.certificate.to_json()).replace(b"third", b"half"),
    )
    none = write(home / "none.eml", papers.raw)
    code, text = run(good, good, "--key", papers.key)
    assert code == 0
    assert "2 of 2 hold." in text
    code, text = run(good, bad, none, "--key", papers.key)
    assert code == 1
    assert "1 of 3 hold." in text
    assert "no certificate" in text
    assert run(none, good, none, "--key", papers.key)[0] == NO_CERTIFICATE
    code, text = run(good, bad, "--key", papers.key, "--json")
    assert [told["exit_code"] for told in json.loads(text)] == [0, 1]


def test_standard_input(
    home: Path, papers: Papers, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = attached(papers.raw, papers.certificate.to_json())
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(sent)))
    code, text = run("-", "--key", papers.key)
    assert (code, "✓ exact" in text) == (0, True)


# --- Keys, receipts, revocations ----------------------------------------------------------------


def test_keys_of_the_home_are_the_default(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    code, text = run(sent)
    assert code == USAGE
    assert "trusted-keys" in text
    assert not (home / "home").exists()
    (home / "home").mkdir()
    kept = write(home / "home" / "trusted-keys", f"# of the shop\n\n{papers.key}\n")
    assert run(sent)[0] == 0
    write(kept, "example.com/trust+00000000+AAAA\n")
    code, text = run(sent)
    assert code == USAGE
    assert "line 1" in text
    assert run(sent, "--key", papers.key)[0] == 0
    other = str(type(KEY)("example.com/trust", bytes(32)).verifier)
    code, text = run(sent, "--keys", write(home / "k", other))
    assert code == UNHEALTHY
    assert "Step 7" in text


def test_a_receipt_needs_somebody_who_knows_blocks(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    give = (sent, "--key", papers.key, "--receipt", receipt)
    code, text = run(*give)
    assert code == USAGE
    assert "--headers" in text
    blocks = write(home / "blocks", f"# mine\n{papers.block} # spring\n")
    code, text = run(*give, "--headers", f"pinned:{blocks}", "--final", "--offline")
    assert code == 0
    assert "final. A public network has it for good" in text
    assert "4711 of chain 31337" in text
    place = f"{CHAIN}:0x{CONTRACT.hex()}"
    assert run(*give, "--headers", f"pinned:{blocks}", "--contract", place)[0] == 0
    other = f"{CHAIN}:0x{bytes(20).hex()}"
    assert run(*give, "--headers", f"pinned:{blocks}", "--contract", other)[0] == UNHEALTHY
    assert run(*give, "--headers", f"pinned:{blocks}", "--networks", "2")[0] == UNHEALTHY
    write(blocks, f"{CHAIN}:{'0' * 64}\n")
    code, text = run(*give, "--headers", f"pinned:{blocks}")
    assert code == UNHEALTHY
    assert "Step 9" in text
    # The home's file is the default.
    (home / "home").mkdir()
    write(home / "home" / "trusted-blocks", papers.block)
    assert run(*give, "--final")[0] == 0
    # Another batch's receipt does not pass for this one's.
    strange = batch([mail("<p>x</p>")])
    write(receipt, Receipt(strange.note, (event_anchor(strange.tree.root, count=8),)).to_json())
    assert run(*give)[0] == UNHEALTHY


@pytest.mark.parametrize(
    "wrong",
    ["", "pinned:", "pinned:nothing", "node:", "quorum:http://a", "quorum:http://a/2", "other:x"],
)
def test_policies_that_cannot_be(home: Path, papers: Papers, run: Any, wrong: str) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    code, _ = run(sent, "--key", papers.key, "--receipt", receipt, "--headers", wrong)
    assert code == USAGE


@pytest.mark.parametrize("form", ["one", "lines", "page"])
def test_a_revocation_counts(home: Path, papers: Papers, run: Any, form: str) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    entry = papers.revocation.to_json()
    page = {"revocations": [json.loads(entry)], "next": None, "as_of": "2026-03-20T09:00:00Z"}
    data = {"one": entry, "lines": entry + b"\n" + entry + b"\n", "page": json.dumps(page)}[form]
    code, text = run(sent, "--key", papers.key, "--revocations", write(home / "r", data))
    assert code == REVOKED
    assert "✗ revoked" in text
    assert "Step 8" in text
    write(home / "r", "[]")
    code, text = run(sent, "--key", papers.key, "--revocations", home / "r")
    assert code == 0
    assert "0 looked at" in text
    assert "not looked at" in run(sent, "--key", papers.key)[1]
    write(home / "r", b"[{}]")
    assert run(sent, "--key", papers.key, "--revocations", home / "r")[0] == USAGE


# --- Servers and nodes --------------------------------------------------------------------------


class Site(ThreadingHTTPServer):
    """Answers ``answers[path]``, or JSON-RPC from ``rpc[method]``; counts what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: dict[str, bytes] = {}
        self.rpc: dict[str, Any] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._send(self.server.answers.get(self.path))

    def do_POST(self) -> None:
        call = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(call["method"])
        found = self.server.rpc[call["method"]]
        result = found(*call["params"]) if callable(found) else found
        self._send(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}).encode())

    def _send(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    made = [Site() for _ in range(3)]
    threads = [threading.Thread(target=site.serve_forever, args=(0.02,)) for site in made]
    for thread in threads:
        thread.start()
    yield made
    for site in made:
        site.shutdown()
        site.server_close()
    for thread in threads:
        thread.join()


def node(site: Site, papers: Papers, *, final: bool = True, block: bytes | None = None) -> str:
    known = block or keccak(papers.anchor.header)

    def by_number(number: str, _: bool) -> dict[str, str] | None:
        if number == "finalized":
            return {"number": hex(4711 if final else 4710), "hash": "0x00"}
        return {"number": number, "hash": f"0x{known.hex()}"} if number == hex(4711) else None

    site.rpc = {"eth_chainId": hex(CHAIN), "eth_getBlockByNumber": by_number}
    return site.url


def instance(site: Site, papers: Papers, *, revoked: bool = False) -> str:
    leaf, root = papers.certificate.leaf.hash.hex(), papers.batch.tree.root.hex()
    entries = [json.loads(papers.revocation.to_json())] if revoked else []
    first = {"revocations": [], "next": "a b", "as_of": "2026-03-20T09:00:00Z"}
    site.answers = {
        f"/v1/trust/certificates/{ID}.json": papers.certificate.to_json(),
        f"/v1/trust/receipts/{root}": papers.receipt.to_json(),
        "/v1/trust/keys": json.dumps({"keys": [papers.key], "live": [papers.key]}).encode(),
        f"/v1/trust/revocations?leaf={leaf}": json.dumps(first).encode(),
        f"/v1/trust/revocations?leaf={leaf}&after=a+b": json.dumps(
            first | {"revocations": entries, "next": None}
        ).encode(),
    }
    return site.url


def test_what_is_missing_comes_from_the_server_that_was_named(
    home: Path, papers: Papers, run: Any, sites: list[Site]
) -> None:
    site, chain, _ = sites
    url, rpc = instance(site, papers), node(chain, papers)
    sent = write(home / "m.eml", papers.raw)
    code, text = run(sent, "-c", ID, "--server", url)
    assert code == 0
    assert f"as {url} says now" in text
    assert "0 looked at" in text
    assert "whom to believe" in text  # a receipt is there, and no policy
    code, text = run(sent, "-c", links.verify_url("https://other.example", ID), "--server", url,
                     "--headers", f"node:{rpc}", "--final")  # fmt: skip
    assert code == 0
    assert "final: 0x" in text
    instance(site, papers, revoked=True)
    assert run(sent, "-c", ID, "--server", url)[0] == REVOKED
    # A link in the message leads there only if it is the server that was named.
    said = f'<a href="{url}/verify/{ID}">check</a></p>'
    linked = write(home / "l.eml", papers.raw.replace(b"</p>", said.encode()))
    site.asked.clear()
    assert run(linked, "--server", chain.url, "--key", papers.key)[0] == NO_CERTIFICATE
    assert site.asked == []
    run(linked, "--server", url, "--key", papers.key)
    assert f"/v1/trust/certificates/{ID}.json" in site.asked


def test_offline_asks_nobody(home: Path, papers: Papers, run: Any, sites: list[Site]) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    give = (sent, "--key", papers.key, "--receipt", receipt, "--offline")
    assert run(*give, "--server", sites[0].url)[0] == USAGE
    assert run(*give, "--headers", f"node:{sites[0].url}")[0] == USAGE
    assert run(*give, "--headers", f"pinned:{write(home / 'b', papers.block)}")[0] == 0
    assert sites[0].asked == []


def test_a_quorum_of_nodes(home: Path, papers: Papers, run: Any, sites: list[Site]) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    give = (sent, "--key", papers.key, "--receipt", receipt)
    one, two, three = (node(site, papers) for site in sites)
    three_of_three = f"quorum:{one},{two},{three}/3"
    assert run(*give, "--headers", three_of_three, "--final")[0] == 0
    node(sites[1], papers, final=False)
    code, text = run(*give, "--headers", three_of_three)
    assert code == 0
    assert "confirmed." in text
    assert run(*give, "--headers", three_of_three, "--final")[0] == UNHEALTHY
    assert run(*give, "--headers", f"quorum:{one},{two},{three}/2", "--final")[0] == 0
    node(sites[2], papers, block=bytes(32))  # it has another block at that height
    assert run(*give, "--headers", three_of_three)[0] == UNHEALTHY
    # The same node twice is one voice.
    assert run(*give, "--headers", f"quorum:{one},{one}/2")[0] == USAGE


def test_a_node_that_knows_no_final_blocks(
    home: Path, papers: Papers, run: Any, sites: list[Site]
) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    url = node(sites[0], papers)
    by_number = sites[0].rpc["eth_getBlockByNumber"]
    give = (sent, "--key", papers.key, "--receipt", receipt, "--headers", f"node:{url}")
    for finalized in (None, "nonsense"):
        sites[0].rpc["eth_getBlockByNumber"] = lambda number, full, told=finalized: (
            told if number == "finalized" else by_number(number, full)
        )
        assert run(*give)[0] == 0
        assert run(*give, "--final")[0] == UNHEALTHY


def test_a_node_of_another_chain_knows_nothing(
    home: Path, papers: Papers, run: Any, sites: list[Site]
) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    url = node(sites[0], papers)
    sites[0].rpc["eth_chainId"] = "0x1"
    give = (sent, "--key", papers.key, "--receipt", receipt, "--headers", f"node:{url}")
    assert run(*give)[0] == UNHEALTHY
    for nonsense in ("x", None, {}, "0x"):
        sites[0].rpc["eth_chainId"] = nonsense
        assert run(*give)[0] == NO_NETWORK


def test_who_does_not_answer_is_told(
    home: Path, papers: Papers, run: Any, sites: list[Site]
) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    gone = sites[0].url
    sites[0].shutdown()
    sites[0].server_close()
    give = (sent, "--key", papers.key)
    code, text = run(*give, "--receipt", receipt, "--headers", f"node:{gone}")
    assert code == NO_NETWORK
    assert "can't be reached" in text
    assert run(*give, "--server", gone)[0] == NO_NETWORK
    assert run(*give, "--server", "ftp://x")[0] == USAGE
    # An instance that speaks nonsense, and one that has nothing.
    sites[1].answers = {"/v1/trust/keys": b"[]"}
    assert run(sent, "--server", sites[1].url)[0] == NO_NETWORK
    assert run(sent, "--server", sites[2].url)[0] == NO_NETWORK


def test_an_answer_that_drips_for_ever_is_given_up(
    monkeypatch: pytest.MonkeyPatch, papers: Papers, sites: list[Site]
) -> None:
    from cluster.failures import Failure
    from cluster.verifying import fetch

    url = instance(sites[0], papers)
    monkeypatch.setattr(fetch, "DEADLINE_S", -1.0)
    with fetch.client() as http, pytest.raises(Failure, match="takes longer"):
        fetch.fetch(http, "GET", f"{url}/v1/trust/keys")
    monkeypatch.undo()
    with fetch.client() as http, pytest.raises(Failure, match="more than 5 bytes"):
        fetch.fetch(http, "GET", f"{url}/v1/trust/keys", limit=5)


def test_json_does_not_steer_a_terminal(home: Path, papers: Papers, run: Any) -> None:
    added = "Sunday. \x9b31m and \u202eback Größe".encode()
    sent = write(home / "m.eml", papers.raw.replace(b"Sunday.", added))
    give = ("-c", write(home / "c.json", papers.certificate.to_json()), "--key", papers.key)
    code, text = run(sent, *give, "--json")
    assert code == 0
    assert not any(mark in text for mark in "\x9b\u202e")
    assert "Größe" in text
    assert "\u202e" in json.loads(text)["added_after"]
