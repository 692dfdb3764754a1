"""``maily verify`` asks just the servers and nodes that it was told, and believes them so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.failures import NO_CERTIFICATE, NO_NETWORK, REVOKED, UNHEALTHY, USAGE, Failure
from cluster.verifying import fetch
from mesh.trust.attach import attached
from mesh.trust.present import links
from tests.trust_verify_support import (
    ID,
    Papers,
    Site,
    home,
    instance,
    node,
    papers,
    run,
    sites,
    write,
)

__all__ = ["home", "papers", "run", "sites"]


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
    url = instance(sites[0], papers)
    monkeypatch.setattr(fetch, "DEADLINE_S", -1.0)
    with fetch.client() as http, pytest.raises(Failure, match="takes longer"):
        fetch.fetch(http, "GET", f"{url}/v1/trust/keys")
    monkeypatch.undo()
    with fetch.client() as http, pytest.raises(Failure, match="more than 5 bytes"):
        fetch.fetch(http, "GET", f"{url}/v1/trust/keys", limit=5)
