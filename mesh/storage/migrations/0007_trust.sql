-- Trust. A batch's leaves lie in pages of up to 1,024. What tells of a message or a person is
-- sealed, each leaf under a key made from the instance's secret and the leaf's salt, so that to
-- erase the salt is to erase it, wherever copies lie (mesh/trust/vault.py says how).

CREATE TABLE trust_batches (
    id            uuid PRIMARY KEY,
    serial        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- stands in its certificates' ids
    workspace_id  uuid NOT NULL REFERENCES workspaces (id),
    shard         smallint NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('campaign', 'rolling', 'revocations')),
    name          text NOT NULL DEFAULT '',
    state         text NOT NULL DEFAULT 'open' CHECK (
        state IN ('open', 'included', 'submitted', 'confirmed', 'final', 'orphaned')
    ),
    size          integer NOT NULL DEFAULT 0,
    root          bytea,
    note          text,  -- the signed checkpoint
    created_at    timestamptz NOT NULL DEFAULT now(),
    first_at      timestamptz,  -- of its first leaf
    closing_at    timestamptz,  -- takes no more since then
    closed_at     timestamptz,
    state_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX trust_batches_by_workspace ON trust_batches (workspace_id, serial DESC);
CREATE UNIQUE INDEX trust_batches_by_root ON trust_batches (root) WHERE root IS NOT NULL;
-- A workspace has one rolling batch at a time, and one of revocations.
CREATE UNIQUE INDEX trust_batches_rolling ON trust_batches (workspace_id, kind)
    WHERE kind <> 'campaign' AND closing_at IS NULL;
CREATE INDEX trust_batches_open ON trust_batches (shard) WHERE root IS NULL;
CREATE INDEX trust_batches_unfinished ON trust_batches (state_at)
    WHERE root IS NOT NULL AND state <> 'final';

CREATE TABLE trust_pages (
    batch    uuid NOT NULL REFERENCES trust_batches (id),
    first    integer NOT NULL,  -- index of its first leaf
    count    smallint NOT NULL CHECK (count BETWEEN 1 AND 1024),
    leaves   bytea NOT NULL,  -- their hashes, 32 bytes each: they stay
    offsets  bytea NOT NULL,  -- where each one's sealed facts begin, and where the last end: u32
    sealed   bytea NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch, first),
    CHECK (length(leaves) = 32 * count)
);
ALTER TABLE trust_pages
    ALTER COLUMN leaves SET STORAGE EXTERNAL,  -- hashes and ciphertext do not compress
    ALTER COLUMN offsets SET STORAGE EXTERNAL,  -- read in slices
    ALTER COLUMN sealed SET STORAGE EXTERNAL,
    -- The planner's samples would keep copies in pg_statistic.
    ALTER COLUMN leaves SET STATISTICS 0,
    ALTER COLUMN sealed SET STATISTICS 0;

-- What a forgetting overwrites with zeros, in parts that can be rewritten whole.
CREATE TABLE trust_salts (
    bucket  smallint NOT NULL,
    batch   uuid NOT NULL,
    first   integer NOT NULL,
    salts   bytea NOT NULL,   -- 16 bytes a leaf
    marks   bytea NOT NULL,   -- 24: keyed hashes of Message-ID, and of content and recipient
    people  bytea NOT NULL,   -- 8: keyed hash of the recipient
    PRIMARY KEY (bucket, batch, first)
) PARTITION BY LIST (bucket);
DO $$
BEGIN
    FOR bucket IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE trust_salts_%s PARTITION OF trust_salts FOR VALUES IN (%s)',
            bucket, bucket
        );
        EXECUTE format(
            'ALTER TABLE trust_salts_%s ALTER COLUMN salts SET STORAGE EXTERNAL, '
            'ALTER COLUMN marks SET STORAGE EXTERNAL, ALTER COLUMN people SET STORAGE EXTERNAL, '
            'ALTER COLUMN salts SET STATISTICS 0, ALTER COLUMN marks SET STATISTICS 0, '
            'ALTER COLUMN people SET STATISTICS 0',
            bucket
        );
    END LOOP;
END $$;

-- The upper levels of closed trees: of a proof, all but the ten nodes next to the leaf.
CREATE TABLE trust_trees (
    batch  uuid PRIMARY KEY REFERENCES trust_batches (id),
    nodes  bytea NOT NULL
);
ALTER TABLE trust_trees
    ALTER COLUMN nodes SET STORAGE EXTERNAL, ALTER COLUMN nodes SET STATISTICS 0;

-- How far each root is on each network, as was last told (the chains' own rows may be ahead).
CREATE TABLE trust_anchors (
    batch    uuid NOT NULL REFERENCES trust_batches (id),
    network  text NOT NULL,
    view     jsonb NOT NULL,
    PRIMARY KEY (batch, network)
);

CREATE TABLE trust_revocations (
    leaf      bytea PRIMARY KEY CHECK (length(leaf) = 32),
    revoked   uuid NOT NULL REFERENCES trust_batches (id),  -- whose leaf is taken back
    at_index  integer NOT NULL,
    reason    smallint NOT NULL,
    time_s    bigint NOT NULL,
    batch     uuid NOT NULL REFERENCES trust_batches (id),  -- whose leaf the revocation is
    position  integer NOT NULL,
    UNIQUE (batch, position)
);
CREATE INDEX trust_revocations_of ON trust_revocations (revoked, at_index);

-- Which batches hold mails of a document's version. Document and version: a keyed hash.
CREATE TABLE trust_documents (
    workspace_id  uuid NOT NULL REFERENCES workspaces (id),
    document      bytea NOT NULL,
    batch         uuid NOT NULL REFERENCES trust_batches (id),
    count         integer NOT NULL,
    revoked       integer NOT NULL DEFAULT 0,
    PRIMARY KEY (workspace_id, document, batch)
);

-- Erasures whose bytes may still be on disk are finished by whoever is there.
CREATE TABLE trust_erasures (
    id            uuid PRIMARY KEY,
    bucket        smallint NOT NULL,
    batch         uuid NOT NULL REFERENCES trust_batches (id),
    indexes       integer[] NOT NULL,
    requested_at  timestamptz NOT NULL DEFAULT now(),
    scrubbed_at   timestamptz
);
CREATE INDEX trust_erasures_begun ON trust_erasures (requested_at) WHERE scrubbed_at IS NULL;

-- What is to be told on the stream log, in this order.
CREATE TABLE trust_outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id  uuid NOT NULL,
    batch         uuid NOT NULL,
    type          text NOT NULL,
    data          jsonb NOT NULL,
    at            timestamptz NOT NULL DEFAULT now()
);

-- Keys that sign checkpoints. Public ones stay for ever; the private part is sealed.
CREATE TABLE trust_keys (
    public      bytea PRIMARY KEY CHECK (length(public) = 32),
    name        text NOT NULL,
    private     bytea,  -- none: it signs no more and was erased
    created_at  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz
);
