-- Coordination: fair shares between workspaces, a record of every attempt, whose key asked.

-- turn: the moment in virtual time at which the task may start (start-time fair queueing, Goyal,
-- Vin and Cheng 1997). A workspace's turns lie cost / weight apart, so whoever queues much queues
-- behind itself. Claiming goes by turn between workspaces and by priority within one.
ALTER TABLE tasks
    ADD COLUMN key_id text,
    ADD COLUMN cost   real NOT NULL DEFAULT 1 CHECK (cost > 0),
    ADD COLUMN turn   double precision NOT NULL DEFAULT 0;

DROP INDEX tasks_open;
-- Whose turn it is, over all workspaces.
CREATE INDEX tasks_turn ON tasks (turn, id) WHERE state = 'queued';
-- The best task of one workspace.
CREATE INDEX tasks_best ON tasks (workspace_id, priority DESC, turn, id) WHERE state = 'queued';
-- What runs: never more than there are slots. No lease column in it: renewals touch no index.
CREATE INDEX tasks_running ON tasks (turn) WHERE state = 'running';

-- One row per workspace that ever queued a task.
CREATE TABLE shares (
    workspace_id uuid PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    weight       real NOT NULL DEFAULT 1 CHECK (weight > 0),
    next_turn    double precision NOT NULL DEFAULT 0,
    active_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);  -- updated by every task that is queued; no index is touched by it

-- Admit a task: its turn, or NULL when the workspace has open_limit open tasks (NULL: no limit).
-- The row lock makes the limit exact. Each statement of a function sees what was committed before
-- it, so the count includes whoever held the lock before us.
CREATE FUNCTION take_turn(workspace uuid, task_cost real, open_limit integer)
RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE
    share  shares%ROWTYPE;
    n_open bigint;
    now_served double precision;
BEGIN
    IF open_limit IS NOT NULL THEN  -- a full queue is refused without waiting for the lock
        SELECT count(*) INTO n_open FROM (
            SELECT FROM tasks
            WHERE workspace_id = workspace AND state IN ('queued', 'running') LIMIT open_limit
        ) AS bounded;
        IF n_open >= open_limit THEN RETURN NULL; END IF;
    END IF;
    SELECT * INTO share FROM shares WHERE workspace_id = workspace FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO shares (workspace_id) VALUES (workspace) ON CONFLICT DO NOTHING;
        SELECT * INTO share FROM shares WHERE workspace_id = workspace FOR NO KEY UPDATE;
    END IF;
    IF open_limit IS NOT NULL THEN
        SELECT count(*) INTO n_open FROM (
            SELECT FROM tasks
            WHERE workspace_id = workspace AND state IN ('queued', 'running') LIMIT open_limit
        ) AS bounded;
        IF n_open >= open_limit THEN RETURN NULL; END IF;
    END IF;
    -- Virtual time: the latest turn in service, or the first that waits. Idle time earns nothing.
    SELECT greatest(
        (SELECT max(turn) FROM tasks WHERE state = 'running'),
        (SELECT min(turn) FROM tasks WHERE state = 'queued')
    ) INTO now_served;
    IF now_served IS NULL THEN  -- nothing is open: everybody starts level
        SELECT max(next_turn) INTO now_served FROM shares;
    END IF;
    share.next_turn := greatest(share.next_turn, now_served);
    UPDATE shares SET next_turn = share.next_turn + task_cost / share.weight, active_at = now()
    WHERE workspace_id = workspace;
    RETURN share.next_turn;
END
$$;

-- One row per claim: who ran it, why that worker, how it went. decision: the candidates with every
-- part of their scores, as whoever chose saw them.
CREATE TABLE attempts (
    task_id    uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    attempt    integer NOT NULL,
    worker     text NOT NULL,
    decision   jsonb NOT NULL DEFAULT '{}',
    claimed_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    outcome    text,
    PRIMARY KEY (task_id, attempt)
) WITH (fillfactor = 80);
