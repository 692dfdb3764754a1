"""The embedded nodes' files, and the networks that the settings make of nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.trust_anchoring import anchoring_options, network_options
from cluster.embedded.evm import EvmNode, EvmStandby
from cluster.layout import Layout, resolve
from mesh.core.settings import Settings, load_settings, settings_from_json, settings_to_json
from mesh.trust.anchoring.options import GWEI


def home(tmp_path: Path, **flags: object) -> Settings:
    Layout(tmp_path).make()
    return load_settings({"home": tmp_path, **flags}, {})


def chain(height: int) -> str:
    return json.dumps({"best_block_number": height})


@pytest.mark.parametrize(
    ("kept", "left", "expected"),
    [
        (None, None, None),
        (chain(5), None, 5),
        (None, chain(5), 5),
        (chain(5), chain(7), 7),
        (chain(7), chain(5), 7),
        (chain(5), '{"best_block_nu', 5),
        ('{"best_', chain(3), 3),
        ("", "", None),
        (chain(5), json.dumps({"best_block_number": "0x9"}), 9),
    ],
)
def test_the_newest_whole_copy_is_taken(
    tmp_path: Path, kept: str | None, left: str | None, expected: int | None
) -> None:
    node = EvmNode(home(tmp_path), Layout(tmp_path))
    node.state.parent.mkdir(parents=True)
    for path, text in ((node.state, kept), (node.leaving, left)):
        if text is not None:
            path.write_text(text)
    node._newest()
    assert not node.leaving.exists()
    if expected is None:
        assert not node.state.exists()
    else:
        assert int(str(json.loads(node.state.read_text())["best_block_number"]), 0) == expected
    broken = kept is not None and not kept.endswith("}")
    assert bool(node.notes) == broken
    node._newest()
    assert node.state.exists() == (expected is not None)


def test_nodes_of_ours_become_networks(tmp_path: Path) -> None:
    settings = resolve(home(tmp_path, **{"evm.standby": True}))
    assert [*settings.trust.networks] == ["local", "standby"]
    for network, port, chain_id in zip(
        settings.trust.networks.values(), (8545, 8546), (31_337, 31_338), strict=True
    ):
        assert (network.url, network.chain_id) == (f"http://127.0.0.1:{port}", chain_id)
        assert network.development
        assert network.key is not None
    assert resolve(settings) == settings
    assert settings_from_json(settings_to_json(settings)) == settings
    key = (tmp_path / "secrets" / "wallet.key").read_text().strip()
    given = settings.trust.networks["local"].key
    assert given is not None
    assert key == given.get_secret_value()
    assert key not in repr(settings)
    nodes = EvmNode(settings, Layout(tmp_path)), EvmStandby(settings, Layout(tmp_path))
    assert [node.ports() for node in nodes] == [
        {"evm.port": 8545},
        {"evm.standby_port": 8546},
    ]
    assert nodes[0].state.parent != nodes[1].state.parent


def test_without_the_standby_there_is_one(tmp_path: Path) -> None:
    assert [*resolve(home(tmp_path)).trust.networks] == ["local"]
    assert not resolve(home(tmp_path, **{"evm.enabled": False})).trust.networks


def test_a_node_of_yours_is_no_development_node(tmp_path: Path) -> None:
    yours = {"evm.url": "https://node.example.com", "evm.chain_id": 11_155_111}
    (network,) = resolve(home(tmp_path, **yours)).trust.networks.values()
    assert (network.url, network.chain_id) == tuple(yours.values())
    assert not network.development


def test_named_networks_are_taken_as_they_are(tmp_path: Path) -> None:
    networks = {
        "mainnet": {
            "url": "https://a.example.com",
            "chain_id": 1,
            "finality": "depth",
            "contract": "0x" + "Ab" * 20,
            "max_fee_gwei": 0.5,
        },
        "base": {"url": "https://b.example.com", "chain_id": 8453, "key": "0x" + "11" * 32},
    }
    flags = {"trust.networks": networks, "trust.networks_needed": 2}
    trust = resolve(home(tmp_path, **flags)).trust
    assert [*trust.networks] == ["mainnet", "base"]
    key = trust.networks["base"].key
    assert key is not None
    assert key.get_secret_value() == "0x" + "11" * 32
    options = network_options("mainnet", trust.networks["mainnet"])
    assert (options.final_depth, options.contract) == (64, b"\xab" * 20)
    assert options.max_fee == GWEI // 2
    assert network_options("base", trust.networks["base"]).final_depth is None
    assert anchoring_options(trust).needed == 2
