"""The page of figures and the cards, made of tiny models and tiny data in a tree of their own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.registry import load as load_registry
from models.spec import ModelSpec, Task
from tests import models as tiny
from training.errors import BadSettings
from training.publishing import publish, starters
from training.publishing.cards import BEGIN, END, BadCard, Example, placed, shown, write_card
from training.publishing.figures import Figures
from training.publishing.page import write_page
from training.publishing.starters import Group, chosen

WORDS = ("lazy", "quick", "brown", "old", "red", "sad", "big", "small", "wet", "odd")
ROOT = Path(publish.__file__).parents[2]
OPTIONS = "{ inter_threads = 1, intra_threads = 1, batch_tokens = 512 }"
REGISTRY = f"""
[models.small-int8]
task = "translation"
source = "./small"
quantization = "int8"
family = "small"
tier = "balanced"
options = {OPTIONS}
defaults = {{ max_new_tokens = 8 }}

[models.small]
task = "translation"
source = "./small"
quantization = "float32"
family = "small"
tier = "best"
options = {OPTIONS}
defaults = {{ max_new_tokens = 8 }}

[models.titles]
task = "summarization"
source = "./titles"
quantization = "float32"
options = {OPTIONS}
defaults = {{ max_new_tokens = 8 }}

[models.prose]
task = "generation"
source = "./prose"
quantization = "float32"
options = {OPTIONS}
defaults = {{ max_new_tokens = 8 }}
"""
STARTERS = """
[[groups]]
name = "en-de"
section = "translation"
title = "Into German"
family = "small"
data = "test.tsv"
examples = "valid.tsv"
options = ["--rounds", "1", "--samples", "40"]
note = "Random weights."

[[groups]]
name = "prose"
section = "generation"
title = "Prose"
models = ["prose"]
data = "texts.jsonl"
source = "title"
reference = ["abstract"]
ngrams = "texts.jsonl"
options = ["--rounds", "1", "--samples", "40", "--quality", "perplexity"]

[[groups]]
name = "titles"
section = "summarization"
title = "Titles"
models = ["titles"]
data = "texts.jsonl"
source = "abstract"
reference = ["title"]
options = ["--rounds", "1", "--samples", "40", "--no-perplexity"]

[[groups]]
name = "nobody"
section = "summarization"
title = "Nobody's"
family = "nobody"
data = "test.tsv"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with models, data and the page's template; the page and the cards are written to it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("root")
    for folder in ("models/small", "models/prose", "models/titles", "training/publishing", "data"):
        (root / folder).mkdir(parents=True)
    tiny.make_marian(root / "models" / "small")
    tiny.make_causal(root / "models" / "prose")
    tiny.make_bart(root / "models" / "titles")
    (root / "models" / "registry.toml").write_text(REGISTRY)
    (root / "models" / "small" / "README.md").write_text("# small\n\nBy hand.\n")
    (root / "training" / "publishing" / "starters.toml").write_text(STARTERS)
    shutil.copyfile(ROOT / "training" / "publishing" / "models.md", root / "training" / "publishing" / "models.md")
    pairs = [f"the {word} dog\tder {word} Hund\n" for word in WORDS]
    (root / "data" / "test.tsv").write_text("".join(pairs))
    (root / "data" / "valid.tsv").write_text("".join(pairs + [f"a {line}" for line in pairs]))
    texts = [json.dumps({"title": "the lazy dog", "abstract": line.strip()}) + "\n" for line in pairs]
    (root / "data" / "texts.jsonl").write_text("".join(texts))
    run(root)
    return root


def run(root: Path, *words: str) -> None:
    publish.main(["--data", str(root / "data"), "--root", str(root), "--cache", str(root / "cache"), *words])


def test_the_page_has_the_figures_and_the_pictures(root: Path) -> None:
    page = (root / "docs" / "models.md").read_text("utf-8")

    translation = page.partition("## Translation")[2].partition("## Summarization")[0]
    assert "### Into German" in translation and "Random weights." in translation
    # The best of the family comes first, and the other is compared with it.
    assert translation.index("| small |") < translation.index("| small-int8 |")
    assert "BLEU against small" in translation and "chrF to twin" in translation
    assert "$DATA/test.tsv" in translation
    assert str(root) not in page
    assert "3-gram model" in page.partition("## Generation")[2]
    summaries = page.partition("## Summarization")[2].partition("## Generation")[0]
    assert "ROUGE-1 against first sentence" in summaries
    assert "\n| first sentence |" in summaries
    assert "no figures here yet" not in page
    for name in ("en-de.svg", "en-de.png", "en-de.md", "prose.svg"):
        assert (root / "docs" / "models" / name).stat().st_size > 500
    assert not (root / "docs" / "models" / "nobody.md").exists()


def test_the_dashboard_is_told_what_was_measured(root: Path) -> None:
    measured = json.loads((root / "models" / "measured.json").read_text("utf-8"))

    assert {"small", "small-int8", "titles"} <= measured.keys()
    # It was judged by its perplexity, which is no score.
    assert "prose" not in measured
    found = measured["small"]
    assert (found["metric"], found["items"], found["data"]) == ("BLEU", 10, "Into German")
    assert found["low"] <= found["score"] <= found["high"] and found["items_per_second"] > 0


def test_a_page_without_figures_says_so(root: Path, tmp_path: Path) -> None:
    (tmp_path / "training" / "publishing").mkdir(parents=True)
    shutil.copyfile(root / "training" / "publishing" / "models.md", tmp_path / "training" / "publishing" / "models.md")

    page = write_page(tmp_path, []).read_text("utf-8")

    assert page.count("no figures here yet") == len(starters.SECTIONS)


def test_the_card_keeps_what_is_written_by_hand(root: Path) -> None:
    card = (root / "models" / "small" / "README.md").read_text("utf-8")

    assert card.startswith("# small\n\nBy hand.\n\n" + BEGIN)
    assert "Into German (10 items of `test.tsv`):" in card
    # One folder, two models: both are on its card, and both have said something to each example.
    assert card.count("\n- Into German: ") == publish.EXAMPLES
    assert card.count("\n  - small: ") == card.count("\n  - small-int8: ") == publish.EXAMPLES
    assert (root / "models" / "prose" / "README.md").read_text("utf-8").startswith("# prose\n")


def test_what_is_measured_is_not_measured_again(root: Path) -> None:
    report = root / "build" / "models-report" / "en-de" / "figures" / "report.json"
    before, page = json.loads(report.read_text("utf-8")), (root / "docs" / "models.md").read_text("utf-8")
    card = (root / "models" / "small" / "README.md").read_text("utf-8")

    run(root)

    # With the times that were taken then.
    assert json.loads(report.read_text("utf-8"))["findings"] == before["findings"]
    assert (root / "docs" / "models.md").read_text("utf-8") == page
    assert (root / "models" / "small" / "README.md").read_text("utf-8") == card


def test_the_groups_that_come_with_bushel_can_be_read() -> None:
    groups = starters.load(ROOT / "training" / "publishing" / "starters.toml")

    found = chosen(groups, load_registry([ROOT / "models" / "registry.toml"]), ())

    assert found
    assert {group.section for group in groups} == set(starters.SECTIONS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param('[[groups]]\nname = "a"\nsize = 1', "a: unknown: size", id="key"),
        pytest.param('[[groups]]\nname = "a"', "a: .*missing", id="lacking"),
        pytest.param(
            '[[groups]]\nname = "a"\nsection = "b"\ntitle = "c"\ndata = "d"', "section must be one of", id="section"
        ),
        pytest.param("groups = [", "cannot be read", id="no TOML"),
    ],
)
def test_starters_that_cannot_be_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "starters.toml").write_text(text)

    with pytest.raises(BadSettings, match=reason):
        starters.load(tmp_path / "starters.toml")


def test_groups_are_chosen_by_their_models(root: Path) -> None:
    groups = starters.load(root / "training" / "publishing" / "starters.toml")
    registry = load_registry([root / "models" / "registry.toml"])

    assert [(group.name, words) for group, words in chosen(groups, registry, ["small-int8"])] == [
        ("en-de", ["small", "small-int8"])
    ]
    with pytest.raises(BadSettings, match="no group has elsewhere"):
        chosen(groups, registry, ["elsewhere"])


def test_the_marks_are_a_pair() -> None:
    card = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert placed(card, "new", Path("README.md")) == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert placed("before", "new", Path("README.md")) == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n"
    for broken in (card.replace(END, ""), card.replace(BEGIN, "")):
        with pytest.raises(BadCard, match="without the other"):
            placed(broken, "new", Path("README.md"))


def test_a_card_without_figures_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("as it was")
    group = Group("a", "translation", "A", "a.tsv")
    figures = Figures(group, tmp_path, 1, "here", ["training.evaluation.evaluate"], [])

    write_card(tmp_path, [ModelSpec("m", Task.TRANSLATION, tmp_path)], [figures], [Example("A", "s", ["r"], {})])
    write_card(tmp_path, [ModelSpec("m", Task.TRANSLATION, tmp_path)], [replace(figures, rows=[])], [])

    assert (tmp_path / "README.md").read_text() == "as it was"


def test_outputs_are_shown_as_they_are() -> None:
    assert shown("a <b>\n\n2. c") == "a &#60;b&#62; 2. c"
    assert shown("x" * 1000) == "x" * 600 + "…"
