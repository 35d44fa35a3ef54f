"""The languages a multilingual model's tokenizer is told; others have none to be told."""

from typing import Any


def told(tokenizer: Any, source: str | None, target: str | None) -> Any:
    """The same tokenizer. Without a target language it would refuse outputs, so that it takes that of the input."""
    if hasattr(tokenizer, "tgt_lang"):
        tokenizer.src_lang = source or tokenizer.src_lang
        tokenizer.tgt_lang = target or tokenizer.tgt_lang or tokenizer.src_lang
    return tokenizer
