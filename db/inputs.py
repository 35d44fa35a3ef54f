"""What one input of a job may look like: a JSON value in, a checked item or its problems out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_CUSTOM_ID = 256
MAX_TEXT = 1_000_000
# A line of 16 MiB can be wrong in a million ways; so many of one kind are listed, and the rest counted in one more.
MAX_LISTED = 20
MAX_SHOWN = 500
MAX_MESSAGES = 1_000
# Of one input, and of all its references together: scoring takes memory and time for every character.
MAX_REFERENCES, MAX_REFERENCE_CHARS = 16, 100_000
ROLES = ("system", "user", "assistant")
# What a turn of a chat takes beside its content: markers of its role and its end.
TURN_TOKENS = 4
_KINDS = {
    type(None): "null",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
_KEYS = {"custom_id", "text", "messages", "params", "reference"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an input is refused: where, what, and what to do.

    `line` and `column` count from 1 (column in characters); a column of None means the whole line.
    What it quotes from the input may be anything: it is cut, and made fit to be stored.
    """

    code: str
    message: str
    hint: str
    line: int | None = None
    column: int | None = None
    param: str | None = None

    def __post_init__(self) -> None:
        for name in ("message", "hint", "param"):
            text = getattr(self, name)
            if text:
                object.__setattr__(self, name, storable(text[:MAX_SHOWN]))

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("line", "column", "param", "code", "message", "hint")}


class Input(msgspec.Struct, frozen=True):
    """One checked input; `params` override the job's.

    `body` is stored: {"text": …}, {"texts": […]} or {"messages": […]}.

    In dialects whose requests are whole on every line, the line names its `model` (None: the job's), `body`
    has what the answer must be shaped by under "request", and `aliases` says what our parameters are called
    there. `fallbacks` are parameters that the request's API fills in where nobody says anything. `refusal` is what
    such a request asks that cannot be served: it fails this item alone.

    `reference` is what the output will be scored against: one text or several that are as good.

    A struct of msgspec, as all that is made once for a line: making a frozen dataclass takes fifteen times as long,
    and with those a job of 100,000 lines was ingested at 0.87 of the pace.
    """

    body: dict[str, Any]
    custom_id: str | None = None
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    extra: list[str] | None = None
    model: str | None = None
    aliases: Mapping[str, str] = msgspec.field(default_factory=dict)
    refusal: tuple[Problem, ...] = ()
    fallbacks: dict[str, Any] = msgspec.field(default_factory=dict)
    reference: list[str] | None = None

    def wanted(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that are asked for: the input's own before the job's (`shared`), and those before fallbacks.

        >>> Input({}, params={"seed": 1}, fallbacks={"seed": 3, "n": 3, "top_k": 3}).wanted({"seed": 2, "n": 2})
        {'seed': 1, 'n': 2, 'top_k': 3}
        """
        return {**self.fallbacks, **shared, **self.params}

    def answered_by(self, model: str) -> None:
        """Note the model, for the answer to name, where the request left it open."""
        if "request" in self.body:
            self.body["request"].setdefault("model", model)


class Refused(Exception):
    """Carries every problem found in one input."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = list(problems)


def check(value: object, task: str, keys: str = "input") -> Input:
    """Turn an inline input or a decoded JSONL line into an Input, or raise Refused with all its problems.

    A string is short for {"text": string}. `messages` are for generation only.
    """
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, Mapping):
        raise Refused(
            [
                Problem(
                    "invalid_input",
                    f"an {keys} must be a string or an object, not {_kind(value)}",
                    'write "some text" or {"text": "some text"}',
                )
            ]
        )
    problems: list[Problem] = []
    problems += _unknown_fields(sorted(value.keys() - _KEYS))
    custom_id = value.get("custom_id")
    if custom_id is not None:
        problems += check_custom_id(custom_id)
    body = _body(value, task, problems)
    params = value.get("params") or {}
    if not isinstance(params, Mapping):
        problems.append(
            Problem("invalid_params", f"`params` must be an object, not {_kind(params)}", "", param="params")
        )
    reference = _references(value.get("reference"), problems)
    if problems:
        raise Refused(problems)
    return Input(body, custom_id, dict(params), reference=reference)


def _unknown_fields(keys: Sequence[str]) -> list[Problem]:
    allowed = f"allowed: {', '.join(sorted(_KEYS))}"
    problems = [
        Problem("unknown_field", f"unknown field {key[:64]!r}", allowed, param=key[:64]) for key in keys[:MAX_LISTED]
    ]
    if len(keys) > MAX_LISTED:
        problems.append(Problem("unknown_field", f"{len(keys) - MAX_LISTED:,} more unknown fields", allowed))
    return problems


def check_custom_id(custom_id: object) -> list[Problem]:
    if isinstance(custom_id, str) and 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        return check_text(custom_id, "custom_id")
    return [
        Problem(
            "invalid_custom_id",
            f"custom_id must be a string of 1 to {MAX_CUSTOM_ID} characters",
            "quote numbers, shorten long ids",
            param="custom_id",
        )
    ]


def _references(value: object, problems: list[Problem]) -> list[str] | None:
    if value is None:
        return None
    texts: list[Any] = value if isinstance(value, list) else [value]
    if not 1 <= len(texts) <= MAX_REFERENCES or not all(isinstance(text, str) for text in texts):
        problems.append(
            Problem(
                "invalid_reference",
                f"`reference` must be a string or a list of 1 to {MAX_REFERENCES} strings",
                "leave it out of an input that has none",
                param="reference",
            )
        )
        return None
    problems += check_references(texts)
    return texts


def check_references(texts: Sequence[str]) -> list[Problem]:
    """What is wrong with references that are strings."""
    if not all(text.strip() for text in texts):
        return [
            Problem(
                "empty_reference", "a reference is empty", "leave it out of an input that has none", param="reference"
            )
        ]
    if (chars := sum(map(len, texts))) > MAX_REFERENCE_CHARS:
        return [
            Problem(
                "reference_too_long",
                f"the references have {chars:,} characters; at most {MAX_REFERENCE_CHARS:,} are accepted",
                "shorten them, or split the input into several",
                param="reference",
            )
        ]
    return [problem for text in texts for problem in check_text(text, "reference")]


def storable(text: str) -> str:
    """The text without what PostgreSQL refuses: a NUL becomes U+FFFD, a lone surrogate a question mark.

    >>> storable("a\\0b\\ud800")
    'a\ufffdb?'
    """
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def check_text(text: str, param: str) -> list[Problem]:
    """PostgreSQL stores neither NUL nor lone surrogates; say so here instead of failing there."""
    nul = text.find("\0")
    if nul >= 0:
        return [Problem("invalid_character", f"{param} has a NUL character", "remove it", column=nul + 1, param=param)]
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        return [
            Problem(
                "invalid_character",
                f"{param} has a lone surrogate (\\u{ord(text[exc.start]):04x})",
                "write the character itself, or both halves of its \\u pair",
                column=exc.start + 1,
                param=param,
            )
        ]
    return []


def estimated_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of an Input's body before any tokenizer saw it, for planning and estimates; limits are for real tokens.

    >>> estimated_tokens({"text": "four bytes a token"})
    5
    """
    if "messages" in body:
        return sum(estimate_tokens(turn["content"]) + TURN_TOKENS for turn in body["messages"])
    return sum(map(estimate_tokens, body["texts"])) if "texts" in body else estimate_tokens(body["text"])


def estimate_tokens(text: str) -> int:
    """About four UTF-8 bytes each, as subword vocabularies go."""
    return len(text.encode(errors="replace")) // 4 + 1


def _body(value: Mapping[Any, Any], task: str, problems: list[Problem]) -> dict[str, Any]:
    text, messages = value.get("text"), value.get("messages")
    if (text is None) == (messages is None):
        allowed = "exactly one of `text` and `messages`" if task == "generation" else "`text`"
        problems.append(Problem("missing_text", f"an input needs {allowed}", 'for example {"text": "…"}', param="text"))
        return {}
    if messages is not None:
        if task != "generation":
            problems.append(
                Problem("invalid_input", f"`messages` are for generation, not {task}", "send `text`", param="messages")
            )
            return {}
        return {"messages": _messages(messages, problems)}
    if not isinstance(text, str):
        problems.append(Problem("invalid_text", f"`text` must be a string, not {_kind(text)}", "", param="text"))
        return {}
    problems += check_length(text)
    problems += check_text(text, "text")
    return {"text": text}


def check_length(text: str) -> list[Problem]:
    if not text.strip():
        return [Problem("empty_text", "the text is empty", "give it a text, or leave the input out", param="text")]
    if len(text) > MAX_TEXT:
        return [
            Problem(
                "text_too_long",
                f"the text has {len(text):,} characters; at most {MAX_TEXT:,} are accepted",
                "split it into several inputs",
                param="text",
            )
        ]
    return []


def _messages(messages: object, problems: list[Problem]) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        problems.append(
            Problem(
                "invalid_messages",
                f"`messages` must be a list of 1 to {MAX_MESSAGES} messages",
                'for example [{"role": "user", "content": "…"}]',
                param="messages",
            )
        )
        return []
    turns: list[dict[str, str]] = []
    for number, turn in enumerate(messages):
        if len(problems) > MAX_LISTED:
            break
        where = f"messages[{number}]"
        if not (isinstance(turn, Mapping) and turn.keys() == {"role", "content"}):
            problems.append(
                Problem("invalid_messages", f"{where} must have exactly `role` and `content`", "", param=where)
            )
        elif turn["role"] not in ROLES:
            problems.append(
                Problem("invalid_messages", f"{where}.role must be one of {', '.join(ROLES)}", "", param=where)
            )
        elif not isinstance(turn["content"], str):
            problems.append(Problem("invalid_messages", f"{where}.content must be a string", "", param=where))
        else:
            problems += check_text(turn["content"], where)
            if len(turn["content"]) > MAX_TEXT:
                problems += check_length(turn["content"])
            turns.append({"role": turn["role"], "content": turn["content"]})
    return turns


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
