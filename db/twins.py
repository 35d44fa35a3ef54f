"""What became of a job's earlier items, for later ones that are equal to them."""

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.recording import NewResult
from db.states import Outcome

_FIRSTS = text("""
    SELECT idx, outcome, output, error_code, error_message, error_param, input_tokens, output_tokens
    FROM results WHERE job_id = :job AND idx = ANY(CAST(:indexes AS int[]))
""")


def firsts(session: Session, job_id: str, indexes: Collection[int]) -> dict[int, NewResult]:
    """The results of those of the items that have one, by index."""
    rows = session.execute(_FIRSTS, {"job": job_id, "indexes": list(indexes)})
    return {
        row.idx: NewResult(
            row.idx,
            Outcome(row.outcome),
            row.output,
            row.error_code,
            row.error_message,
            row.input_tokens,
            row.output_tokens,
            row.error_param,
        )
        for row in rows
    }
