"""Outputs that satisfy a JSON Schema: at every step, only the tokens that can still lead to one.

llguidance parses the output as it grows and says which tokens may follow. See docs/adr/0016.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import llguidance.hf
import llguidance.numpy
import torch
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from transformers import LogitsProcessor

from workers.engines.base import BadParam
from workers.engines.calibration import cpu_count
from workers.engines.tokens import AutoTokens

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# A model that may put any amount of whitespace anywhere can do so for ever; one space where people put one is enough.
STYLE: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    # A keyword that is not understood is an error, whatever the schema itself says.
    "lenient": False,
    "coerce_one_of": False,
}
# Schemas that are remembered, and how much one of them may take: a lexer's state is one to two kilobytes. Usually there
# are some hundred, but a schema may ask for any number.
KEPT = 16
LEXER_STATES = 30_000


class Grammars:
    """The schemas of one model's outputs, each compiled once. Usable from several threads."""

    def __init__(self, name: str, tokens: AutoTokens, vocabulary: int, ends: Sequence[int], pad: int) -> None:
        self._name, self._tokens, self._vocabulary = name, tokens, vocabulary
        self._ends, self._pad = ends, pad
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._known: OrderedDict[str, LLMatcher | str] = OrderedDict()
        self._executor: LLExecutor | None = None

    def check(self, schema: str) -> None:
        """BadParam, with llguidance's reason, if no output can be made to satisfy the schema."""
        self._compiled(schema)

    def constraint(self, schema: str, rows: int, start: int) -> "Constraint":
        """The schema for `rows` outputs, each of which begins at position `start`."""
        compiled = self._compiled(schema)
        if self._executor is None:
            self._executor = LLExecutor(min(8, cpu_count()))
        matchers = [compiled.deep_copy() for _ in range(rows)]
        return Constraint(matchers, self._executor, start, frozenset({*self._ends, self._pad}))

    def _compiled(self, schema: str) -> LLMatcher:
        with self._lock:
            known = self._known.get(schema)
            if known is None:
                known = self._known[schema] = self._compile(schema)
                if len(self._known) > KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(schema)
        if isinstance(known, str):
            raise BadParam("json_schema", known)
        return known

    def _compile(self, schema: str) -> LLMatcher | str:
        try:
            with _without_panic():
                tokenizer = self._trie()
        except ValueError as exc:
            return f"model {self._name} cannot be held to a json_schema: {exc}"
        try:
            with _without_panic():
                grammar = LLMatcher.grammar_from_json_schema(schema, overrides=STYLE)
                limits = LLParserLimits(max_lexer_states=LEXER_STATES, verbose_errors=False)
                matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        except ValueError as exc:
            return f"json_schema cannot be used: {exc}"
        if matcher.is_error():
            return f"json_schema cannot be used: {_one_line(matcher.get_error())}"
        return matcher

    def _trie(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it: a second's work for a large one."""
        if self._tokenizer is None:
            with self._tokens.borrowed() as tokenizer:
                self._tokenizer = llguidance.hf.from_tokenizer(
                    tokenizer, n_vocab=self._vocabulary, eos_token=list(self._ends)
                )
        return self._tokenizer


class Constraint(LogitsProcessor):
    """Follows every row's output through the schema; an end is possible exactly where the schema is complete."""

    def __init__(self, matchers: list[LLMatcher], executor: LLExecutor, start: int, closing: frozenset[int]) -> None:
        # `closing` are the tokens that end a row, and the padding behind the end that a stop string makes.
        self._executor, self._start, self._closing = executor, start, closing
        self._open = dict(enumerate(matchers))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] < self._start:
            return scores
        if input_ids.shape[1] > self._start:
            self._follow(input_ids[:, -1].tolist())
        if not self._open:
            return scores
        mask = llguidance.numpy.allocate_token_bitmask(*scores.shape)
        with _without_panic():
            llguidance.numpy.fill_next_token_bitmask_par(
                self._executor, [(matcher, row) for row, matcher in self._open.items()], mask
            )
        for matcher in self._open.values():
            _must_be_sound(matcher)
        return scores.masked_fill(~_unpacked(torch.from_numpy(mask).to(scores.device), scores.shape[-1]), -torch.inf)

    def _follow(self, tokens: list[int]) -> None:
        for row, matcher in list(self._open.items()):
            if tokens[row] in self._closing:
                del self._open[row]
            else:
                matcher.consume_token(tokens[row])
                _must_be_sound(matcher)


def _must_be_sound(matcher: LLMatcher) -> None:
    if matcher.is_error():
        # No RuntimeError: those are searched for words like "memory", and this one quotes the schema.
        raise ValueError(f"json_schema became too complex: {_one_line(matcher.get_error())}")


@contextlib.contextmanager
def _without_panic() -> Iterator[None]:
    """A failed assertion in llguidance's Rust is a BaseException in Python, which would end the whole worker."""
    try:
        yield
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        raise ValueError(f"llguidance failed: {_one_line(str(exc))}") from exc


def _unpacked(mask: torch.Tensor, width: int) -> torch.Tensor:
    """The bits of a mask as booleans. By the byte, which is four times less to write than by the word."""
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    bits = (mask.view(torch.uint8).unsqueeze(-1) >> shifts) & 1
    return bits.flatten(1)[:, :width].bool()


def _one_line(message: str) -> str:
    return " ".join(message.replace("<non-verbose/>", "").split())[:300]
