"""The bias probe's templates, and its figures on outputs whose bias is known."""

import pytest

from models.spec import ModelSpec, Task
from training.evaluation import bias_report
from training.evaluation.bias import Bias, judge
from training.evaluation.probe import CannotProbe, Probe, Sentence, probe, templates
from workers.engines.base import Params

PROBES = {
    "de": probe(ModelSpec("m", Task.TRANSLATION, "x", source_languages=("en",), target_languages=("de",)), Params()),
    "fr": probe(
        ModelSpec(
            "m", Task.TRANSLATION, "x", source_languages=("eng_Latn", "deu_Latn"), target_languages=("fra_Latn",)
        ),
        Params(source_lang="eng_Latn", target_lang="fra_Latn"),
    ),
    "summarization": probe(ModelSpec("m", Task.SUMMARIZATION, "x"), Params(temperature=0.7, top_p=0.9)),
    "generation": probe(ModelSpec("m", Task.GENERATION, "x"), Params(temperature=1.0, num_beams=1)),
}


def form(sentence: Sentence, language: str, gender: str) -> str:
    return " ".join(templates().occupations[sentence.occupation].forms[language][gender][0])


def judged(asked: Probe, outputs: list[str], nats: list[float] | None = None) -> Bias:
    return judge(asked, outputs, nats or [], samples=100, seed=1)


@pytest.mark.parametrize("kind", PROBES)
def test_a_pair_differs_in_nothing_but_the_swapped_words(kind: str) -> None:
    asked, known = PROBES[kind], templates()
    swapped = {"he", "she", "him", "her", "his", "himself", "herself", *(n.lower() for n in (*known.men, *known.women))}

    for pair in asked.pairs:
        one, other = (asked.sentences[place].text for place in (pair.one, pair.other))
        words = [
            (a, b)
            for a, b in zip(one.split(), other.split(), strict=True)
            if a.strip(".,:").lower() != b.strip(".,:").lower()
        ]
        assert words
        assert all({a.strip(".,:").lower(), b.strip(".,:").lower()} <= swapped for a, b in words), (one, other)


@pytest.mark.parametrize("kind", PROBES)
def test_every_sentence_is_filled_in_and_asked_once(kind: str) -> None:
    asked = PROBES[kind]

    assert len(set(asked.texts)) == len(asked.texts)
    assert not any(sign in text for text in asked.texts for sign in "{}")
    assert {pair.kind for pair in asked.pairs} == {"explicit", "name", "control"}
    assert (asked.params.temperature, asked.params.top_p) == (0, 1)


def test_articles_fit_the_occupation() -> None:
    assert any("as an engineer" in text for text in PROBES["de"].texts)
    assert any("as a doctor" in text for text in PROBES["de"].texts)


def test_forms_tell_one_gender_each() -> None:
    for occupation in templates().occupations.values():
        for language, forms in occupation.forms.items():
            assert not set(forms["masculine"]) & set(forms["feminine"]), (occupation.english, language)
            assert forms["masculine"] and forms["feminine"]


def test_a_translator_that_ignores_the_pronoun_contradicts_every_woman() -> None:
    asked = PROBES["de"]
    outputs = [
        f"Der {form(each, 'de', 'masculine')} kam, {'er' if each.gender == 'man' else 'sie'} half."
        if each.occupation
        else f"{each.name} kam."
        for each in asked.sentences
    ]

    found = judged(asked, outputs)

    assert found.masculine is not None and found.masculine.value == 100
    assert (found.contradicted["he"].value, found.contradicted["she"].value) == (0, 100)
    assert found.contradicted["all"].value == 50
    assert found.contradicted["usual"].count + found.contradicted["unusual"].count == found.contradicted["all"].count
    # The pronoun was swapped, and nothing else.
    assert found.changes["explicit"].beyond_words.value == 0
    assert found.changes["explicit"].chrf.value < 100
    assert found.changes["name"].top == found.changes["explicit"].top == []


@pytest.mark.parametrize("language", ["de", "fr"])
def test_agreement_with_the_pronoun_is_told_from_other_changes(language: str) -> None:
    asked = PROBES[language]
    articles = {"de": {"man": "Der", "woman": "Die"}, "fr": {"man": "Le", "woman": "La"}}[language]
    outputs = []
    for each in asked.sentences:
        gender = "feminine" if each.gender == "woman" else "masculine"
        chosen = form(each, language, gender).removeprefix("le ").removeprefix("la ") if each.occupation else each.name
        outputs.append(f"{articles.get(each.gender, 'Le')} {chosen} lit.")

    found = judged(asked, outputs)

    assert found.contradicted["all"].value == 0
    explicit = found.changes["explicit"]
    assert explicit.beyond_words.value == 100
    # `femme de ménage` has a word more than the article and the form's last word.
    assert explicit.beyond_agreement.value < (1 if language == "de" else 6)
    assert explicit.top[0][2] >= 1


def test_agreement_alone_is_less_than_agreement_and_another_verb() -> None:
    asked = PROBES["de"]
    outputs = []
    for each in asked.sentences:
        gender, pronoun = ("feminine", "sie") if each.gender == "woman" else ("masculine", "er")
        article = "Die" if gender == "feminine" else "Der"
        # Of engineers, half the story changes as well.
        verb = "ruht" if each.gender == "woman" and each.occupation == "engineer" else "schläft"
        who = f"{article} {form(each, 'de', gender)}" if each.occupation else each.name
        outputs.append(f"{who} sagt, dass {pronoun} {verb}.")

    found = judged(asked, outputs)

    explicit = found.changes["explicit"]
    assert explicit.beyond_words.value == 100
    assert explicit.beyond_agreement.value == pytest.approx(100 / len(templates().occupations))
    shown = bias_report.markdown({"m": found})
    assert "100.0 % (100.0 to 100.0) | 5.6 % (5.6 to 5.6)" in shown
    assert f"n = {found.masculine.count if found.masculine else 0}" in shown


def test_a_swapped_word_in_a_change_reads_as_what_it_is() -> None:
    asked = PROBES["de"]
    outputs = [f"Wer kommt{', sie' if each.gender == 'woman' else ''}?" for each in asked.sentences]

    assert "(nothing) → PRONOUN (" in bias_report.markdown({"m": judged(asked, outputs)})


def test_what_changes_with_gender_alone_is_counted_by_template() -> None:
    asked = PROBES["summarization"]
    outputs = ["a wise choice" if each.gender == "woman" else "a bold choice" for each in asked.sentences]

    found = judged(asked, outputs)

    for kind, expected in (("explicit", 100), ("name", 100), ("control", 0)):
        assert found.changes[kind].beyond_words.value == expected
        interval = found.changes[kind].beyond_words.interval
        assert interval is not None and (interval.low, interval.high) == (expected, expected)
    assert found.changes["name"].top[0][:2] == ("bold", "wise")
    assert found.masculine is None and not found.contradicted


def test_an_unknown_form_is_no_gender() -> None:
    asked = PROBES["de"]

    found = judged(asked, ["Das Konto ist hier."] * len(asked.sentences))

    assert found.masculine is None and not found.contradicted
    assert all(each.unknown for each in found.forms.values())
    shown = bias_report.markdown({"m": found})
    assert "Unclear in 90 of 90" in shown
    assert "m: in no output does the occupation have a form that tells a gender" in shown


def test_a_compound_has_the_gender_of_its_end() -> None:
    asked = PROBES["de"]
    outputs = ["Die Grundschullehrerin kam." if each.occupation == "teacher" else "" for each in asked.sentences]

    found = judged(asked, outputs)

    assert found.forms["teacher"].feminine == 5
    assert found.forms["teacher"].both == 0


def test_a_causal_model_prefers_what_surprises_it_less() -> None:
    asked = PROBES["generation"]
    nats = [
        3.0 + (each.occupation == "engineer") * (2.0 if each.gender == "woman" else 0.0) for each in asked.sentences
    ]

    found = judged(asked, asked.texts, nats)

    assert found.preference["engineer"] == 2
    assert found.preference["nurse"] == found.preference["names"] == 0
    assert found.preferred is not None and 0 < found.preferred.value < 10
    assert "engineer +2.00" in bias_report.markdown({"m": found})


def test_what_a_model_wrote_is_no_markup_in_the_report() -> None:
    asked = PROBES["summarization"]
    outputs = ["one | <img src=x>" if each.gender == "woman" else "two" for each in asked.sentences]

    text = bias_report.markdown({"m|odel": judged(asked, outputs)})

    assert "<img" not in text
    assert "m&#124;odel" in text
    assert "1906.00591" in text and "does not show" in text


def test_a_model_that_reads_no_english_is_refused() -> None:
    with pytest.raises(CannotProbe, match="m reads de"):
        probe(ModelSpec("m", Task.TRANSLATION, "x", source_languages=("de",), target_languages=("en",)), Params())


def test_a_target_language_without_lists_leaves_the_forms_out() -> None:
    spec = ModelSpec("m", Task.TRANSLATION, "x", source_languages=("en",), target_languages=("cs",))
    asked = probe(spec, Params())

    found = judged(asked, asked.texts)

    assert asked.language is None and not found.forms
    shown = bias_report.markdown({"m": found})
    assert "`target_languages=de`" in shown
    # What agrees with what is not known, so it is not told.
    assert [row.split(" | ")[4] for row in shown.splitlines() if row.startswith("| m |")] == [""] * 3
    # Names are known everywhere, pronouns are not.
    assert found.changes["control"].beyond_words.value == 0
    assert found.changes["explicit"].beyond_words.value == 100
