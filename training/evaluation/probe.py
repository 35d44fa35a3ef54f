"""What the bias probe asks: counterfactual sentences built from templates, in pairs. Pure.

The templates are English, and so must be what the model reads:

    TrainingError
    └── CannotProbe   it reads other languages
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from models.spec import ModelSpec, Task
from training.errors import TrainingError
from workers.engines.base import Params

TEMPLATES = Path(__file__).with_name("bias_templates.toml")
# Continuations are compared word by word, and after some words two of them have nothing to do with each other.
CONTINUED = 24
# Pairs of these kinds are told apart; the last is the yardstick, whose pairs differ in a name but not in gender.
KINDS: Mapping[str, str] = {
    "explicit": "he / she",
    "name": "man's / woman's name",
    "control": "two names of one gender",
}
PRONOUNS = {
    "man": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "woman": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}


class CannotProbe(TrainingError):
    """The probe's English templates mean nothing to this model."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """An input: from which template, about whom. `gender` is man, woman, or empty where nothing tells it."""

    kind: str
    template: int
    text: str
    gender: str = ""
    occupation: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences, by their places, that differ in gender alone: first the man's; or, as a control, in a name."""

    kind: str
    template: int
    one: int
    other: int


@dataclass(frozen=True, slots=True)
class Probe:
    """What a model is asked, how it decodes, and the language its answers are in (None: one without lists)."""

    task: Task
    params: Params
    language: str | None
    sentences: tuple[Sentence, ...]
    pairs: tuple[Pair, ...]

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.sentences]

    @property
    def digest(self) -> str:
        """Of everything that the outputs depend on."""
        return hashlib.sha256(repr((self.params, self.texts)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Occupation:
    english: str
    held: str
    forms: Mapping[str, Mapping[str, tuple[tuple[str, ...], ...]]]


@dataclass(frozen=True, slots=True)
class Language:
    codes: frozenset[str]
    pronouns: frozenset[str]
    articles: frozenset[str]


@dataclass(frozen=True, slots=True)
class Templates:
    men: tuple[str, ...]
    women: tuple[str, ...]
    of_task: Mapping[str, Mapping[str, Sequence[str]]]
    occupations: Mapping[str, Occupation]
    languages: Mapping[str, Language]

    def language(self, code: str | None) -> str | None:
        return next((name for name, each in self.languages.items() if code in each.codes), None)


def probe(spec: ModelSpec, params: Params) -> Probe:
    """What to ask a model. Decoding is deterministic, so that one answer differs from another by its input alone."""
    known = templates()
    source = params.source_lang or (spec.source_languages[0] if len(spec.source_languages) == 1 else None)
    reads = [source] if source else list(spec.source_languages)
    if reads and not any(known.language(each) == "en" for each in reads):
        raise CannotProbe(f"model {spec.name} reads {', '.join(reads)}, but the bias probe's sentences are English")
    language: str | None = "en"
    if spec.task is Task.TRANSLATION:
        target = params.target_lang or (spec.target_languages[0] if len(spec.target_languages) == 1 else None)
        language = known.language(target)
    steady = replace(params, temperature=0.0, top_p=1.0, top_k=0, seed=None)
    if spec.task is Task.GENERATION:
        steady = replace(steady, num_beams=1, max_new_tokens=min(CONTINUED, params.max_new_tokens))
    sentences = tuple(_sentences(known, known.of_task[str(spec.task)]))
    return Probe(spec.task, steady, language, sentences, tuple(_pairs(known, sentences)))


@cache
def templates() -> Templates:
    """What the file holds."""
    said = tomllib.loads(TEMPLATES.read_text("utf-8"))
    return Templates(
        men=tuple(said["names"]["men"]),
        women=tuple(said["names"]["women"]),
        of_task={str(task): said[str(task)] for task in (Task.TRANSLATION, Task.SUMMARIZATION, Task.GENERATION)},
        occupations={each["english"]: _occupation(each) for each in said["occupations"]},
        languages={
            name: Language(*(frozenset(each.get(key, ())) for key in ("codes", "pronouns", "articles")))
            for name, each in said["languages"].items()
        },
    )


def _sentences(known: Templates, texts: Mapping[str, Sequence[str]]) -> list[Sentence]:
    found: list[Sentence] = []
    count = 0
    for kind, of_kind in texts.items():
        for text in of_kind:
            found += _of_name(known, text, count) if kind == "name" else _of_occupation(known, kind, text, count)
            count += 1
    return found


def _of_occupation(known: Templates, kind: str, text: str, template: int) -> list[Sentence]:
    genders = ("man", "woman") if kind == "explicit" else ("",)
    return [
        Sentence(kind, template, _filled(text, gender, occupation=each), gender, each)
        for each in known.occupations
        for gender in genders
    ]


def _of_name(known: Templates, text: str, template: int) -> list[Sentence]:
    return [
        Sentence("name", template, _filled(text, gender, name=each), gender, name=each)
        for gender, names in (("man", known.men), ("woman", known.women))
        for each in names
    ]


def _filled(text: str, gender: str, occupation: str = "", name: str = "") -> str:
    pronouns = PRONOUNS.get(gender, {})
    capitals = {key.capitalize(): word.capitalize() for key, word in pronouns.items()}
    article = "an" if occupation[:1] in set("aeiou") else "a"
    return text.format_map({**pronouns, **capitals, "occupation": occupation, "an": article, "name": name})


def _pairs(known: Templates, sentences: Sequence[Sentence]) -> list[Pair]:
    found: list[Pair] = []
    for (kind, template), group in groupby(enumerate(sentences), key=lambda each: (each[1].kind, each[1].template)):
        places = {(each.gender, each.occupation or each.name): place for place, each in group}
        if kind == "explicit":
            found += [Pair(kind, template, places["man", each], places["woman", each]) for each in known.occupations]
        if kind == "name":
            found += [
                Pair(kind, template, places["man", man], places["woman", woman])
                for man, woman in zip(known.men, known.women, strict=True)
            ]
            found += [
                Pair("control", template, places[gender, one], places[gender, other])
                for gender, names in (("man", known.men), ("woman", known.women))
                for one, other in zip(names[::2], names[1::2], strict=True)
            ]
    return found


def _occupation(said: Mapping[str, Any]) -> Occupation:
    forms = {
        language: {gender: tuple(words(form) for form in said[language][gender]) for gender in said[language]}
        for language in said
        if language not in ("english", "held")
    }
    return Occupation(said["english"], said["held"], forms)


def words(text: str) -> tuple[str, ...]:
    """Without punctuation and case: a comma more is no change of what is said."""
    return tuple(re.findall(r"\w+", text.casefold()))
