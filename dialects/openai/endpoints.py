"""Which paths a line, or a single request, may be sent to, and which task each of them is."""

from enum import StrEnum

from models.spec import Task


class Endpoint(StrEnum):
    """The first three are OpenAI's, the others ours: what they do has no endpoint there."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    TRANSLATIONS = "/v1/translations"
    SUMMARIES = "/v1/summaries"


_TASKS = {
    Endpoint.CHAT: Task.GENERATION,
    Endpoint.COMPLETIONS: Task.GENERATION,
    Endpoint.EMBEDDINGS: Task.EMBEDDING,
    Endpoint.TRANSLATIONS: Task.TRANSLATION,
    Endpoint.SUMMARIES: Task.SUMMARIZATION,
}


def task_of(endpoint: str) -> Task:
    """Raises ValueError for a path that is no endpoint.

    >>> task_of("/v1/embeddings").value
    'embedding'
    """
    return _TASKS[Endpoint(endpoint)]
