-- Memory. Nothing here can be read without the instance's secret: texts, vectors and names are
-- sealed, words and ids of the world outside are keyed hashes (mesh/memory/vault.py says how).

-- A row's key is made from its salt: to erase the salt is to erase the row, wherever copies of it
-- lie. The table is in parts so that the part a salt was erased from can be rewritten whole.
CREATE TABLE memory_keys (
    bucket  smallint NOT NULL,
    id      uuid NOT NULL,
    salt    bytea NOT NULL CHECK (length(salt) = 32),
    PRIMARY KEY (bucket, id)
) PARTITION BY LIST (bucket);
DO $$
BEGIN
    FOR bucket IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE memory_keys_%s PARTITION OF memory_keys FOR VALUES IN (%s)',
            bucket, bucket
        );
    END LOOP;
END $$;

CREATE TABLE memory_namespaces (
    id            uuid PRIMARY KEY,  -- keyed hash of workspace, kind and name
    workspace_id  uuid NOT NULL REFERENCES workspaces (id),
    shard         smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    sealed        bytea NOT NULL,
    dimensions    integer NOT NULL CHECK (dimensions BETWEEN 2 AND 4096),
    consolidated  bigint NOT NULL DEFAULT 0,  -- changes up to here were looked at
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX memory_namespaces_by_workspace ON memory_namespaces (workspace_id);
CREATE INDEX memory_namespaces_by_shard ON memory_namespaces (shard);

-- Every change of a memory takes the next number: who holds a namespace up to n reads what is > n.
CREATE SEQUENCE memory_changes;

CREATE TABLE memory_items (
    id             uuid PRIMARY KEY,
    workspace_id   uuid NOT NULL REFERENCES workspaces (id),
    namespace      uuid NOT NULL REFERENCES memory_namespaces (id),
    shard          smallint NOT NULL,
    kind           text NOT NULL,
    state          text NOT NULL DEFAULT 'active'
                   CHECK (state IN ('active', 'superseded', 'merged')),
    sealed         bytea NOT NULL,
    vector         bytea NOT NULL,
    words          tsvector NOT NULL,
    importance     real NOT NULL CHECK (importance BETWEEN 0 AND 1),
    pinned         boolean NOT NULL,
    client_hash    bytea,
    content_hash   bytea NOT NULL,
    contacts       uuid[] NOT NULL DEFAULT '{}',
    derived_from   uuid[] NOT NULL DEFAULT '{}',
    merged_into    uuid,
    superseded_by  uuid,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    expires_at     timestamptz,
    valid_from     timestamptz,
    valid_to       timestamptz,
    change         bigint NOT NULL DEFAULT nextval('memory_changes')
);
-- The planner's samples would keep values of erased rows in pg_statistic.
ALTER TABLE memory_items
    ALTER COLUMN sealed SET STATISTICS 0,
    ALTER COLUMN vector SET STATISTICS 0,
    ALTER COLUMN words SET STATISTICS 0,
    ALTER COLUMN content_hash SET STATISTICS 0,
    ALTER COLUMN client_hash SET STATISTICS 0,
    ALTER COLUMN sealed SET STORAGE EXTERNAL,  -- ciphertext does not compress
    ALTER COLUMN vector SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX memory_items_by_change ON memory_items (namespace, change);
CREATE UNIQUE INDEX memory_items_by_client ON memory_items (namespace, client_hash)
    WHERE client_hash IS NOT NULL;
CREATE INDEX memory_items_by_content ON memory_items (namespace, content_hash);
CREATE INDEX memory_items_by_workspace ON memory_items (workspace_id, id);
-- Words are hashed per namespace, so this one index is in effect one per namespace.
CREATE INDEX memory_items_by_words ON memory_items USING gin (words) WITH (fastupdate = off);
CREATE INDEX memory_items_by_contact ON memory_items USING gin (contacts);
CREATE INDEX memory_items_derived ON memory_items USING gin (derived_from)
    WHERE derived_from <> '{}';
CREATE INDEX memory_items_expiring ON memory_items (expires_at)
    WHERE expires_at IS NOT NULL AND NOT pinned;
CREATE INDEX memory_items_linked ON memory_items (merged_into) WHERE merged_into IS NOT NULL;

-- Which snapshot of a namespace is valid; its salt lies in memory_keys under the snapshot's id.
CREATE TABLE memory_snapshots (
    namespace   uuid PRIMARY KEY REFERENCES memory_namespaces (id) ON DELETE CASCADE,
    id          uuid NOT NULL,
    position    bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Forgettings, begun and done. Ids and counts, nothing of what was forgotten.
CREATE TABLE memory_receipts (
    id            uuid PRIMARY KEY,
    workspace_id  uuid NOT NULL REFERENCES workspaces (id),
    state         text NOT NULL CHECK (state IN ('begun', 'done')),
    items         uuid[] NOT NULL DEFAULT '{}',  -- of a begun one: what it has found to erase
    namespaces    uuid[] NOT NULL DEFAULT '{}',  -- … whole namespaces, by their blind ids
    receipt       jsonb NOT NULL,
    requested_at  timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz
);
CREATE INDEX memory_receipts_begun ON memory_receipts (requested_at) WHERE state = 'begun';
CREATE INDEX memory_receipts_by_workspace ON memory_receipts (workspace_id, id DESC);

-- Which tasks have read which memories: written before the task sees them. A forgetting looks here
-- for journals that may hold copies.
CREATE TABLE memory_citations (
    item     uuid NOT NULL,
    task_id  uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    PRIMARY KEY (item, task_id)
);
CREATE INDEX memory_citations_by_task ON memory_citations (task_id);
