"""The statements of the task repository. Each is one round trip, and safe to repeat."""

from __future__ import annotations

# Admission, the turn and insertion in one round trip. A repeat takes no second turn.
CREATE = """
WITH admitted AS (
    SELECT take_turn($2, $11, $10) AS turn
    WHERE NOT EXISTS (
        SELECT FROM tasks WHERE id = $1 OR (workspace_id = $2 AND idempotency_key = $6)
    )
)
INSERT INTO tasks (id, workspace_id, kind, request, priority, idempotency_key, request_hash,
                   traceparent, deadline_at, key_id, cost, turn, graph)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $12, $11, turn, $13 FROM admitted WHERE turn IS NOT NULL
ON CONFLICT DO NOTHING
RETURNING *
"""
CREATED_BEFORE = """
SELECT * FROM tasks WHERE workspace_id = $2 AND (id = $1 OR idempotency_key = $3)
"""
GET = "SELECT * FROM tasks WHERE id = $1 AND workspace_id = $2"
# coalesce to the greatest uuid keeps one range condition that the index can use.
LIST = """
SELECT * FROM tasks
WHERE workspace_id = $1
  AND id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND ($3::text IS NULL OR state = $3)
ORDER BY id DESC LIMIT $4
"""
STEPS = "SELECT * FROM steps WHERE task_id = $1 ORDER BY position, finished_at"

# SKIP LOCKED everywhere: claimers never wait for each other. The state conditions are spelt as in
# the partial indexes, which give the order too.
#
# Work that had begun goes first: it is at most what slots there are. Then the turns: each says
# that its workspace may start a task, and which one is that workspace's own affair, its priorities
# say. A task that starts in another's stead leaves its own later turn to it, so that priorities
# never buy a workspace more than its share.
_CLAIMED = """
claimed AS (
    UPDATE tasks SET state = 'running', attempt = attempt + 1, owner = $1,
        lease_until = now() + make_interval(secs => $2), updated_at = now(),
        turn = chosen.turn
    FROM chosen WHERE tasks.id = chosen.id
    RETURNING tasks.*
), ended AS (
    UPDATE attempts SET ended_at = now(), outcome = 'lost' FROM claimed
    WHERE attempts.task_id = claimed.id AND attempts.attempt = claimed.attempt - 1
      AND claimed.attempt > 1 AND attempts.ended_at IS NULL
), noted AS (
    INSERT INTO attempts (task_id, attempt, worker, decision)
    SELECT id, attempt, $1, coalesce($3::jsonb -> id::text, $3::jsonb -> '') FROM claimed
)
SELECT * FROM claimed
"""


def _claim(chosen: str) -> str:
    """``chosen``: the rows to take and their turns. An attempt is noted in the same statement."""
    return chosen + _CLAIMED


CLAIM_TURNS = _claim("""
WITH lapsed AS (
    SELECT id, turn FROM tasks
    WHERE state = 'running' AND lease_until <= now()
      AND ($6::text[] IS NULL OR kind = ANY($6))
      AND ($7::text[] IS NULL OR graph IS NULL OR graph = ANY($7))
    ORDER BY priority DESC, id LIMIT $4 FOR UPDATE SKIP LOCKED
), turns AS (
    SELECT id, workspace_id, turn FROM tasks
    WHERE state = 'queued' AND workspace_id <> ALL($5::uuid[])
      AND ($6::text[] IS NULL OR kind = ANY($6))
      AND ($7::text[] IS NULL OR graph IS NULL OR graph = ANY($7))
    ORDER BY turn, id LIMIT greatest($4 - (SELECT count(*) FROM lapsed), 0)
    FOR UPDATE SKIP LOCKED
), due AS (
    SELECT workspace_id, count(*) AS n FROM turns GROUP BY workspace_id
), picks AS (
    SELECT best.id, best.turn, due.workspace_id FROM due CROSS JOIN LATERAL (
        SELECT id, turn FROM tasks
        WHERE state = 'queued' AND workspace_id = due.workspace_id
          AND ($6::text[] IS NULL OR kind = ANY($6))
          AND ($7::text[] IS NULL OR graph IS NULL OR graph = ANY($7))
        ORDER BY priority DESC, turn, id LIMIT due.n FOR UPDATE SKIP LOCKED
    ) AS best
), early AS (
    SELECT id, turn, workspace_id,
           row_number() OVER (PARTITION BY workspace_id ORDER BY turn, id) AS n
    FROM turns WHERE id NOT IN (SELECT id FROM picks)
), late AS (
    SELECT id, turn, workspace_id,
           row_number() OVER (PARTITION BY workspace_id ORDER BY turn, id) AS n
    FROM picks WHERE id NOT IN (SELECT id FROM turns)
), exchanged AS (
    UPDATE tasks SET turn = late.turn FROM early JOIN late USING (workspace_id, n)
    WHERE tasks.id = early.id
), chosen AS (
    SELECT id, turn FROM lapsed
    UNION ALL
    SELECT picks.id, coalesce(early.turn, picks.turn) FROM picks
    LEFT JOIN late ON late.id = picks.id
    LEFT JOIN early ON early.workspace_id = late.workspace_id AND early.n = late.n
),""")
# Tasks that were offered to this worker, unless that would let them pass before others: nothing
# better waits in their workspace, and their turn is near.
CLAIM_OFFERED = _claim("""
WITH head AS (
    SELECT min(turn) AS turn FROM tasks WHERE state = 'queued'
), chosen AS (
    SELECT tasks.id, tasks.turn FROM tasks, head
    WHERE tasks.id = ANY($4::uuid[]) AND tasks.state = 'queued'
      AND tasks.workspace_id <> ALL($5::uuid[])
      AND ($8::text[] IS NULL OR tasks.graph IS NULL OR tasks.graph = ANY($8))
      AND tasks.turn <= head.turn + $6
      AND NOT EXISTS (
          SELECT FROM tasks AS better
          WHERE better.state = 'queued' AND better.workspace_id = tasks.workspace_id
            AND better.priority > tasks.priority
      )
    LIMIT $7 FOR UPDATE OF tasks SKIP LOCKED
),""")
CLAIM_ONE = _claim("""
WITH chosen AS (
    SELECT id, turn FROM tasks
    WHERE id = $4 AND state IN ('queued', 'running')
      AND (lease_until IS NULL OR lease_until <= now())
    FOR UPDATE SKIP LOCKED
),""")

# Rows are locked in the order of their ids first: two statements over many tasks of one owner
# (its renewal and the coordinator's release) can't deadlock.
RENEW = """
WITH held AS (
    SELECT tasks.id FROM tasks
    JOIN unnest($1::uuid[], $2::int[]) AS lease (id, attempt) USING (id, attempt)
    WHERE tasks.owner = $3 AND tasks.state = 'running'
    ORDER BY tasks.id FOR NO KEY UPDATE OF tasks
)
UPDATE tasks SET lease_until = now() + make_interval(secs => $4)
FROM held WHERE tasks.id = held.id
RETURNING tasks.id, tasks.attempt, tasks.cancel_requested
"""
_RELEASED = """
), released AS (
    UPDATE tasks SET lease_until = now() FROM held WHERE tasks.id = held.id
    RETURNING tasks.id, tasks.attempt
), noted AS (
    UPDATE attempts SET ended_at = now(), outcome = $1 FROM released
    WHERE attempts.task_id = released.id AND attempts.attempt = released.attempt
      AND attempts.ended_at IS NULL
)
SELECT id FROM released
"""


def _release(held: str) -> str:
    return held + _RELEASED


RELEASE_OWNER = _release("""
WITH held AS (
    SELECT id FROM tasks
    WHERE owner = $2 AND state = 'running' AND lease_until > now()
    ORDER BY id FOR NO KEY UPDATE""")
RELEASE_ONE = _release("""
WITH held AS (
    SELECT id FROM tasks
    WHERE id = $2 AND attempt = $3 AND state = 'running' AND lease_until > now()
    FOR NO KEY UPDATE""")
EXPIRED_OWNERS = """
SELECT DISTINCT owner FROM tasks
WHERE state = 'running' AND owner IS NOT NULL AND lease_until <= now()
ORDER BY owner
"""

# The lock on the task makes a claimer wait or pass by until the step is committed: either it sees
# the step, or we see its epoch and write nothing.
FINISH_STEP = """
WITH held AS (
    SELECT id FROM tasks
    WHERE id = $1 AND attempt = $2 AND state = 'running' FOR NO KEY UPDATE
)
INSERT INTO steps (task_id, name, position, attempt, output, decisions, degraded, started_at,
                   error, tries, input_hash, hand_to, reads, calls, agent)
SELECT id, $3, $4, $2, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15 FROM held
ON CONFLICT (task_id, name) DO NOTHING
RETURNING *
"""
FINISHED_STEP_BEFORE = """
SELECT steps.* FROM steps JOIN tasks ON tasks.id = steps.task_id
WHERE tasks.id = $1 AND tasks.attempt = $2 AND tasks.state = 'running' AND steps.name = $3
"""
FINISH = """
WITH ended AS (
    UPDATE tasks SET state = $3, result = $4, error = $5, degraded = $6, lease_until = NULL,
        finished_at = now(), updated_at = now()
    WHERE id = $1 AND attempt = $2 AND state = 'running'
    RETURNING *
), noted AS (
    UPDATE attempts SET ended_at = now(), outcome = $3 FROM ended
    WHERE attempts.task_id = ended.id AND attempts.attempt = ended.attempt
)
SELECT * FROM ended
"""
# Epoch 0 has no owner: a task that was cancelled in the queue was not ended by a worker.
FINISHED_BEFORE = """
SELECT * FROM tasks WHERE id = $1 AND attempt = $2 AND attempt > 0 AND state = $3
"""
# What is cancelled in the queue gives its turn back: nobody pays for work that wasn't done. What
# has run before (it waited for people) may have something to take back: a worker ends it.
REQUEST_CANCEL = """
WITH asked AS (
    UPDATE tasks SET cancel_requested = true, updated_at = now(),
        state = CASE WHEN state = 'queued' AND attempt = 0 THEN 'cancelled'
                     WHEN state = 'waiting' THEN 'queued' ELSE state END,
        finished_at = CASE WHEN state = 'queued' AND attempt = 0 THEN now() END,
        wake_at = NULL
    WHERE id = $1 AND workspace_id = $2 AND state IN ('queued', 'running', 'waiting')
    RETURNING *
), refunded AS (
    UPDATE shares SET next_turn = next_turn - asked.cost / shares.weight FROM asked
    WHERE shares.workspace_id = asked.workspace_id AND asked.state = 'cancelled'
)
SELECT * FROM asked
"""
OPEN_COUNT = """
SELECT state, count(*) AS n FROM tasks WHERE state IN ('queued', 'running') GROUP BY state
"""
# Rows of some shards alone: a workspace's bucket is the last 6 bits of its id.
BUCKET = "get_byte(uuid_send(workspace_id), 15) & 63"
QUEUES = f"""
SELECT workspace_id, count(*) FILTER (WHERE state = 'queued') AS queued,
       count(*) FILTER (WHERE state = 'running') AS running
FROM tasks WHERE state IN ('queued', 'running') AND ({BUCKET}) = ANY($1::int[])
GROUP BY workspace_id
"""  # noqa: S608 (a constant of ours)
ACTIVE_WORKSPACES = """
SELECT count(*) AS n FROM shares WHERE active_at > now() - make_interval(secs => $1)
"""
UNANNOUNCED = f"""
SELECT * FROM tasks
WHERE announced_at IS NULL AND state IN ('succeeded', 'failed', 'cancelled')
  AND finished_at <= now() - make_interval(secs => $1)
  AND ($3::int[] IS NULL OR ({BUCKET}) = ANY($3))
ORDER BY finished_at LIMIT $2
"""  # noqa: S608 (a constant of ours)
MARK_ANNOUNCED = """
UPDATE tasks SET announced_at = now()
WHERE id = ANY($1::uuid[]) AND announced_at IS NULL
  AND state IN ('succeeded', 'failed', 'cancelled')
"""
ATTEMPTS = "SELECT * FROM attempts WHERE task_id = $1 ORDER BY attempt"
SET_WEIGHT = """
INSERT INTO shares (workspace_id, weight) VALUES ($1, $2)
ON CONFLICT (workspace_id) DO UPDATE SET weight = excluded.weight
"""
