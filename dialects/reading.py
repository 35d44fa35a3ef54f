"""Which function reads the lines of a job, by its dialect."""

from collections.abc import Callable
from functools import partial

from db.inputs import Input, check
from dialects.anthropic import requests as anthropic
from dialects.openai import lines as openai


def reader(dialect: str, endpoint: str | None, task: str) -> Callable[[object], Input]:
    """From the decoded JSON of one line to an Input; the function raises `db.inputs.Refused` for what it cannot be."""
    if dialect == "openai":
        assert endpoint is not None
        return partial(openai.read_line, endpoint=endpoint)
    if dialect == "anthropic":
        return anthropic.read_line
    return partial(check, task=task, keys="input line")
