"""The page that shows one item of a model: its numbers, its texts, and that nothing in a text becomes markup."""

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from models.spec import EngineKind, ModelSpec, Task
from tests import models as tiny
from training.explaining.explain import main, page
from training.explaining.insight import ROLLOUT, CannotExplain, insight
from workers.engines.base import Params, Prompt
from workers.engines.load import open_engine

MAKERS: dict[str, Callable[[Path], Path]] = {
    "marian": tiny.make_marian,
    "bart": tiny.make_bart,
    "t5": tiny.make_t5,
    "m2m100": tiny.make_m2m100,
    "llama": tiny.make_causal,
}
HOSTILE = '<script>alert(1)</script> & "quoted" </table>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    for kind, make in MAKERS.items():
        make(folder / kind)
    return folder


class Page(HTMLParser):
    """Tables of weights by their view, the words of the scores, and every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.heat: dict[str, list[list[float]]] = {}
        self.text = ""
        self._view: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self.tags.append((tag, said))
        if tag == "table":
            self._view = said.get("data-view")
            if self._view is not None:
                self.heat[self._view] = []
        if self._view is not None and tag == "tr":
            self.heat[self._view].append([])
        if tag == "data" and self._view is not None:
            self.heat[self._view][-1].append(float(said["value"] or "nan"))

    def handle_data(self, data: str) -> None:
        self.text += data


def spec(folder: Path, kind: str) -> ModelSpec:
    task = Task.GENERATION if kind == "llama" else Task.TRANSLATION
    languages = {"source_languages": ("en",), "target_languages": ("de", "fr")} if kind == "m2m100" else {}
    return ModelSpec(kind, task, folder / kind, EngineKind.TRANSFORMERS, **languages)


def params(kind: str) -> dict[str, object]:
    return {"max_new_tokens": 6, **({"source_lang": "en", "target_lang": "fr"} if kind == "m2m100" else {})}


@pytest.mark.parametrize("kind", MAKERS)
def test_weights_sum_to_one_and_odds_are_those_of_the_engine(folder: Path, tmp_path: Path, kind: str) -> None:
    found = insight(spec(folder, kind), tiny.CORPUS[0], tmp_path, {**params(kind), "num_beams": 1}, device="cpu")

    assert found.tokens
    for view in found.views:
        assert len(view.rows) == len(found.tokens)
        for row in view.rows:
            assert len(row) == len(found.seen)
            assert sum(row) == pytest.approx(1, abs=1e-4)
    # Greedy: each token is the likeliest, unless the search was not free to take it.
    assert all(token.rank == 1 for token in found.tokens)
    assert all(token.log_probability == pytest.approx(token.top[0].log_probability) for token in found.tokens)
    engine = open_engine(spec(folder, kind), tmp_path, "cpu")
    asked = Params(max_new_tokens=6, source_lang="en", target_lang="fr", top_logprobs=1)
    [made] = engine.generate(engine.encode([Prompt(tiny.CORPUS[0])], asked), asked, lambda: False)
    assert made.logprobs is not None
    expected = [each.logprob for each in made.logprobs]
    # The engine tells Marian's odds before it forbids the padding, which here has the share that chance gave it.
    exact = 2e-2 if kind == "marian" else 1e-3
    assert [each.log_probability for each in found.tokens[: len(expected)]] == pytest.approx(expected, abs=exact)


def test_a_causal_token_looks_at_nothing_behind_it(folder: Path, tmp_path: Path) -> None:
    found = insight(spec(folder, "llama"), "the quick brown fox", tmp_path, params("llama"), device="cpu")

    assert [view.name for view in found.views] == [ROLLOUT, "1", "2"]
    first = len(found.prompt) + 1
    for view in found.views:
        for place, row in enumerate(view.rows):
            assert all(weight == 0 for weight in row[first + place :])
            assert row[first + place - 1] > 0


def test_a_given_output_is_judged_instead(folder: Path, tmp_path: Path) -> None:
    found = insight(
        spec(folder, "marian"), "the dog", tmp_path, params("marian"), target="the fox", layer="1", device="cpu"
    )

    assert found.is_given and found.output == "the fox"
    assert found.chosen == "1" and found.tokens[-1].text == "</s>"
    assert found.log_probability < 0
    assert "given, not written by the model" in page(found)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_page_holds_every_token_and_weight_and_needs_nothing_else(folder: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "page.html"
    model = f"{kind}={folder}/{kind}" + (",source_languages=en,target_languages=de+fr" if kind == "m2m100" else "")
    task = "generation" if kind == "llama" else "translation"
    words = [f"{key}={value}" for key, value in params(kind).items()]

    status = main([
        model, "--task", task, "--text", HOSTILE, "--out", str(out), "--param", *words,
        "--cache", str(tmp_path / "cache"), "--device", "cpu",
    ])  # fmt: skip

    assert status == 0
    text = out.read_text("utf-8")
    shown = Page(text)
    assert shown.heat
    for rows in shown.heat.values():
        # The first row is the head.
        for row in rows[1:]:
            assert sum(row) == pytest.approx(1, abs=1e-3)
    found = insight(spec(folder, kind), HOSTILE, tmp_path, params(kind), device="cpu")
    assert all(token.text in shown.text for token in found.tokens)
    assert all(seen in shown.text for seen in found.seen)
    assert HOSTILE in shown.text
    assert "not an explanation" in shown.text
    tags = {tag for tag, _ in shown.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "form"}
    assert not any(key in said for _, said in shown.tags for key in ("src", "href", "onclick", "style"))
    assert "url(" not in text and "@import" not in text


def test_a_bare_folder_is_enough(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"

    for kind in ("bart", "llama"):
        assert main([str(folder / kind), "--text", "the fox", "--out", str(out), "--param", "max_new_tokens=3"]) == 0


def test_what_cannot_be_seen_has_a_name(folder: Path, tmp_path: Path) -> None:
    found = insight(spec(folder, "llama"), "a\u202eb\x07", tmp_path, params("llama"), device="cpu")

    text = page(found)

    assert "\u202e" not in text and "\x07" not in text
    assert "a\\u202eb\\x07" in text


@pytest.mark.parametrize("kind", MAKERS)
def test_a_layer_that_is_not_there_is_told_before_the_model_is_loaded(folder: Path, tmp_path: Path, kind: str) -> None:
    # A model without weights that could be loaded.
    empty = tmp_path / kind
    empty.mkdir()
    for path in (folder / kind).iterdir():
        (empty / path.name).write_bytes(path.read_bytes() if path.suffix != ".safetensors" else b"")
    asked = replace(spec(folder, kind), source=empty)

    with pytest.raises(CannotExplain, match=r"there is no layer '99'; there are (rollout, )?1, 2$"):
        insight(asked, "the fox", tmp_path, params(kind), layer="99", device="cpu")


def test_too_much_for_a_page_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CannotExplain, match="there is no layer '7'; there are 1, 2"):
        insight(spec(folder, "bart"), "the fox", tmp_path, params("bart"), layer="7", device="cpu")
    with pytest.raises(CannotExplain, match="num_beems"):
        insight(spec(folder, "bart"), "the fox", tmp_path, {"num_beems": 2}, device="cpu")

    assert main(["nobody", "--text", "a", "--out", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and "nobody" in said
    assert not (tmp_path / "page.html").exists()
