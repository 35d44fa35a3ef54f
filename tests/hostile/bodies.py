"""JSON bodies: a valid one for every route that takes one, and the ways to spoil it."""

import gzip
import random
from collections.abc import Callable, Mapping
from typing import Any

from tests.hostile import values
from tests.hostile.values import Raw, encoded, places, replaced

Route = tuple[str, str]
_CHAT = {"model": "echo-chat", "max_tokens": 5, "messages": [{"role": "user", "content": "CANARY hello"}]}


def valid(canary: str) -> dict[Route, Any]:
    """A body that every route would take, with `canary` in its texts, which must never be seen in a log.

    Names in angle brackets are replaced by ids of things that are there.
    """
    metadata = {"project": f"{canary} one"}
    item = {
        "custom_id": "a",
        "text": f"{canary} hello",
        "params": {"max_new_tokens": 5},
        "reference": f"{canary} hallo",
    }
    bodies: dict[Route, Any] = {
        ("POST", "/v1/jobs"): {
            "task": "translation",
            "model": "echo",
            "inputs": [item, f"{canary} plain"],
            "params": {"max_new_tokens": 5, "num_beams": 1, "stop": ["x"]},
            "on_error": "skip",
            "priority": 1,
            "completion_window": "24h",
            "metadata": metadata,
            "dry_run": False,
        },
        ("POST", "/v1/jobs/<job_id>/retry"): {"priority": 1, "metadata": metadata},
        ("POST", "/v1/jobs/<job_id>/clone"): {"params": {"max_new_tokens": 5}, "metadata": metadata, "dry_run": True},
        ("POST", "/v1/uploads"): {
            "bytes": 3,
            "filename": f"{canary}.txt",
            "mime_type": "text/plain",
            "purpose": "batch",
            "expires_after": {"anchor": "created_at", "seconds": 3600},
        },
        ("POST", "/v1/uploads/<upload_id>/complete"): {"part_ids": ["<part_id>"], "md5": "0" * 32},
        ("POST", "/v1/batches"): {
            "input_file_id": "<file_id>",
            "endpoint": "/v1/translations",
            "completion_window": "24h",
            "metadata": metadata,
            "output_expires_after": {"anchor": "created_at", "seconds": 3600},
            "bushel": {"on_error": "skip", "priority": 1, "params": {"max_new_tokens": 5}},
        },
        ("POST", "/v1/chat/completions"): {**_CHAT, "stop": ["x"], "temperature": 0, "n": 1, "seed": 7},
        ("POST", "/v1/completions"): {"model": "echo-chat", "prompt": f"{canary} a", "max_tokens": 5, "stop": "x"},
        ("POST", "/v1/embeddings"): {"model": "echo-vectors", "input": [f"{canary} a", "b"]},
        ("POST", "/v1/translations"): {"model": "echo", "input": f"{canary} a", "max_new_tokens": 5},
        ("POST", "/v1/summaries"): {"model": "echo-short", "input": f"{canary} a", "max_new_tokens": 5},
        ("POST", "/v1/messages"): {**_CHAT, "system": f"{canary} s", "stop_sequences": ["x"], "top_k": 1},
        ("POST", "/v1/messages/count_tokens"): {"model": "echo-chat", "messages": _CHAT["messages"]},
        ("POST", "/v1/messages/batches"): {
            "requests": [{"custom_id": "a", "params": _CHAT}, {"custom_id": "b", "params": _CHAT}]
        },
        ("POST", "/v1/webhooks"): {
            "url": "https://hooks.example/x",
            "events": ["job.*"],
            "description": f"{canary} of mine",
        },
        ("POST", "/v1/keys"): {"name": f"{canary} key", "scopes": ["read"], "expires_in_seconds": 3600},
        ("POST", "/v1/keys/<key_id>/rotate"): {"grace_seconds": 60},
        ("PATCH", "/v1/webhooks/<webhook_id>"): {"description": f"{canary} of mine", "enabled": True},
    }
    return {route: _with_canary(body, canary) for route, body in bodies.items()}


def _with_canary(value: Any, canary: str) -> Any:
    if isinstance(value, str):
        return value.replace("CANARY", canary)
    if isinstance(value, Mapping):
        return {name: _with_canary(each, canary) for name, each in value.items()}
    return [_with_canary(each, canary) for each in value] if isinstance(value, list) else value


def _place(rng: random.Random, body: Any, kind: type | tuple[type, ...] = object) -> tuple[Any, ...]:
    def part(path: tuple[Any, ...]) -> Any:
        value = body
        for step in path:
            value = value[step]
        return value

    fitting = [path for path in places(body) if isinstance(part(path), kind) and not isinstance(part(path), bool)]
    return rng.choice(fitting or [()])


def malformed(rng: random.Random, body: Any) -> bytes:
    """What no JSON parser takes, broken at any depth."""
    whole = encoded(body)
    at = rng.randrange(len(whole))
    return rng.choice(
        (
            lambda: whole[:at],
            lambda: whole[:at] + whole[at + 1 :],
            lambda: whole[:at] + bytes([rng.randrange(256)]) + whole[at:],
            lambda: whole + whole,
            lambda: whole + b",",
            lambda: whole.replace(b'"', b"'"),
            lambda: b"/* hello */" + whole,
            lambda: whole.replace(b"}", b",}"),
            lambda: b"",
            lambda: b" \n\t" * rng.choice((1, 100_000)),
            lambda: whole[:at] + b"\0" + whole[at:],
            lambda: rng.randbytes(rng.choice((1, 100, 5_000))),
            lambda: b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>",
            lambda: b"task=translation&inputs=a",
            lambda: b"\x80\x05cposix\nsystem\nX\x02\x00\x00\x00id\x85R.",
        )
    )()


def misencoded(rng: random.Random, body: Any) -> bytes:
    """The same text in bytes that are not UTF-8, or begin as UTF-8 should not."""
    whole = encoded(body)
    text = whole.decode()
    at = rng.randrange(len(whole))
    return rng.choice(
        (
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-16-be"),
            lambda: text.encode("utf-32"),
            lambda: b"\xef\xbb\xbf" + whole,
            lambda: whole[:at] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80")) + whole[at:],
            lambda: gzip.compress(whole),
            lambda: text.encode("cp037"),
        )
    )()


def deep(rng: random.Random, body: Any) -> bytes:
    return encoded(replaced(body, _place(rng, body), lambda _: values.nested(rng)))


def duplicated(rng: random.Random, body: Any) -> bytes:
    """An object that says the same key twice, with different values, or a list that says the same id twice."""
    path = _place(rng, body, Mapping)  # type: ignore[type-abstract]

    def twice(old: Any) -> Any:
        pairs = list(old.items()) if isinstance(old, Mapping) and old else [("a", 1)]
        name, _ = rng.choice(pairs)
        again = b",".join(encoded(key) + b":" + encoded(each) for key, each in [*pairs, (name, values.anything(rng))])
        return Raw(b"{" + again + b"}")

    def lists(old: Any) -> Any:
        return old * rng.choice((2, 50)) if isinstance(old, list) else old

    if rng.random() < 0.4:
        return encoded(replaced(body, _place(rng, body, list), lists))
    return encoded(replaced(body, path, twice))


def odd_numbers(rng: random.Random, body: Any) -> bytes:
    """Numbers in the billions, negative, broken, without end; also where no number stood before."""
    if rng.random() < 0.3:
        names = ("max_tokens", "max_new_tokens", "n", "top_k", "temperature", "seed", "num_beams", "priority", "top_p")
        name = rng.choice(names)
        changed = {**body, name: values.number(rng)}
        if isinstance(body.get("params"), dict) and rng.random() < 0.7:
            changed = {**body, "params": {**body["params"], name: values.number(rng)}}
        return encoded(changed)
    return encoded(replaced(body, _place(rng, body, (int, float)), lambda _: values.number(rng)))


def odd_strings(rng: random.Random, body: Any) -> bytes:
    return encoded(replaced(body, _place(rng, body, str), lambda _: values.string(rng)))


def odd_types(rng: random.Random, body: Any) -> bytes:
    return encoded(replaced(body, _place(rng, body), lambda _: values.anything(rng)))


def unknown(rng: random.Random, body: Any) -> bytes:
    """Fields that nobody knows, one or thousands, anywhere."""
    count = rng.choice((1, 2, 30, 3_000))
    more = {f"{rng.choice(values.KEYS)}{number or ''}": values.anything(rng) for number in range(min(count, 30))}
    more |= {f"field_{number}": number for number in range(count if count > 30 else 0)}
    change: Callable[[Any], Any] = lambda old: {**old, **more} if isinstance(old, Mapping) else old  # noqa: E731
    return encoded(replaced(body, _place(rng, body, Mapping), change))  # type: ignore[type-abstract]


def oversized(rng: random.Random, body: Any) -> bytes:
    """One part of the body far beyond its limit."""
    many = rng.choice((5, 17, 129, 2_000, 20_000))
    strings = [f"s{number}" for number in range(many)]
    choices: dict[str, Any] = {
        "stop": rng.choice((strings, ["x" * 5_000] * 4, list(values.REGEX_TEXTS) * 50, [""], "y" * 100_000)),
        "stop_sequences": strings,
        "metadata": rng.choice(
            ({key: "v" for key in strings}, {"k": "v" * 100_000}, {"k" * 5_000: "v"}, {"k": [1]}, {"": "v"})
        ),
        "inputs": rng.choice((strings, [{"custom_id": "c" * 100_000, "text": "a"}], ["a" * 2_000_000], [""] * many)),
        "input": rng.choice((strings, "a" * 2_000_000, [[1] * many], [""] * many)),
        "prompt": rng.choice((strings, "a" * 2_000_000, [1, 2, 3], [[1]])),
        "messages": [{"role": "user", "content": "a"}] * many,
        "requests": [{"custom_id": f"c{number}", "params": _CHAT} for number in range(min(many, 2_000))],
        "part_ids": strings,
        "events": strings,
        "description": "d" * 100_000,
        "filename": "f" * 100_000,
        "model": "m" * 100_000,
        "completion_window": rng.choice(("9" * 5_000 + "d", "0s", "1e9d", "99999999d", "1h\n")),
        "url": "https://hooks.example/" + "u" * 100_000,
        "logit_bias": {str(number): number for number in range(many)},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": values.nested(rng)}},
    }
    known = [name for name in choices if isinstance(body, Mapping) and name in body]
    name = rng.choice(known) if known and rng.random() < 0.8 else rng.choice(list(choices))
    if name == "stop" and isinstance(body.get("params"), Mapping):
        return encoded({**body, "params": {**body["params"], "stop": choices["stop"]}})
    return encoded({**body, name: choices[name]})


def specials(rng: random.Random, body: Any) -> bytes:
    """Texts that look like a model's own tokens, a template or an order to the server: they are texts."""
    texts = (*values.SPECIAL_TEXTS, *values.REGEX_TEXTS)
    return encoded(replaced(body, _place(rng, body, str), lambda _: rng.choice(texts)))


SPOILED: dict[str, Callable[[random.Random, Any], bytes]] = {
    "malformed JSON": malformed,
    "encoding": misencoded,
    "deep nesting": deep,
    "duplicate keys and ids": duplicated,
    "odd numbers": odd_numbers,
    "odd strings": odd_strings,
    "wrong types": odd_types,
    "unknown fields": unknown,
    "oversized parts": oversized,
    "special tokens": specials,
}
