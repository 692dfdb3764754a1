"""Rows of the anchoring's tables, and their statements."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg

from mesh.contracts.networks import AnchorState
from mesh.trust import jcs
from mesh.trust.anchoring.records import AnchorRow, Attempt, WantedRoot
from mesh.trust.receipt import Anchor

# Also settled roots whose transactions are not all through: theirs may still come into a block.
OPEN_ROOTS = """
SELECT r.* FROM chain_roots r
WHERE (r.settled_at IS NULL AND r.taken) OR r.root IN (
    SELECT a.root FROM chain_nonces n JOIN chain_attempts a USING (network, address, nonce)
    WHERE n.closed_at IS NULL
)
ORDER BY r.seq
"""
ANCHORS = "SELECT * FROM chain_anchors WHERE root = ANY($1::bytea[])"
# Of a nonce that was closed before and open again, the one that was in a block goes last.
ATTEMPTS = """
SELECT a.* FROM chain_nonces n JOIN chain_attempts a USING (network, address, nonce)
WHERE n.closed_at IS NULL
ORDER BY a.network, a.address, a.nonce, (a.tx = n.tx) NULLS FIRST, a.signed_at, a.max_fee
"""
NEXT_NONCES = """
SELECT network, address, max(nonce) + 1 AS next FROM chain_nonces GROUP BY network, address
"""
GAPS = """
SELECT network, address, before + 1 AS first, nonce AS until FROM (
    SELECT network, address, nonce,
        coalesce(lag(nonce) OVER (PARTITION BY network, address ORDER BY nonce), -1) AS before
    FROM chain_nonces
) AS known WHERE nonce > before + 1
"""
# A nonce whose root another network has may be given to a new root, never once it is closed.
ADD_NONCE = """
INSERT INTO chain_nonces AS known (network, address, nonce, root) VALUES ($1, $2, $3, $4)
ON CONFLICT (network, address, nonce) DO UPDATE SET root = excluded.root
WHERE known.closed_at IS NULL
"""
ADD_ATTEMPT = """
INSERT INTO chain_attempts
    (tx, network, address, nonce, root, raw, gas, max_fee, tip, signed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
PUT_ANCHOR = """
INSERT INTO chain_anchors (
    root, network, chain_id, state, tx, block_number, block_hash, confirmations, gas_used,
    fee_wei, proof, reason, changed_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (root, network) DO UPDATE SET
    chain_id = excluded.chain_id, state = excluded.state, tx = excluded.tx,
    block_number = excluded.block_number, block_hash = excluded.block_hash,
    confirmations = excluded.confirmations, gas_used = excluded.gas_used,
    fee_wei = excluded.fee_wei, proof = excluded.proof, reason = excluded.reason,
    changed_at = excluded.changed_at
"""
CLOSE_NONCE = """
UPDATE chain_nonces SET outcome = $4, tx = $5, fee_wei = $6, closed_at = $7
WHERE network = $1 AND address = $2 AND nonce = $3 AND closed_at IS NULL
"""
ADD_CHANGE = """
INSERT INTO chain_changes (root, batch_id, workspace_id, network, view, at)
SELECT root, batch_id, workspace_id, $2, $3, $4 FROM chain_roots WHERE root = $1
"""
REOPEN_NONCES = """
UPDATE chain_nonces SET closed_at = NULL, outcome = NULL, fee_wei = NULL
WHERE network = $1 AND address = $2 AND nonce >= $3 AND closed_at IS NOT NULL
RETURNING root
"""
REOPEN_ROOTS = "UPDATE chain_roots SET settled_at = NULL WHERE root = ANY($1::bytea[])"
REOPEN_ANCHORS = """
UPDATE chain_anchors SET state = 'orphaned', block_number = NULL, block_hash = NULL, proof = NULL,
    confirmations = 0, reason = 'the development node lost its blocks', changed_at = $3
WHERE network = $1 AND root = ANY($2::bytea[]) AND state IN ('submitted', 'confirmed', 'final')
RETURNING *
"""


def instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def root_of(row: asyncpg.Record) -> WantedRoot:
    return WantedRoot(
        row["root"], row["batch_id"], row["workspace_id"], row["wanted_at"].timestamp()
    )


def attempt_of(row: asyncpg.Record) -> Attempt:
    return Attempt(
        tx=row["tx"],
        network=row["network"],
        address=row["address"],
        nonce=row["nonce"],
        root=row["root"],
        raw=row["raw"],
        gas=row["gas"],
        max_fee=int(row["max_fee"]),
        tip=int(row["tip"]),
        signed_at=row["signed_at"].timestamp(),
        sent_at=None if row["sent_at"] is None else row["sent_at"].timestamp(),
    )


def anchor_of(row: asyncpg.Record) -> AnchorRow:
    proof = row["proof"]
    return AnchorRow(
        root=row["root"],
        network=row["network"],
        chain_id=row["chain_id"],
        state=AnchorState(row["state"]),
        at=row["changed_at"].timestamp(),
        tx=row["tx"],
        block_number=row["block_number"],
        block_hash=row["block_hash"],
        confirmations=row["confirmations"],
        gas_used=row["gas_used"],
        fee_wei=None if row["fee_wei"] is None else int(row["fee_wei"]),
        proof=None if proof is None else Anchor.read(jcs.read(proof)),
        reason=row["reason"],
    )


def anchor_columns(anchor: AnchorRow) -> tuple[Any, ...]:
    return (
        anchor.root,
        anchor.network,
        anchor.chain_id,
        anchor.state.value,
        anchor.tx,
        anchor.block_number,
        anchor.block_hash,
        anchor.confirmations,
        anchor.gas_used,
        anchor.fee_wei,
        None if anchor.proof is None else jcs.write(anchor.proof.as_json()),
        anchor.reason,
        instant(anchor.at),
    )
