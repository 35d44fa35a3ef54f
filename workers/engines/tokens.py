"""Texts and chats to a model's tokens, cut to its limit, and tokens back to text."""

import contextlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.spec import ModelSpec, Task
from workers.engines.base import Encoded, ModelUnavailable, Params, Prompt
from workers.engines.files import ModelFiles
from workers.engines.quiet import quietly

# Models whose output language is its first token, and whose input language is marked in the input.
MULTILINGUAL = frozenset({"m2m_100", "mbart", "nllb-moe"})
LANGUAGE_CODE = re.compile(r">>[^<>]*<<")


# Of a call of a tokenizer: cutting is done here, where it is told.
_WHOLE = {"truncation": False, "verbose": False}
# Planes of Unicode that nobody may put anything in; a template leaves such a character as it is.
_PRIVATE = range(0xF0000, 0x10FFFE)


@dataclass(frozen=True, slots=True)
class StandIns:
    """Characters in the place of special tokens that users spelled out, while a chat template writes its own."""

    shown: Mapping[str, str]

    @classmethod
    def of(cls, spelled: Sequence[str], contents: str) -> "StandIns":
        """One for each of `spelled` that does not occur in `contents`."""
        taken = set(contents)
        free = (chr(code) for code in _PRIVATE if chr(code) not in taken)
        return cls(dict(zip(free, spelled, strict=False)))

    def hidden(self, text: str) -> str:
        # The longest first, since one may be a part of another.
        for stand_in, token in sorted(self.shown.items(), key=lambda pair: -len(pair[1])):
            text = text.replace(token, stand_in)
        return text

    def restored(self, text: str) -> str:
        for stand_in, token in self.shown.items():
            text = text.replace(stand_in, token)
        return text


def _special(tokenizer: Any) -> list[str]:
    """The tokenizer's special tokens, the longest first, since one may begin as another does."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted(filter(None, special), key=len, reverse=True)


def full_prefix(spec: ModelSpec, params: Params) -> str:
    """The registry's prefix with the languages filled in."""
    return spec.prefix.format(source_lang=params.source_lang, target_lang=params.target_lang) if spec.prefix else ""


class MarianTokens:
    """A Marian model's tokens by sentencepiece itself: many times faster than transformers' tokenizer, and thread-safe.

    Agrees with it, but for one thing: special tokens spelled out in a text (`</s>`) stay text.
    """

    def __init__(self, spec: ModelSpec, files: ModelFiles) -> None:
        self._spec = spec
        self._source = _pieces(spec, files.folder / "source.spm")
        self._target = _pieces(spec, files.folder / "target.spm")
        try:
            self._vocabulary: frozenset[str] = frozenset(json.loads((files.folder / "vocab.json").read_text("utf-8")))
            config = files.folder / "tokenizer_config.json"
            settings = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        except (OSError, ValueError) as exc:
            raise ModelUnavailable(f"model {spec.name}: its tokenizer cannot be loaded: {exc}") from exc
        self.eos, self.unknown, self.pad = (
            _spelled(settings.get(key), usual)
            for key, usual in (("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>"))
        )
        self.limit: int | None = settings.get("model_max_length")
        self._special = frozenset({self.eos, self.unknown, self.pad})
        for target in spec.target_languages:
            code = LANGUAGE_CODE.match(full_prefix(spec, Params(target_lang=target, source_lang="")))
            if code and code.group() not in self._vocabulary:
                raise ModelUnavailable(
                    f"model {spec.name}: its vocabulary has no {code.group()}; correct target_languages"
                )

    @property
    def plain(self) -> list[str]:
        """Every token that stands for text, to make synthetic prompts of."""
        return sorted(token for token in self._vocabulary - self._special if not LANGUAGE_CODE.match(token))

    def encode(self, prompts: Sequence[Prompt], params: Params, limit: int) -> list[Encoded]:
        codes, texts = zip(*(self._split(prompt, params) for prompt in prompts), strict=True) if prompts else ((), ())
        encoded = []
        for code, pieces in zip(codes, self._source.encode(list(texts), out_type=str), strict=True):
            room = max(0, limit - len(code) - 1)
            known = [piece if piece in self._vocabulary else self.unknown for piece in pieces[:room]]
            encoded.append(Encoded((*code, *known, self.eos), dropped=max(0, len(pieces) - room)))
        return encoded

    def decode(self, outputs: Sequence[Iterable[str]]) -> list[str]:
        kept = [[token for token in output if token not in self._special] for output in outputs]
        return [text.strip() for text in self._target.decode(kept)] if kept else []

    def _split(self, prompt: Prompt, params: Params) -> tuple[tuple[str, ...], str]:
        """The language code, which the operator's prefix may begin with and a user's text may not, and the rest."""
        prefix, text = full_prefix(self._spec, params), _text_of(self._spec, prompt)
        code = LANGUAGE_CODE.match(prefix)
        if code and code.group() in self._vocabulary:
            return (code.group(),), prefix[code.end() :] + text
        return (), prefix + text


class AutoTokens:
    """Any model's tokens, by transformers' own tokenizer for it; token ids inside, pieces at the edge.

    The tokenizer keeps state (the source language) and refuses to be used from two threads while it is
    changed, hence the lock.
    """

    def __init__(self, spec: ModelSpec, files: ModelFiles) -> None:
        self._spec = spec
        # What goes on from its prompt; an encoder's input is whole in itself, as a translator's is.
        self._is_causal = not files.is_encoder_decoder and spec.task is not Task.EMBEDDING
        self._is_multilingual = files.model_type in MULTILINGUAL
        self._lock = threading.Lock()
        self._tokenizer = load_tokenizer(spec, files.folder)
        self._forced_bos = files.token_ids("forced_bos_token_id")
        self._is_marian = files.model_type == "marian"
        special = _special(self._tokenizer)
        # What the tokenizer takes for one of its special tokens, wherever it stands in a text.
        self._marks = re.compile(f"({'|'.join(map(re.escape, special)) or '(?!)'})")
        self._special_ids = set(self._tokenizer.convert_tokens_to_ids(special)) - {self._tokenizer.unk_token_id}
        self.limit: int | None = getattr(self._tokenizer, "model_max_length", None)
        if self._is_multilingual:
            self._check_languages()

    @property
    def plain(self) -> list[str]:
        """Every token that stands for text, to make synthetic prompts of."""
        special = set(self._tokenizer.all_special_tokens)
        return sorted(token for token in self._tokenizer.get_vocab() if token not in special)

    def forced(self, params: Params) -> tuple[int, ...]:
        """The tokens every output begins with: a target language, or what the config forces."""
        if self._is_multilingual and params.target_lang is not None:
            return (self._language_id(params.target_lang),)
        return self._forced_bos

    def encode(self, prompts: Sequence[Prompt], params: Params, limit: int) -> list[Encoded]:
        if not prompts:
            return []
        with self._lock:
            if self._is_causal:
                return [self._causal(prompt, params, limit) for prompt in prompts]
            return self._whole(prompts, params, limit)

    def decode(self, outputs: Sequence[Sequence[int]]) -> list[str]:
        if not outputs:
            return []
        with self._lock:
            texts: list[str] = self._tokenizer.batch_decode(
                [list(output) for output in outputs], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return texts if self._is_causal else [text.strip() for text in texts]

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._tokenizer.convert_ids_to_tokens(list(ids)))

    def ids(self, pieces: Sequence[str]) -> tuple[int, ...]:
        """Without those the tokenizer does not know: a model's vocabulary may be padded beyond the tokenizer's."""
        found = self._tokenizer.convert_tokens_to_ids(list(pieces))
        return tuple(each for each in found if each is not None)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Any]:
        """The tokenizer itself, for as long as nobody else uses it."""
        with self._lock:
            yield self._tokenizer

    def _whole(self, prompts: Sequence[Prompt], params: Params, limit: int) -> list[Encoded]:
        if self._is_multilingual and params.source_lang is not None:
            self._tokenizer.src_lang = params.source_lang
        code, prefix = self._code(full_prefix(self._spec, params))
        texts = [prefix + _text_of(self._spec, prompt) for prompt in prompts]
        if self._is_marian:
            # Marian's tokenizer takes what a text begins with for a language code; behind a space it does not look.
            texts = [f" {text}" if text.startswith(">>") else text for text in texts]
        # Special tokens spelled out in a text (`</s>`) must not end it.
        rows = self._tokenizer(texts, split_special_tokens=True, **_WHOLE)["input_ids"]
        head, tail = self._frame()
        rows = [
            self._spelled_out(row, head, tail) if self._marks.search(text) else row
            for row, text in zip(rows, texts, strict=True)
        ]
        return [_cut((*code, *row) or self._start(), limit, tail) for row in rows]

    def _spelled_out(self, ids: Sequence[int], head: int = 0, tail: int = 0) -> list[int]:
        """The same, with special tokens between head and tail written letter by letter.

        A vocabulary of whole pieces (T5's, BART's) has `</s>` among them, and finds it there where a text spells it,
        whatever the tokenizer was told. An unknown character is an unknown token, and stays one.
        """
        inner: list[int] = []
        for id in ids[head : len(ids) - tail]:
            letters = list(self._tokenizer.convert_ids_to_tokens(id)) if id in self._special_ids else []
            inner += [each for each in self._tokenizer.convert_tokens_to_ids(letters) if each is not None] or [id]
        return [*ids[:head], *inner, *ids[len(ids) - tail :]]

    def _code(self, prefix: str) -> tuple[tuple[int, ...], str]:
        """The token of a language code that the prefix of a Marian model begins with, and the rest of the prefix."""
        code = LANGUAGE_CODE.match(prefix) if self._is_marian else None
        if code is None or code.group() not in self._tokenizer.get_vocab():
            return (), prefix
        return (int(self._tokenizer.convert_tokens_to_ids(code.group())),), prefix[code.end() :]

    def _frame(self) -> tuple[int, int]:
        """How many tokens the tokenizer puts before and behind every text."""
        with_specials, bare = (list(self._tokenizer("a", add_special_tokens=on)["input_ids"]) for on in (True, False))
        for start in range(len(with_specials) - len(bare) + 1):
            if with_specials[start : start + len(bare)] == bare:
                return start, len(with_specials) - start - len(bare)
        return 0, 1

    def _causal(self, prompt: Prompt, params: Params, limit: int) -> Encoded:
        if not prompt.messages:
            return _cut(self._continued(full_prefix(self._spec, params), prompt.text) or self._start(), limit, 0)
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        ids = self._chat(messages)
        if len(ids) <= limit:
            return Encoded(ids)
        # What follows the last message (its end mark, the assistant's turn) must stay, or the model answers nothing.
        emptied = self._chat([*messages[:-1], {**messages[-1], "content": ""}])
        tail = 0
        while tail < min(len(ids), len(emptied)) and ids[-1 - tail] == emptied[-1 - tail]:
            tail += 1
        return _cut(ids, limit, min(tail, limit // 2))

    def _continued(self, prefix: str, text: str) -> tuple[int, ...]:
        """The operator's prefix, which may have special tokens, and a user's text, in which they are text."""
        if not self._marks.search(prefix + text):
            return tuple(self._tokenizer(prefix + text, **_WHOLE)["input_ids"])
        return (*self._tokenizer(prefix, **_WHOLE)["input_ids"], *self._as_text(text))

    def _as_text(self, text: str) -> tuple[int, ...]:
        """Tokens of a text by itself: special ones that are spelled out in it are spelled out."""
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, **_WHOLE)["input_ids"]
        return tuple(self._spelled_out(ids) if self._marks.search(text) else ids)

    def _chat(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        if not self._tokenizer.chat_template:
            raise ValueError(f"model {self._spec.name} has no chat template; send a text instead of messages")
        from jinja2 import TemplateError

        stand_ins = self._stand_ins(messages)
        hidden = [{**each, "content": stand_ins.hidden(each["content"])} for each in messages]
        try:
            text = self._tokenizer.apply_chat_template(hidden, tokenize=False, add_generation_prompt=True)
        except TemplateError as exc:
            # Templates raise on purpose, for roles out of turn and the like.
            raise ValueError(f"the chat template of {self._spec.name} refuses these messages: {exc}") from exc
        # The template has written the special tokens already.
        if not stand_ins.shown:
            return tuple(self._tokenizer(text, add_special_tokens=False, **_WHOLE)["input_ids"])
        ids: list[int] = []
        for part in filter(None, self._marks.split(text)):
            if self._marks.fullmatch(part):
                ids.append(self._tokenizer.convert_tokens_to_ids(part))
            else:
                ids += self._as_text(stand_ins.restored(part))
        return tuple(ids)

    def _stand_ins(self, messages: list[dict[str, str]]) -> "StandIns":
        contents = "".join(message["content"] for message in messages)
        return StandIns.of(sorted(set(self._marks.findall(contents))), contents)

    def _start(self) -> tuple[int, ...]:
        """What an empty text is generated from."""
        candidates = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, 0)
        return (next(each for each in candidates if each is not None),)

    def _check_languages(self) -> None:
        if not self._spec.target_languages or not self._spec.source_languages:
            raise ModelUnavailable(
                f"model {self._spec.name} is multilingual; list source_languages and target_languages in its entry"
            )
        for language in {*self._spec.source_languages, *self._spec.target_languages}:
            self._language_id(language)

    def _language_id(self, language: str) -> int:
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "get_lang_id"):
            found = tokenizer.lang_code_to_id.get(language)
        else:
            found = tokenizer.get_vocab().get(language)
        if found is None:
            raise ModelUnavailable(f"model {self._spec.name} has no language {language!r}; correct its registry entry")
        return int(found)


def load_tokenizer(spec: ModelSpec, folder: Path) -> Any:
    """transformers' tokenizer of a local folder, never running code from it."""
    from transformers import AutoTokenizer

    try:
        with quietly():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # A folder that lacks a file or holds a broken one shows as anything, TypeError and AssertionError included.
    except Exception as exc:
        raise ModelUnavailable(
            f"model {spec.name}: its tokenizer cannot be loaded: {exc or type(exc).__name__}"
        ) from exc


def _cut(ids: tuple[int, ...], limit: int, tail: int) -> Encoded:
    if len(ids) <= limit:
        return Encoded(ids)
    kept = max(0, limit - tail)
    return Encoded((*ids[:kept], *(ids[-tail:] if tail else ())), dropped=len(ids) - kept - tail)


def _text_of(spec: ModelSpec, prompt: Prompt) -> str:
    if prompt.messages:
        raise ValueError(f"model {spec.name} takes a text, not messages")
    return prompt.text


def _pieces(spec: ModelSpec, path: Path) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as exc:
        raise ModelUnavailable(f"model {spec.name}: {path} cannot be read: {exc}") from exc


def _spelled(token: object, usual: str) -> str:
    """A special token's text: settings hold it bare or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else usual
