"""The bias probe's figures as Markdown, and what they do not show."""

from collections.abc import Mapping

from training.evaluation.bias import Bias, Changes, Forms, Share
from training.evaluation.probe import KINDS, templates
from training.markdown import escaped, table

# A longer list of changes is for machines, in report.json.
CHANGES = 6


def markdown(found: Mapping[str, Bias]) -> str:
    """One section for all models."""
    parts = ["## Bias probe", _about(found), _changes(found)]
    parts += [text for name, each in found.items() if (text := _why_empty(name, each))]
    if any(each.forms for each in found.values()):
        parts += ["Occupations in the translations:", _genders(found)]
        parts += [text for name, each in found.items() if (text := _forms(name, each))]
    if any(each.preferred for each in found.values()):
        parts += ["Which of the two texts the model holds for likelier:", _preferences(found)]
    parts += [f"Commonest changes of {escaped(name)}: {_top(each)}." for name, each in found.items() if _top(each)]
    return "\n\n".join([*parts, _notes(found)])


def _changes(found: Mapping[str, Bias]) -> str:
    header = ["model", "swapped", "pairs", "differ in more than swapped words", "than these and agreement", "chrF"]
    rows = [
        [name, KINDS[kind], f"{each.beyond_words.count:,}", *_figures(each, bias.language)]
        for name, bias in found.items()
        for kind, each in bias.changes.items()
    ]
    return table(header, rows)


def _figures(each: Changes, language: str | None) -> list[str]:
    # Without the language's lists nothing is known to agree.
    agreement = None if language is None else each.beyond_agreement
    return [_share(each.beyond_words), _share(agreement), _share(each.chrf, "")]


def _why_empty(name: str, bias: Bias) -> str:
    """What a row lacks, and how it would be there."""
    if bias.language is None:
        known = ", ".join(templates().languages)
        return (
            f"{escaped(name)}: it is not known which language it writes, or there are no lists of that language's "
            f"pronouns, articles and occupations (there are for: {known}). So pronouns count as differences, and "
            "agreement and the forms of occupations are left empty. A model given as a folder needs "
            "`target_languages=de`, or what it writes, behind its name."
        )
    if bias.forms and bias.masculine is None and not bias.contradicted:
        return f"{escaped(name)}: in no output does the occupation have a form that tells a gender; its row is empty."
    return ""


def _genders(found: Mapping[str, Bias]) -> str:
    columns = {
        "all": "pronoun contradicted", "he": "by input: he", "she": "she", "usual": "as expected", "unusual": "not",
    }  # fmt: skip
    header = ["model", "masculine where the input leaves it open", *columns.values()]
    rows = [
        [name, _counted(each.masculine), *(_counted(each.contradicted.get(key)) for key in columns)]
        for name, each in found.items()
    ]
    return table(header, rows)


def _forms(name: str, bias: Bias) -> str:
    """Occupations by what became of them where the input leaves it open."""
    groups: dict[str, list[str]] = {"always masculine": [], "always feminine": [], "now one, now the other": []}
    for occupation, forms in bias.forms.items():
        if group := _group(forms):
            groups[group].append(occupation)
    said = "; ".join(f"{group}: {', '.join(some)}" for group, some in groups.items() if some)
    unclear = sum(forms.unknown + forms.both for forms in bias.forms.values())
    total = unclear + sum(forms.masculine + forms.feminine for forms in bias.forms.values())
    if not total:
        return ""
    return f"{escaped(name)}, where the input leaves it open: {said or 'none known'}. Unclear in {unclear} of {total}."


def _group(forms: Forms) -> str | None:
    if forms.masculine and forms.feminine:
        return "now one, now the other"
    if forms.masculine:
        return "always masculine"
    return "always feminine" if forms.feminine else None


def _preferences(found: Mapping[str, Bias]) -> str:
    rows = []
    for name, each in found.items():
        if each.preferred is not None:
            ranked = sorted(each.preference.items(), key=lambda pair: pair[1])
            rows.append([name, _share(each.preferred), _ends(ranked[:3]), _ends(ranked[::-1][:3])])
    return table(["model", "he likelier", "most towards she (nats)", "most towards he (nats)"], rows)


def _ends(some: list[tuple[str, float]]) -> str:
    return ", ".join(f"{what} {gap:+.2f}" for what, gap in some)


def _top(bias: Bias) -> str:
    """Of the pairs that differ in gender; what the model wrote is not to be taken for Markdown."""
    return "; ".join(
        f"{escaped(one)} → {escaped(other)} ({count})"
        for kind, each in bias.changes.items()
        if kind == "explicit"
        for one, other, count in each.top[:CHANGES]
    )


def _share(share: Share | None, unit: str = " %") -> str:
    if share is None:
        return ""
    around = f" ({share.interval.low:.1f} to {share.interval.high:.1f})" if share.interval else ""
    return f"{share.value:.1f}{unit}{around}"


def _counted(share: Share | None) -> str:
    return "" if share is None else f"{_share(share)}, n = {share.count:,}"


def _about(found: Mapping[str, Bias]) -> str:
    sizes = [len(some) for of_task in templates().of_task.values() for some in of_task.values()]
    return (
        "Shares of pairs whose two outputs differ, and chrF between the two; in brackets 95 % intervals. Each kind has "
        f"but {min(sizes)} to {max(sizes)} templates, and it is these that are resampled: one share says little by "
        "itself, a wide interval less. Look at the yardstick (two names of one gender) and at other models."
    )


def _notes(found: Mapping[str, Bias]) -> str:
    count = max(each.sentences for each in found.values())
    return (
        f"{count:,} English inputs from templates, decoded without chance; each pair differs in the gender of one "
        "person alone. Words are compared without case and punctuation; swapped words are pronouns and names, and "
        "agreement is articles and the occupation's form, which rightly follow the pronoun in German and French. Two "
        "names of one gender are the yardstick: what changes as much with them says nothing of gender. chrF is between "
        "the two outputs. *As expected* is a pronoun of the gender that holds the occupation more often in the United "
        "States. Intervals hold for sentences like these and not for language at large.\n\n"
        "What this shows: how often, and in which words, outputs of these templates depend on gender. What it does not "
        "show: that a model without differences here is fair, or harm where there are some. Other groups, non-binary "
        "persons, longer texts and other languages are not looked at; a masculine form for a woman can be the usual "
        "generic one (*le médecin*), and forms that are not listed are not counted. The method follows WinoMT "
        "(Stanovsky et al. 2019, arXiv 1906.00591), with one person a sentence and lists instead of a parser."
    )
