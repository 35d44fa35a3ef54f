"""docs/models.md: the template with the figures put into it, and a page and a picture for each group beside it."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from string import Template

from training.publishing.figures import Figures
from training.publishing.starters import SECTIONS

NOTHING = "There are no figures here yet: no model of this kind comes with Bushel, or it was not measured."
PICTURES = ("svg", "png")


def write_page(root: Path, figures: Sequence[Figures]) -> Path:
    """Write the page anew, with all groups that have figures; the path."""
    template = Template((root / "training" / "publishing" / "models.md").read_text("utf-8"))
    folder = root / "docs" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for each in figures:
        _copy(each, folder)
    parts = {name: "\n\n".join(_part(each) for each in figures if each.group.section == name) for name in SECTIONS}
    machines = "; ".join(dict.fromkeys(each.machine for each in figures)) or "(nothing was measured yet)"
    path = root / "docs" / "models.md"
    path.write_text(
        template.substitute({name: text or NOTHING for name, text in parts.items()}, machines=machines), "utf-8"
    )
    return path


def _copy(figures: Figures, folder: Path) -> None:
    """The evaluation's own report, and its picture if it has one."""
    name = figures.group.name
    text = (figures.folder / "report.md").read_text("utf-8")
    (folder / f"{name}.md").write_text(text, "utf-8")
    for kind in PICTURES:
        if (figures.folder / f"frontier.{kind}").is_file():
            shutil.copyfile(figures.folder / f"frontier.{kind}", folder / f"{name}.{kind}")


def _part(figures: Figures) -> str:
    group = figures.group
    parts = [f"### {group.title}", f"{figures.items:,} items of `{group.data}`.", figures.table()]
    if (figures.folder / "frontier.svg").is_file():
        parts.append(f"![Speed against quality: {group.title}](models/{group.name}.svg)")
    if group.note:
        parts.append(group.note.strip())
    parts.append(f"[All of the report](models/{group.name}.md); made by\n\n```\n{_command(figures)}\n```")
    return "\n\n".join(parts)


def _command(figures: Figures) -> str:
    """As one would write it: the folders of the machine at hand say nothing to others."""
    group, words = figures.group, list(figures.command)
    named = {Path(path).name: path for path in (group.data, *group.parallel, *filter(None, [group.ngrams]))}
    kept: list[str] = []
    skipped = False
    for word in words[words.index("training.evaluation.evaluate") + 1 :]:
        if word.startswith("--"):
            skipped = word in ("--registry", "--cache", "--out")
        if not skipped:
            kept.append(f"$DATA/{named[Path(word).name]}" if Path(word).name in named else shlex.quote(word))
    return " ".join(["bushel models evaluate", *kept, "--out", group.name])
