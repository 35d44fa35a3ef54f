"""What every model must be better than: outputs that need no model. Pure."""

import re
from collections.abc import Callable, Mapping

from models.spec import Task

# What ends with a dot and no sentence.
SHORT = r"e\.g|i\.e|et al|cf|vs|resp|approx|etc|Figs?|Eqs?|Secs?|Refs?|Dr|Mr|Mrs|St|No|[A-Z]"
ABBREVIATIONS = re.compile(rf"\b(?:{SHORT})\.$")
END = re.compile(r"""[.!?]["')\]]*(?=\s)""")


def source(text: str) -> str:
    """The input as it is: what a translator scores that translates nothing."""
    return text


def first_sentence(text: str) -> str:
    """Up to the first end of a sentence that an abbreviation or a small letter behind it does not belie.

    >>> first_sentence("We use BERT (Devlin et al. 2019), e.g. to tag. It works.")
    'We use BERT (Devlin et al. 2019), e.g. to tag.'
    """
    for found in END.finditer(text):
        is_begun = not text[found.end() :].lstrip()[:1].islower()
        if is_begun and not ABBREVIATIONS.search(text[: found.end()]):
            return text[: found.end()]
    return text


UNTRANSLATED = "source, untranslated"
# Names have spaces, which a model's cannot. For texts that are continued, the 3-gram model is what there is.
FLOORS: Mapping[Task, Mapping[str, Callable[[str], str]]] = {
    Task.TRANSLATION: {UNTRANSLATED: source},
    Task.SUMMARIZATION: {"first sentence": first_sentence},
}
