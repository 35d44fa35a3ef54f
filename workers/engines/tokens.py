"""Texts and chats to a model's tokens, cut to its limit, and tokens back to text."""

import contextlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models.spec import ModelSpec, Task
from workers.engines.base import Encoded, ModelUnavailable, Params, Prompt
from workers.engines.files import ModelFiles
from workers.engines.quiet import quietly

# Models whose output language is its first token, and whose input language is marked in the input.
MULTILINGUAL = frozenset({"m2m_100", "mbart", "nllb-moe"})
LANGUAGE_CODE = re.compile(r">>[^<>]*<<")


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
        text = full_prefix(self._spec, params) + _text_of(self._spec, prompt)
        code = LANGUAGE_CODE.match(text)
        if code and code.group() in self._vocabulary:
            return (code.group(),), text[code.end() :]
        return (), text


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
        prefix = full_prefix(self._spec, params)
        texts = [prefix + _text_of(self._spec, prompt) for prompt in prompts]
        # Special tokens spelled out in a text (`</s>`) must not end it.
        rows = self._tokenizer(texts, split_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        tail = self._tail()
        return [_cut(tuple(row) or self._start(), limit, tail) for row in rows]

    def _tail(self) -> int:
        """How many tokens the tokenizer puts behind every text."""
        with_specials, bare = (list(self._tokenizer("a", add_special_tokens=on)["input_ids"]) for on in (True, False))
        for start in range(len(with_specials) - len(bare) + 1):
            if with_specials[start : start + len(bare)] == bare:
                return len(with_specials) - start - len(bare)
        return 1

    def _causal(self, prompt: Prompt, params: Params, limit: int) -> Encoded:
        if not prompt.messages:
            text = full_prefix(self._spec, params) + prompt.text
            return _cut(
                tuple(self._tokenizer(text, truncation=False, verbose=False)["input_ids"]) or self._start(), limit, 0
            )
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

    def _chat(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        if not self._tokenizer.chat_template:
            raise ValueError(f"model {self._spec.name} has no chat template; send a text instead of messages")
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as exc:
            # Templates raise on purpose, for roles out of turn and the like.
            raise ValueError(f"the chat template of {self._spec.name} refuses these messages: {exc}") from exc
        # The template has written the special tokens already.
        return tuple(self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

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
