"""How single fields of a request body are read: each by a function that the dialects keep in tables by field name."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from db.inputs import MAX_LISTED, MAX_TEXT, Input, Problem, check_length, check_text
from models.params import MAX_STOP_CHARS, MAX_STOPS, NUMBERS, Number
from models.schemas import NotASchema, canonical

MAX_TEXTS = 2048
MAX_NAME = 256
_MAX_SHOWN_NAME = 64
# Parameters that may turn out to be too much only for the loaded model; an error is then to have the client's names.
_JUDGED_LATER = ("json_schema", "top_logprobs")
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


@dataclass(slots=True)
class Draft:
    """What has been read of one request so far; see `Input` for what the parts mean."""

    body: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    fallbacks: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    model: str | None = None

    def finished(self, custom_id: str | None) -> Input:
        """The request as an Input; one with problems keeps nothing but these and its model."""
        if self.problems:
            return Input({}, custom_id, model=self.model, refusal=tuple(self.problems))
        if names := {ours: self.aliases[ours] for ours in _JUDGED_LATER if ours in self.aliases}:
            self.request["names"] = names
        self.body["request"] = self.request
        return Input(self.body, custom_id, self.params, None, self.model, self.aliases, fallbacks=self.fallbacks)


Reader = Callable[[Draft, str, object], None]


def read(raw: Mapping[str, object], readers: Mapping[str, Reader], required: Collection[str]) -> Draft:
    """Read every field of `raw`. A null is the same as leaving the field out, as it is in both APIs."""
    draft = Draft()
    for name, value in raw.items():
        reader = readers.get(name)
        if reader is None:
            draft.problems.append(unknown(name, readers))
        elif value is not None:
            reader(draft, name, value)
        if len(draft.problems) >= MAX_LISTED:
            break
    for name in required:
        if raw.get(name) is None:
            draft.problems.append(missing(name))
    return draft


def missing(name: str) -> Problem:
    return Problem("missing_required_parameter", f"{name} is missing", "add it", param=name)


def wrong(name: str, value: object, expected: str) -> Problem:
    return Problem("invalid_value", f"{name} is {shown(value)}", f"it must be {expected}", param=name)


def unsupported(name: str, message: str, hint: str = "leave it out") -> Problem:
    return Problem("unsupported_parameter", message, hint, param=name)


# What people look for here and stands in another place.
_ELSEWHERE = {
    "bushel": "it belongs to a whole batch, beside input_file_id",
    "on_error": "it belongs to a whole batch, inside its `bushel` object",
    "long_input": "it belongs to a whole batch, inside its `bushel` object",
    "completion_window": "it belongs to a whole batch, beside input_file_id",
}


def unknown(name: str, known: Collection[str], within: str = "") -> Problem:
    """`within` is the path of the object that the field is in, with a dot at its end."""
    short = name[:_MAX_SHOWN_NAME]
    near = _near(short, tuple(known))
    hint = _ELSEWHERE.get(short) or (f"did you mean {near}?" if near else "leave it out")
    return Problem("unknown_parameter", f"{within}{short} is not a parameter here", hint, param=within + short)


def unknown_keys(value: Mapping[str, object], known: Collection[str], within: str = "") -> list[Problem]:
    """The first of the keys that have no meaning."""
    return [unknown(key, known, within) for key in islice((key for key in value if key not in known), MAX_LISTED)]


# A file that is wrong is mostly wrong in the same way on every line, and looking for what is near takes long.
@lru_cache(maxsize=1024)
def _near(name: str, known: tuple[str, ...]) -> str | None:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return found[0] if found else None


def shown(value: object) -> str:
    """A value for a message, cheaply: the value itself if it is short and simple, else what it is.

    >>> shown(0.5), shown("x"), shown([1] * 1000)
    ('0.5', "'x'", 'a list')
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else repr(value[:57]) + "..."
    # Python refuses to print integers of thousands of digits.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "a very large number"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _KINDS.get(type(value)) or repr(value)


def number(ours: str, rule: Number | None = None) -> Reader:
    """A number that is our parameter `ours`, maybe under another name, and maybe with bounds of its own."""
    accepts, expected = (rule or NUMBERS[ours]).accepts, (rule or NUMBERS[ours]).expected

    def read_number(draft: Draft, name: str, value: object) -> None:
        if not accepts(value):
            draft.problems.append(wrong(name, value, expected))
        elif draft.params.setdefault(ours, value) != value:
            first = draft.aliases.get(ours, ours)
            draft.problems.append(
                Problem("invalid_value", f"{name} and {first} mean the same, but differ", "leave one out", param=name)
            )
        elif name != ours:
            draft.aliases[ours] = name

    return read_number


def stops(draft: Draft, name: str, value: object) -> None:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or len(given) > MAX_STOPS or not all(map(_is_stop, given)):
        expected = f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters, none of them NUL"
        draft.problems.append(wrong(name, value, expected))
        return
    draft.problems += [problem for stop in given for problem in check_text(stop, name)]
    draft.params["stop"] = given
    if name != "stop":
        draft.aliases["stop"] = name


def _is_stop(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_STOP_CHARS and "\0" not in value


def schema(draft: Draft, name: str, value: object, where: str) -> None:
    """A JSON Schema, at `where` inside the field `name`, that the output must satisfy."""
    if not isinstance(value, dict):
        draft.problems.append(wrong(where, value, "a JSON Schema, as an object"))
        return
    try:
        draft.params["json_schema"] = canonical(value)
        draft.aliases["json_schema"] = name
    except NotASchema as exc:
        draft.problems.append(Problem("invalid_value", f"{where} cannot be used", str(exc), param=where))


def model(draft: Draft, name: str, value: object) -> None:
    draft.model = word(draft, name, value)
    if draft.model is not None:
        draft.request["model"] = draft.model


def language(draft: Draft, name: str, value: object) -> None:
    code = word(draft, name, value)
    if code is not None:
        draft.params[name] = code


def word(draft: Draft, name: str, value: object) -> str | None:
    """A short string, or None and a problem."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        draft.problems.append(wrong(name, value, f"a string of 1 to {MAX_NAME} characters"))
        return None
    problems = check_text(value, name)
    draft.problems += problems
    return None if problems else value


def texts(draft: Draft, name: str, value: object) -> None:
    """One text, or a list of them: an item with several outputs."""
    if isinstance(value, str):
        draft.problems += checked(value, name)
        draft.body = {"text": value}
    elif not isinstance(value, list) or not 1 <= len(value) <= MAX_TEXTS:
        found = f"a list of {len(value):,}" if isinstance(value, list) else shown(value)
        hint = f"it must be a string or a list of 1 to {MAX_TEXTS:,} strings"
        draft.problems.append(Problem("invalid_value", f"{name} is {found}", hint, param=name))
    elif isinstance(value[0], (int, list)) and not isinstance(value[0], bool):
        draft.problems.append(unsupported(name, f"{name} holds numbers of tokens", "send the text itself"))
    else:
        draft.request["listed"] = True
        _listed(draft, name, value)


def _listed(draft: Draft, name: str, values: Sequence[Any]) -> None:
    for place, value in enumerate(values):
        where = f"{name}[{place}]"
        draft.problems += checked(value, where) if isinstance(value, str) else [wrong(where, value, "a string")]
        if len(draft.problems) >= MAX_LISTED:
            return
    draft.body = {"texts": list(values)} if len(values) > 1 else {"text": values[0]}


def checked(text: str, where: str) -> list[Problem]:
    """Problems of a text that may not be empty."""
    return [replace(problem, param=where) for problem in check_length(text)] + check_text(text, where)


def checked_turn(text: str, where: str) -> list[Problem]:
    """Problems of the text of one turn of a chat, which may be empty."""
    return checked(text, where) if len(text) > MAX_TEXT else check_text(text, where)


def not_streamed(draft: Draft, name: str, value: object) -> None:
    if value is not False:
        message = "batch and single requests are not streamed"
        draft.problems.append(unsupported(name, message, "leave stream out or set it to false"))


def unused(*kinds: type) -> Reader:
    """A field that says nothing about the output; only its JSON type is looked at."""
    expected = " or ".join(_KINDS[kind] for kind in kinds)

    def read_unused(draft: Draft, name: str, value: object) -> None:
        if type(value) not in kinds:
            draft.problems.append(wrong(name, value, expected))

    return read_unused


def only(*harmless: object, hint: str = "leave it out") -> Reader:
    """A field that cannot be honoured, but for the values that ask for nothing."""

    def read_only(draft: Draft, name: str, value: object) -> None:
        if not any(same(value, each) for each in harmless):
            said = name if type(value) in (list, dict) else f"{name} {shown(value)}"
            draft.problems.append(unsupported(name, f"{said} cannot be honoured", hint))

    return read_only


def same(value: object, other: object) -> bool:
    """Equality of JSON values: true is not 1 there, but 1.0 is."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def default_to_sampling(draft: Draft) -> None:
    """Where a request asks for what only sampling can do, but gives no temperature, it means the APIs' own, 1.

    With temperature 0 the likeliest token is always taken, and `top_p` and `top_k` never leave it out: they
    are honoured by doing without them.
    """
    params = draft.params
    if params.get("temperature") == 0:
        params.pop("top_p", None)
        params.pop("top_k", None)
    elif "temperature" not in params and (
        params.get("n", 1) > 1 or params.get("top_p", 1) < 1 or params.get("top_k", 0) > 0
    ):
        draft.fallbacks["temperature"] = 1
