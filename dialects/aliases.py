"""Problems with our parameters, told in the words of whoever wrote the request."""

import re
from collections.abc import Mapping

from db.inputs import Problem
from models.params import ParamProblem


def in_their_words(problem: ParamProblem, aliases: Mapping[str, str], code: str = "invalid_value") -> Problem:
    """
    >>> found = ParamProblem("max_new_tokens", "max_new_tokens is 900", "set it to 512 or less")
    >>> in_their_words(found, {"max_new_tokens": "max_tokens"}).message
    'max_tokens is 900'
    """

    def said(text: str) -> str:
        return re.sub(r"\w+", lambda match: aliases.get(match[0], match[0]), text) if aliases else text

    return Problem(code, said(problem.message), said(problem.hint), param=aliases.get(problem.param, problem.param))
