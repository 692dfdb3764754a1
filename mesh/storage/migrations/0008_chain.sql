-- Anchoring. What is written here is written before it happens: a transaction is signed and
-- committed, then sent, so that whoever comes after a crash sends the same one again. Hashes,
-- addresses and transactions are raw bytes; amounts are wei.

-- Which chain a name stands for: another genesis is another chain, whatever its id says.
CREATE TABLE chain_networks (
    name      text PRIMARY KEY,
    chain_id  bigint NOT NULL,
    genesis   bytea NOT NULL CHECK (length(genesis) = 32),
    seen_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE chain_roots (
    root          bytea PRIMARY KEY CHECK (length(root) = 32),
    seq           bigint GENERATED ALWAYS AS IDENTITY,
    batch_id      uuid NOT NULL,
    workspace_id  uuid NOT NULL REFERENCES workspaces (id),
    wanted_at     timestamptz NOT NULL DEFAULT now(),
    taken         boolean NOT NULL DEFAULT false,  -- there is a transaction with it
    settled_at    timestamptz  -- final on as many networks as were needed
);
CREATE INDEX chain_roots_waiting ON chain_roots (seq) WHERE settled_at IS NULL AND NOT taken;
CREATE INDEX chain_roots_open ON chain_roots (seq) WHERE settled_at IS NULL AND taken;
CREATE INDEX chain_roots_by_batch ON chain_roots (batch_id);

-- A root on a network.
CREATE TABLE chain_anchors (
    root          bytea NOT NULL REFERENCES chain_roots (root),
    network       text NOT NULL,
    chain_id      bigint NOT NULL,
    state         text NOT NULL CHECK (
        state IN ('waiting', 'submitted', 'confirmed', 'final', 'orphaned', 'failed')
    ),
    tx            bytea,
    block_number  bigint,
    block_hash    bytea,
    confirmations integer NOT NULL DEFAULT 0,
    gas_used      bigint,
    fee_wei       numeric(40),
    proof         bytea,  -- header and path, as in the batch's receipt
    reason        text,
    changed_at    timestamptz NOT NULL,
    PRIMARY KEY (root, network)
);

-- The nonce ledger: a number of an account is given to one root, and closed once the chain has
-- taken it for good.
CREATE TABLE chain_nonces (
    network    text NOT NULL,
    address    bytea NOT NULL CHECK (length(address) = 20),
    nonce      bigint NOT NULL CHECK (nonce >= 0),
    root       bytea,  -- null: it deploys the registry
    outcome    text CHECK (outcome IN ('ours', 'foreign')),
    tx         bytea,
    fee_wei    numeric(40),
    closed_at  timestamptz,
    PRIMARY KEY (network, address, nonce)
);
CREATE INDEX chain_nonces_open ON chain_nonces (network, nonce) WHERE closed_at IS NULL;
CREATE INDEX chain_nonces_by_root ON chain_nonces (root) WHERE root IS NOT NULL;
CREATE INDEX chain_nonces_spent ON chain_nonces (network, closed_at) WHERE fee_wei IS NOT NULL;

-- Every transaction that was ever signed: replacements share their nonce.
CREATE TABLE chain_attempts (
    tx         bytea PRIMARY KEY CHECK (length(tx) = 32),
    network    text NOT NULL,
    address    bytea NOT NULL,
    nonce      bigint NOT NULL,
    root       bytea,
    raw        bytea NOT NULL,
    gas        bigint NOT NULL,
    max_fee    numeric(40) NOT NULL,
    tip        numeric(40) NOT NULL,
    signed_at  timestamptz NOT NULL,
    sent_at    timestamptz,
    FOREIGN KEY (network, address, nonce) REFERENCES chain_nonces
);
CREATE INDEX chain_attempts_by_nonce ON chain_attempts (network, address, nonce);

-- Outbox: every change of an anchor, in order, until it was told.
CREATE TABLE chain_changes (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    root          bytea NOT NULL,
    batch_id      uuid NOT NULL,
    workspace_id  uuid NOT NULL,
    network       text NOT NULL,
    view          jsonb NOT NULL,
    at            timestamptz NOT NULL,
    told          boolean NOT NULL DEFAULT false
);
CREATE INDEX chain_changes_untold ON chain_changes (id) WHERE NOT told;
