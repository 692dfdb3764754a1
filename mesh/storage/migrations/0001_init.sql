-- Workspaces, credentials, tasks and their steps, leases, idempotency.
-- Times are timestamptz; ids are uuids made by the caller (UUIDv7: they sort by time).

CREATE TABLE workspaces (
    id          uuid PRIMARY KEY,
    name        text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- An API key is mk_<id>_<secret>; only SHA-256 of the secret is kept (256 random bits need no
-- slow hash). The same row is an OAuth client: client_id = id, client_secret = the whole key.
CREATE TABLE api_keys (
    id           text PRIMARY KEY,
    workspace_id uuid NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL,
    secret_hash  bytea NOT NULL CHECK (length(secret_hash) = 32),
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_keys_by_workspace ON api_keys (workspace_id);

-- Keys that sign our tokens. The private part is encrypted with the instance's secret.
CREATE TABLE signing_keys (
    kid          text PRIMARY KEY,
    algorithm    text NOT NULL,
    public_jwk   jsonb NOT NULL,
    private_jwk  bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    retires_at   timestamptz
);

CREATE TABLE tasks (
    id               uuid PRIMARY KEY,
    workspace_id     uuid NOT NULL REFERENCES workspaces (id),
    kind             text NOT NULL,
    state            text NOT NULL DEFAULT 'queued'
                     CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    request          jsonb NOT NULL,
    priority         smallint NOT NULL DEFAULT 0,
    idempotency_key  text,
    request_hash     bytea,
    traceparent      text,
    -- The lease: who runs it, under which epoch (= attempt, grows by one with each claim), till when.
    attempt          integer NOT NULL DEFAULT 0,
    owner            text,
    lease_until      timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    degraded         boolean NOT NULL DEFAULT false,
    result           jsonb,
    error            jsonb,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    deadline_at      timestamptz NOT NULL,
    -- When the stream got the task's terminal event. NULL on an ended task: the event is owed.
    announced_at     timestamptz,
    CHECK ((state IN ('queued', 'running')) = (finished_at IS NULL)),
    CHECK (state <> 'running' OR (owner IS NOT NULL AND lease_until IS NOT NULL AND attempt > 0))
) WITH (fillfactor = 80);  -- room for lease renewals on the same page: no index is touched by them
CREATE UNIQUE INDEX tasks_idempotency ON tasks (workspace_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX tasks_by_workspace ON tasks (workspace_id, id DESC);
-- Claiming reads only open tasks, best first; a partial index keeps it small for ever.
CREATE INDEX tasks_open ON tasks (priority DESC, id) WHERE state IN ('queued', 'running');
-- Admission counts a workspace's open tasks.
CREATE INDEX tasks_open_by_workspace ON tasks (workspace_id) WHERE state IN ('queued', 'running');
CREATE INDEX tasks_unannounced ON tasks (finished_at)
    WHERE announced_at IS NULL AND state IN ('succeeded', 'failed', 'cancelled');

-- One row per finished step: written in the same transaction that checks the task's epoch.
CREATE TABLE steps (
    task_id      uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    name         text NOT NULL,
    position     smallint NOT NULL,
    attempt      integer NOT NULL,
    output       jsonb NOT NULL,
    decisions    jsonb NOT NULL DEFAULT '[]',
    degraded     boolean NOT NULL DEFAULT false,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, name)
);

-- Single ownership of a key. The epoch only grows; a writer checks it in its own transaction.
CREATE TABLE leases (
    key         text PRIMARY KEY,
    owner       text NOT NULL,
    epoch       bigint NOT NULL,
    expires_at  timestamptz NOT NULL
);

-- First answers of POSTs that carry an Idempotency-Key (other than tasks, which hold their own).
CREATE TABLE idempotency (
    workspace_id  uuid NOT NULL,
    route         text NOT NULL,
    key           text NOT NULL,
    request_hash  bytea NOT NULL,
    status        smallint,
    content_type  text,
    body          bytea,
    locked_until  timestamptz NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, route, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);
