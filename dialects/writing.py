"""Which lines the result files of a job have, by its dialect."""

from db.lines import LineWriter
from dialects.openai.lines import OpenAILines


def writers(dialect: str, endpoint: str | None, job_id: str) -> tuple[LineWriter, LineWriter] | None:
    """For the output and the error file of a job; None for a dialect whose results are no files."""
    if dialect != "openai":
        return None
    assert endpoint is not None
    return OpenAILines(endpoint, job_id), OpenAILines(endpoint, job_id)
