-- Pipelines: which graph a task runs, tasks that wait for people, what else a step's row keeps.

-- graph: kind, version and hash of the graph that the task was accepted under. A worker claims only
-- graphs that it knows. wake_at: of a waiting task, when time is up. parks: how often it has waited
-- (each wait costs a claim, and those are no failures).
ALTER TABLE tasks
    ADD COLUMN graph   text,
    ADD COLUMN wake_at timestamptz,
    ADD COLUMN parks   integer NOT NULL DEFAULT 0,
    DROP CONSTRAINT tasks_state_check,
    DROP CONSTRAINT tasks_check,
    ADD CONSTRAINT tasks_state_check CHECK
        (state IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')),
    ADD CONSTRAINT tasks_finished CHECK
        ((state IN ('queued', 'running', 'waiting')) = (finished_at IS NULL)),
    ADD CONSTRAINT tasks_wakes CHECK ((state = 'waiting') = (wake_at IS NOT NULL));
CREATE INDEX tasks_waiting ON tasks (wake_at) WHERE state = 'waiting';

-- error: of a step that failed for good (its output is empty). input_hash: of what it was given, so
-- that a replay can tell. hand_to: the agent that the work was handed to.
ALTER TABLE steps
    ADD COLUMN error      jsonb,
    ADD COLUMN tries      smallint NOT NULL DEFAULT 1,
    ADD COLUMN input_hash text NOT NULL DEFAULT '',
    ADD COLUMN hand_to    text;

-- A question that a task has put to people, and their answer. One row per step, answered once.
CREATE TABLE approvals (
    task_id      uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    step         text NOT NULL,
    workspace_id uuid NOT NULL REFERENCES workspaces (id),
    question     jsonb NOT NULL,
    asked_at     timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    approved     boolean,
    comment      text NOT NULL DEFAULT '',
    decided_by   text,
    decided_at   timestamptz,
    PRIMARY KEY (task_id, step),
    CHECK ((approved IS NULL) = (decided_at IS NULL))
);
-- What waits for people in a workspace: to list it, and to bound it.
CREATE INDEX approvals_open ON approvals (workspace_id, asked_at) WHERE decided_at IS NULL;
