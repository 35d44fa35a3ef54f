"""The part of a model's card that is written by a command: its figures, and examples that nobody has picked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.spec import ModelSpec
from training.errors import TrainingError
from training.markdown import escaped
from training.publishing.figures import Figures

BEGIN = "<!-- figures: written by `make models-report`; what is changed by hand here is lost -->"
END = "<!-- end of figures -->"
LONGEST = 600


class BadCard(TrainingError):
    """The marks on a card do not make a pair."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} has one mark of its figures without the other: {BEGIN!r} and {END!r} are a pair")
        self.path = path


@dataclass(frozen=True, slots=True)
class Example:
    """One input of a group, and what each model made of it."""

    title: str
    source: str
    references: Sequence[str]
    outputs: Mapping[str, str]


def write_card(
    folder: Path, specs: Sequence[ModelSpec], figures: Sequence[Figures], examples: Sequence[Example]
) -> None:
    """Put the section between its marks, or at the end of a card that has none. Without figures the card stays."""
    names = [spec.name for spec in specs]
    mine = [each for each in figures if {row.name for row in each.rows} & set(names)]
    if not mine:
        return
    path = folder / "README.md"
    card = path.read_text("utf-8") if path.is_file() else f"# {folder.name}\n"
    path.write_text(placed(card, section(mine, names, examples), path), "utf-8")


def placed(card: str, text: str, path: Path) -> str:
    """The card with the text between its marks."""
    before, has_begin, rest = card.partition(BEGIN)
    _, has_end, after = rest.partition(END)
    if bool(has_begin) != bool(has_end) or (not has_begin and END in card):
        raise BadCard(path)
    if not has_begin:
        before, after = card.rstrip("\n") + "\n\n", "\n"
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def section(figures: Sequence[Figures], names: Sequence[str], examples: Sequence[Example]) -> str:
    parts = ["## Figures"]
    for each in figures:
        parts += [f"{each.group.title} ({each.items:,} items of `{Path(each.group.data).name}`):", each.table(names)]
        parts += [each.group.note.strip()] if each.group.note else []
    machines = "; ".join(dict.fromkeys(each.machine for each in figures))
    parts.append(
        f"In brackets: 95 % bootstrap intervals. Speed is of whole texts, on {machines}. `docs/models.md` has all "
        "models side by side, and says how to repeat this."
    )
    if examples:
        parts += ["## Examples", _EXAMPLES, "\n".join(_said(each) for each in examples)]
    return "\n\n".join(parts)


_EXAMPLES = (
    "Drawn by chance from the validation files, always the same ones for all models, and not picked; long texts are "
    "cut for this page (…)."
)


def _said(example: Example) -> str:
    """A list item; the first reference, where there are several."""
    lines = [f"- {example.title}: {shown(example.source)}"]
    lines += [f"  - reference: {shown(each)}" for each in example.references[:1]]
    lines += [f"  - {name}: {shown(output) or '(nothing)'}" for name, output in example.outputs.items()]
    return "\n".join(lines)


def shown(text: str) -> str:
    """A model's text in Markdown: on one line, as it is, however it looks; no longer than LONGEST characters."""
    line = " ".join(text.split())
    cut = line if len(line) <= LONGEST else line[:LONGEST] + "…"
    return escaped(cut)
