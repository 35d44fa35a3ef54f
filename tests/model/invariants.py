"""What is true of the ledger after every commit of anybody, as queries that find what is not."""

from db.chunks import MAX_CRASHES

# Webhooks of this description are there from the beginning, want everything and are never disabled.
ALWAYS = "always"

_FINAL = "('completed', 'failed', 'expired', 'cancelled')"
# Each selects the ids of what breaks it.
INVARIANTS = {
    "the counts are those of the rows": """
        SELECT job.id FROM jobs job
        CROSS JOIN LATERAL (SELECT count(*) AS n FROM items WHERE job_id = job.id) AS item
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE outcome = 'succeeded') AS succeeded,
                count(*) FILTER (WHERE outcome = 'failed') AS failed FROM results WHERE job_id = job.id) AS result
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(items) FILTER (WHERE state = 'ready'), 0) AS ready,
                coalesce(sum(items) FILTER (WHERE state = 'leased'), 0) AS leased,
                coalesce(sum(tokens) FILTER (WHERE state = 'ready'), 0) AS tokens
            FROM chunks WHERE job_id = job.id) AS chunk
        WHERE (job.total, job.succeeded, job.failed, job.queued, job.running, job.queued_tokens)
            <> (item.n, result.succeeded, result.failed, chunk.ready, chunk.leased, chunk.tokens)
    """,
    "an open chunk counts its items without a result": """
        SELECT chunk.id FROM chunks chunk WHERE chunk.state IN ('ready', 'leased') AND chunk.items <> (
            SELECT count(*) FROM items item WHERE item.chunk_id = chunk.id AND NOT EXISTS (
                SELECT FROM results r WHERE r.job_id = item.job_id AND r.idx = item.idx))
    """,
    "no item is left behind": """
        SELECT item.job_id || '/' || item.idx FROM items item JOIN jobs job ON job.id = item.job_id
        LEFT JOIN chunks chunk ON chunk.id = item.chunk_id
        WHERE NOT EXISTS (SELECT FROM results r WHERE r.job_id = item.job_id AND r.idx = item.idx)
            AND (chunk.id IS NULL OR chunk.state = 'split'
                OR (chunk.state = 'done' AND job.cancelled + job.expired = 0))
    """,
    "a result belongs to an item, and to an attempt at its chunk": """
        SELECT r.job_id || '/' || r.idx FROM results r
        LEFT JOIN items item ON item.job_id = r.job_id AND item.idx = r.idx
        LEFT JOIN chunks chunk ON chunk.id = r.chunk_id
        WHERE item.idx IS NULL OR r.chunk_id IS DISTINCT FROM item.chunk_id
            OR (r.chunk_id IS NULL) <> (r.attempt = 0)
            OR (r.chunk_id IS NOT NULL AND (chunk.job_id IS DISTINCT FROM r.job_id OR r.attempt > chunk.attempt))
    """,
    "a chunk is leased, or it has no lease": """
        SELECT id FROM chunks WHERE CASE state WHEN 'leased'
            THEN lease_owner IS NULL OR lease_expires_at IS NULL OR hard_deadline IS NULL OR attempt = 0
            ELSE lease_owner IS NOT NULL OR lease_expires_at IS NOT NULL OR hard_deadline IS NOT NULL END
    """,
    "no lease outlives its hard deadline": "SELECT id FROM chunks WHERE lease_expires_at > hard_deadline",
    "deaths are bounded": f"SELECT id FROM chunks WHERE crashes > {MAX_CRASHES}",
    "a job that has ended has nothing open, and ended once": f"""
        SELECT id FROM jobs WHERE
            (completed_at IS NOT NULL)::int + (failed_at IS NOT NULL)::int + (expired_at IS NOT NULL)::int
                + (cancelled_at IS NOT NULL)::int <> (status IN {_FINAL})::int
            OR (status IN {_FINAL} AND (queued + running > 0 OR EXISTS (
                SELECT FROM chunks WHERE job_id = jobs.id AND state IN ('ready', 'leased'))))
    """,
    "a running job has something to run": """
        SELECT id FROM jobs WHERE status = 'in_progress' AND queued + running = 0
    """,
    "only what runs or ends is leased": """
        SELECT chunk.id FROM chunks chunk JOIN jobs job ON job.id = chunk.job_id
        WHERE chunk.state = 'leased' AND job.status NOT IN ('in_progress', 'finalizing', 'cancelling')
    """,
    "items and results are numbered without gaps": """
        SELECT job_id FROM items GROUP BY job_id HAVING min(idx) <> 0 OR max(idx) <> count(*) - 1
        UNION ALL
        SELECT job_id FROM results GROUP BY job_id HAVING min(seq) <> 1 OR max(seq) <> count(*)
    """,
    "what is one tenant's belongs to no other": """
        SELECT job.id FROM jobs job JOIN files file
            ON file.id IN (job.input_file_id, job.output_file_id, job.error_file_id, job.report_file_id)
        WHERE file.tenant_id <> job.tenant_id
        UNION ALL
        SELECT child.id FROM jobs child JOIN jobs parent ON parent.id = child.parent_id
        WHERE parent.tenant_id <> child.tenant_id
        UNION ALL
        SELECT known.key FROM idempotency_keys known JOIN jobs job ON job.id = known.job_id
        WHERE known.tenant_id <> job.tenant_id
        UNION ALL
        SELECT sent.id FROM deliveries sent JOIN webhooks hook ON hook.id = sent.webhook_id
            JOIN jobs job ON job.id = sent.job_id
        WHERE hook.tenant_id <> job.tenant_id
    """,
    "an end is told once to everyone who wants to hear of it": f"""
        SELECT job.id FROM jobs job JOIN webhooks hook
            ON hook.tenant_id = job.tenant_id AND hook.description = '{ALWAYS}'
        WHERE (SELECT count(*) FROM deliveries sent WHERE sent.webhook_id = hook.id AND sent.job_id = job.id
                AND sent.event = 'job.' || job.status)
            <> (job.status IN {_FINAL} AND NOT job.interactive)::int
        UNION ALL
        SELECT webhook_id FROM deliveries WHERE job_id IS NOT NULL
        GROUP BY webhook_id, job_id, split_part(event, '.', 1) HAVING count(*) > 1
        UNION ALL
        SELECT sent.id FROM deliveries sent JOIN jobs job ON job.id = sent.job_id
        WHERE split_part(sent.event, '.', 2) <> job.status
    """,
    # More, where jobs were deleted.
    "usage has everything that was run": """
        SELECT ran.tenant_id || '/' || ran.model || '/' || ran.task FROM (
            SELECT job.tenant_id, chunk.model, job.task, count(*) FILTER (WHERE r.outcome = 'succeeded') AS succeeded,
                count(*) FILTER (WHERE r.outcome = 'failed') AS failed,
                sum(r.input_tokens) AS input_tokens, sum(r.output_tokens) AS output_tokens
            FROM results r JOIN jobs job ON job.id = r.job_id JOIN chunks chunk ON chunk.id = r.chunk_id
            GROUP BY job.tenant_id, chunk.model, job.task) AS ran
        LEFT JOIN (
            SELECT tenant_id, model, task, sum(succeeded) AS succeeded, sum(failed) AS failed,
                sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
            FROM usage_days GROUP BY tenant_id, model, task) AS used USING (tenant_id, model, task)
        WHERE used.succeeded IS NULL OR used.succeeded < ran.succeeded OR used.failed < ran.failed
            OR used.input_tokens < ran.input_tokens OR used.output_tokens < ran.output_tokens
    """,
    "an outcome that is to be had from a file is in one": """
        SELECT id FROM jobs WHERE status IN ('completed', 'expired', 'cancelled') AND NOT dry_run AND NOT interactive
            AND ((succeeded > 0 AND output_file_id IS NULL) OR (total > succeeded AND error_file_id IS NULL))
        UNION ALL
        SELECT output_file_id FROM jobs WHERE output_file_id IS NOT NULL GROUP BY output_file_id HAVING count(*) > 1
    """,
}
BROKEN = "\nUNION ALL\n".join(
    f"SELECT $name${name}$name$ AS name, CAST(broken.id AS text) AS id FROM ({query}) AS broken(id)"
    for name, query in INVARIANTS.items()
)
