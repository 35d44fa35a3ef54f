"""Problems with our parameters, told in the words of whoever wrote the request."""

import re
from collections.abc import Mapping

from db.inputs import Problem
from db.lines import ResultRow
from models.params import ParamProblem


def in_their_words(problem: ParamProblem, aliases: Mapping[str, str], code: str = "invalid_value") -> Problem:
    """
    >>> found = ParamProblem("max_new_tokens", "max_new_tokens is 900", "set it to 512 or less")
    >>> in_their_words(found, {"max_new_tokens": "max_tokens"}).message
    'max_tokens is 900'
    """
    message, hint = _said(problem.message, aliases), _said(problem.hint, aliases)
    return Problem(code, message, hint, param=aliases.get(problem.param, problem.param))


def param_and_message(row: ResultRow) -> tuple[str | None, str | None]:
    """Which parameter an item failed by, and why, for what only the loaded model could judge: names are ours there.

    The request's own are kept with it, under `request.names`.
    """
    names = row.input.get("request", {}).get("names", {})
    if row.error_param not in names or row.error_message is None:
        return row.error_param, row.error_message
    return names[row.error_param], _said(row.error_message, names)


def _said(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\w+", lambda match: names.get(match[0], match[0]), text) if names else text
