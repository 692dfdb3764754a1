"""Settings of trust: who holds the batches, when they close, and which networks have the roots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator

from mesh.core.settings_section import Section, ShardedSection

NetworkName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class NetworkSettings(Section):
    """One EVM network that gets the roots."""

    url: str
    """JSON-RPC endpoint, ``http://`` or ``https://``."""
    chain_id: int = Field(ge=1, lt=2**53)
    """Checked against the node: a wrong one is never written to."""
    method: Literal["event", "calldata"] = "event"
    """event: a log of the registry. calldata: a transaction to oneself with the root as input."""
    contract: str | None = Field(default=None, pattern="^0x[0-9a-fA-F]{40}$")
    """Of the registry; unset: the address that it has on every chain, deployed if missing."""
    confirmations: int = Field(default=2, ge=1, le=1_000)
    """Blocks, its own included, after which a root counts as confirmed."""
    finality: Literal["tag", "depth"] = "tag"
    """tag: final is what the node calls ``finalized``. depth: ``final_depth`` blocks."""
    final_depth: int = Field(default=64, ge=1, le=100_000)
    key: SecretStr | None = None
    """Private key of the account that pays, 32 bytes in hex. Unset: the instance's own, made at
    the first start."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Of one call to the node."""
    poll_s: float = Field(default=1.0, gt=0.01)
    """Between two looks at the chain while something is not final."""
    replace_after_s: float = Field(default=60.0, gt=0)
    """A transaction that no block took for so long is sent again with a higher fee."""
    max_fee_gwei: float = Field(default=200.0, gt=0)
    """Per gas, never more: above it a root waits."""
    max_tip_gwei: float = Field(default=2.0, ge=0)
    budget_wei_per_day: int = Field(default=10**17, ge=0)
    """Fees of one day (UTC), never more: above it roots wait and an alarm says so."""
    low_balance_wei: int = Field(default=10**16, ge=0)
    """Below it an alarm is raised."""
    development: bool = False
    """The node is anvil: it is asked for blocks while something is not final, and for money. Never
    of a real network."""


class TrustSettings(ShardedSection):
    hosts: int = Field(default=1, ge=0, le=16)
    """Processes that take messages in and close batches; each takes over another's within
    seconds. 0: nothing is certified, and what was is read from the database."""
    key_name: str = Field(default="localhost/trust", pattern=r"^[!-*,-~]{1,200}$")
    """Name of the keys that sign: an address without scheme that readers know you by."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Where readers of mail reach the gateway (links, QR codes). Unset: its local address."""
    sheet_font: Path | None = None
    """A TrueType file for the PDF sheets of certificates, if they are to show more than Western
    European letters (others are written as numbers). Its licence must allow embedding."""
    networks: dict[NetworkName, NetworkSettings] = Field(default_factory=dict)
    """In order of preference. Empty: the node of section ``evm``, as ``local`` (and
    ``standby``)."""
    networks_needed: int = Field(default=1, ge=1, le=16)
    """How many networks must have a root as final before anything says final."""
    fallback_after_s: float = Field(default=20.0, gt=0)
    """A network that does not answer for so long gives the roots that are on their way there to
    the next one; roots without a transaction go there at once."""
    batch_close_s: float = Field(default=300.0, gt=0)
    """A rolling batch (single mails) closes so long after its first message …"""
    batch_close_leaves: int = Field(default=100_000, ge=1)
    """… or with so many."""
    revocations_close_s: float = Field(default=3.0, gt=0)
    """Revocations are put into a tree so long after the first of them."""
    max_batch_leaves: int = Field(default=5_000_000, ge=1, le=2**31)
    max_message_bytes: int = Field(default=2_097_152, ge=1_024)
    max_open_batches: int = Field(default=256, ge=1)
    """Of one workspace."""
    tasks: int = Field(default=2, ge=1, le=256)
    """Pieces of work (canonicalising, hashing) that one host has out at once."""
    queue_bytes: int = Field(default=67_108_864, ge=1_048_576)
    """Messages that wait in one host; more are refused."""
    stream_pages: int = Field(default=4, ge=1, le=64)
    """Pages of one streaming body that are being taken in at once; the client waits for them."""
    streams: int = Field(default=8, ge=1)
    """Streaming bodies that one gateway process reads at once; more are refused for the moment."""
    stream_silence_s: float = Field(default=60.0, gt=0)
    """A streaming body that brings nothing for so long is ended; what came is kept."""
    public_per_minute: int = Field(default=1_200, ge=1)
    """Reads of certificates, receipts, keys and pages by one address, without a credential …"""
    public_work_per_minute: int = Field(default=120, ge=1)
    """… and of what has to be worked out: verifications, sheets, pictures."""
    verify_body_bytes: int = Field(default=4_194_304, ge=65_536, le=67_108_864)
    verify_workers: int = Field(default=1, ge=1, le=32)
    """Processes of a gateway that verify messages; started when one is needed."""
    verify_queue: int = Field(default=16, ge=1)
    """Verifications that wait for one; more are refused."""
    verify_timeout_s: float = Field(default=10.0, gt=0)
    """Of one verification's work: one that takes longer is ended with its process."""
    pending_alarm_s: float = Field(default=600.0, gt=0)
    """A root that is not confirmed after so long raises an alarm."""

    @model_validator(mode="after")
    def _enough_networks(self) -> Self:
        if self.networks and self.networks_needed > len(self.networks):
            raise ValueError(f"networks_needed must be at most {len(self.networks)}")
        chains = [network.chain_id for network in self.networks.values()]
        if len(set(chains)) != len(chains):
            raise ValueError("two networks have the same chain_id")
        return self
