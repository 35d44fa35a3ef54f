"""Whether usage is what jobs counted."""

from tests.ledger import Ledger

# At one moment, while workers may be recording. Jobs of several models and deleted ones are not for it.
_UNEQUAL = """
    WITH used AS (
        SELECT tenant_id, model, task, sum(succeeded) AS succeeded, sum(failed) AS failed,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(device_seconds) AS seconds
        FROM usage_days GROUP BY tenant_id, model, task
    ), counted AS (
        SELECT tenant_id, model, task, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(device_seconds) AS seconds
        FROM jobs WHERE model IS NOT NULL GROUP BY tenant_id, model, task
    ), ran AS (
        SELECT job.tenant_id, chunk.model, job.task, count(*) FILTER (WHERE outcome = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE outcome = 'failed') AS failed,
            sum(result.input_tokens) AS input_tokens, sum(result.output_tokens) AS output_tokens
        FROM results result JOIN jobs job ON job.id = result.job_id JOIN chunks chunk ON chunk.id = result.chunk_id
        GROUP BY job.tenant_id, chunk.model, job.task
    )
    SELECT tenant_id, model, task, used, counted, ran
    FROM used FULL JOIN counted USING (tenant_id, model, task) FULL JOIN ran USING (tenant_id, model, task)
    WHERE (coalesce(used.succeeded, 0), coalesce(used.failed, 0), coalesce(used.input_tokens, 0),
            coalesce(used.output_tokens, 0))
        <> (coalesce(ran.succeeded, 0), coalesce(ran.failed, 0), coalesce(ran.input_tokens, 0),
            coalesce(ran.output_tokens, 0))
        OR (coalesce(used.input_tokens, 0), coalesce(used.output_tokens, 0))
        <> (coalesce(counted.input_tokens, 0), coalesce(counted.output_tokens, 0))
        OR abs(coalesce(used.seconds, 0) - coalesce(counted.seconds, 0)) > 1e-6
"""


def assert_conserved(ledger: Ledger) -> None:
    """By tenant, model and task, usage is what the results say of what was run, and what the jobs' own rows do."""
    assert ledger.rows(_UNEQUAL) == []
