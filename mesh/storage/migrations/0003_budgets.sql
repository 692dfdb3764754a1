-- Budgets (how much a workspace, a key or a task may spend) and the ledger of what was spent.

CREATE TABLE budgets (
    workspace_id  uuid NOT NULL REFERENCES workspaces (id),
    id            text NOT NULL,  -- made from the columns below: one budget for each combination
    scope         text NOT NULL CHECK (scope IN ('workspace', 'key', 'task')),
    key_id        text NOT NULL DEFAULT '',  -- '': every key by itself
    unit          text NOT NULL CHECK (unit IN ('tokens', 'cost')),
    period        text NOT NULL CHECK (period IN ('minute', 'day', 'month', 'total')),
    most          bigint NOT NULL CHECK (most >= 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, id)
);

-- What was spent, added up by the minute in which the calls began (older rows: by the day).
-- Every counter can be made anew from it. cost: millionths of the currency.
CREATE TABLE usage (
    workspace_id       uuid NOT NULL,
    slot               timestamptz NOT NULL,
    key_id             text NOT NULL,  -- '': none, the workspace alone
    model              text NOT NULL,
    calls              bigint NOT NULL,
    prompt_tokens      bigint NOT NULL,
    completion_tokens  bigint NOT NULL,
    cost               bigint NOT NULL,
    PRIMARY KEY (workspace_id, slot, key_id, model)
) WITH (fillfactor = 80);
CREATE INDEX usage_age ON usage (slot);

-- The same by task: budgets of a task, and what it has cost.
CREATE TABLE usage_tasks (
    workspace_id       uuid NOT NULL,
    task_id            uuid NOT NULL,
    calls              bigint NOT NULL,
    prompt_tokens      bigint NOT NULL,
    completion_tokens  bigint NOT NULL,
    cost               bigint NOT NULL,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, task_id)
) WITH (fillfactor = 80);

-- Batches that were added already: a repeat after a lost answer adds nothing.
CREATE TABLE usage_batches (
    id          uuid PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX usage_batches_age ON usage_batches (created_at);
