"""Reference files, models on the command line, and whole evaluations of tiny models."""

import gzip
import json
import logging
import lzma
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from models.registry import BUILTIN, load
from models.spec import EngineKind, ModelSpec, Task
from tests import models as tiny
from training.evaluation.contenders import BadContender, contenders
from training.evaluation.evaluate import main
from training.evaluation.perplexity import measure
from training.evaluation.plan import BadRequest, plan
from training.evaluation.references import BadReferences, Item, read
from training.evaluation.trial import Trial, TrialFailed
from workers.engines.base import Limits, Params

SETTINGS = "options.inter_threads=1,options.intra_threads=1,options.batch_tokens=512"
REGISTRY = load([BUILTIN])
STARTER = "translation-balanced"
GERMAN = {"target_lang": "de"}
FLOOR = "source, untranslated"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_marian(folder / "marian")
    tiny.make_bart(folder / "bart")
    tiny.make_causal(folder / "llama")
    return folder


# Reference files.


def test_a_table_has_one_reference_or_several(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv.gz"
    path.write_bytes(gzip.compress(b"one\teins\nyou\tdu\tSie\nlast\tletzte\t\n"))

    assert read(path) == [Item("one", ("eins",)), Item("you", ("du", "Sie")), Item("last", ("letzte",))]
    # Files are often sorted: the first ones say little of the rest.
    assert [item.source for item in read(path, limit=2)] == ["one", "you"]
    assert [item.source for item in read(path, source="1", references=["0"], limit=1)] == ["eins"]
    assert read(path, source="1", references=["0"])[1] == Item("du", ("you",))


def test_json_lines_by_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"title": "T", "abstract": "A", "others": ["U", "V"]}\n'))

    assert read(path, source="abstract", references=["title", "others"]) == [Item("A", ("T", "U", "V"))]
    # No reference: a text to be scored.
    assert read(path, source="abstract") == [Item("A")]
    with pytest.raises(BadReferences, match=r"name the source's key\. It has: title, abstract, others"):
        read(path)


def test_parallel_texts(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("en.txt", "de.txt", "de2.txt.gz")]
    paths[0].write_text("one\u2028line\ntwo\n", "utf-8")
    paths[1].write_text("eine\nzwei\n", "utf-8")
    paths[2].write_bytes(gzip.compress(b"a\nb\n"))

    found = read(paths[0], parallel=paths[1:])

    assert found == [Item("one\u2028line", ("eine", "a")), Item("two", ("zwei", "b"))]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("a.tsv", b"a\tb\nc\n", [":2: has 1 columns"], id="too few columns"),
        pytest.param("a.tsv", b"\tb\nc\t\n", [":1: column 0", ":2: column 1"], id="empty cells, both told"),
        pytest.param("a.tsv", b"a\tb\n\xff\tb\n", [":2: is not UTF-8"], id="not UTF-8"),
        pytest.param("a.jsonl", b'{"text": "a"}\n{"text\n', [":2: is not JSON"], id="not JSON"),
        pytest.param("a.jsonl", b'{"text": 3}\n[]\n', [":1: 'text' is 3", ":2: is not a JSON object"], id="types"),
        pytest.param("a.jsonl", b'{"text": "a", "reference": []}\n', [":1: 'reference' is []"], id="no references"),
        pytest.param("a.tsv.gz", gzip.compress(b"a\tb\n" * 9)[:-9], ["cannot be read on"], id="broken off"),
        pytest.param("a.tsv.xz", b"a\tb\n", [":1: cannot be read on"], id="not compressed"),
        pytest.param("a.tsv", b"", ["has no lines"], id="empty file"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, name: str, content: bytes, expected: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    # A column is named, as a table of one column is a list of texts otherwise.
    with pytest.raises(BadReferences) as caught:
        read(path, references=["1"] if ".tsv" in name else [])

    assert len(caught.value.problems) == len(expected)
    for problem, part in zip(caught.value.problems, expected, strict=True):
        assert part in problem and str(path) in problem


def test_texts_of_different_lengths_are_not_parallel(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n2\n")
    (tmp_path / "b").write_text("1\n")

    with pytest.raises(BadReferences, match=r"has 1 lines, but .* has 2"):
        read(tmp_path / "a", parallel=[tmp_path / "b"])
    with pytest.raises(BadReferences, match="does not exist"):
        read(tmp_path / "a", parallel=[tmp_path / "c"])


# Models on the command line.


def test_a_model_can_be_compared_with_itself_changed() -> None:
    plain, full = contenders(
        [STARTER, f"full={STARTER},quantization=float32,defaults.num_beams=1,target_languages=de"], REGISTRY
    )

    assert (plain.quantization, full.quantization) == ("int8", "float32")
    assert (full.name, full.source, full.defaults["num_beams"]) == ("full", plain.source, 1)
    assert (full.language_pairs, full.source_languages, full.target_languages) == ((), ("en", "de", "fr"), ("de",))
    [again] = contenders([f"again={STARTER},quantization=int16"], REGISTRY)
    assert again.language_pairs == plain.language_pairs


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["nobody"], "nobody", id="unknown"),
        pytest.param(["a=nowhere"], "neither a folder nor a model", id="no folder"),
        pytest.param([STARTER, STARTER], "named twice", id="twice"),
        pytest.param([f"a={STARTER},quantization=int3"], "quantization", id="no such quantization"),
        pytest.param([f"a={STARTER},sorce=x"], "did you mean source", id="misspelt key"),
        pytest.param([f"a={STARTER},fast"], "KEY=VALUE", id="no value"),
        pytest.param(["a=."], "give --task", id="a folder's task"),
    ],
)
def test_models_that_cannot_be_compared(words: list[str], expected: str) -> None:
    with pytest.raises(BadContender, match=expected):
        contenders(words, REGISTRY)


def test_a_plan_refuses_what_cannot_be() -> None:
    specs, items = contenders([STARTER], REGISTRY), [Item("a", ("b",))]

    with pytest.raises(BadRequest, match="num_beems"):
        plan(specs, items, params={"num_beems": 4})
    with pytest.raises(BadRequest, match="'full' is not among the models"):
        plan(specs, items, twins=["full"], params=GERMAN)
    with pytest.raises(BadRequest, match="baseline"):
        plan(specs, items, baseline="other", params=GERMAN)
    with pytest.raises(BadRequest, match=r"'nist' is none of sacreBLEU's tokenizers: .*13a"):
        plan(specs, items, tokenizer="nist", params=GERMAN)


def test_bleu_counts_the_words_of_the_target_language() -> None:
    [spec] = contenders([f"zh={STARTER},source_languages=en,target_languages=zh"], REGISTRY)

    assert plan([spec], [Item("a", ("b",))]).tokenizer == "zh"
    assert plan([spec], [Item("a", ("b",))], tokenizer="char").tokenizer == "char"
    assert plan(contenders([STARTER], REGISTRY), [Item("a", ("b",))], params=GERMAN).tokenizer == "13a"


# Tiny models.


@pytest.mark.parametrize("kind", ["marian", "bart", "llama"])
def test_both_engines_are_as_surprised_by_a_text(folder: Path, tmp_path: Path, kind: str) -> None:
    items = [Item(text, (reference,)) for text, reference in zip(tiny.CORPUS[:3], tiny.CORPUS[3:], strict=True)]
    task = {"marian": Task.TRANSLATION, "bart": Task.SUMMARIZATION, "llama": Task.GENERATION}[kind]
    limits, spec = Limits(64, 63), ModelSpec(kind, task, folder / kind, quantization="float32")
    reference = ModelSpec(kind, task, folder / kind, EngineKind.TRANSFORMERS, quantization="float32")

    for some in (items, [Item(item.source) for item in items]):
        found = measure(spec, tmp_path, limits, Params(), some, "cpu")
        expected = measure(reference, tmp_path, limits, Params(), some, "cpu")

        assert found.tokens == expected.tokens > 0
        assert found.nats == pytest.approx(expected.nats, rel=1e-4)


def test_a_text_that_is_too_long_is_cut_and_counted(folder: Path, tmp_path: Path) -> None:
    spec = ModelSpec("llama", Task.GENERATION, folder / "llama", EngineKind.TRANSFORMERS)

    found = measure(spec, tmp_path, Limits(20, 19, True), Params(), [Item("word " * 60), Item("word")], "cpu")

    assert found.cut == 1
    assert found.bits_per_byte is not None


def test_translators_are_evaluated_in_one_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "training")
    data, out = tmp_path / "data.tsv", tmp_path / "out"
    data.write_text("".join(f"{text}\t{text}\tor so\n" for text in tiny.CORPUS), "utf-8")
    multi = f"source_languages=en,target_languages=deu+fra,prefix=>>{{target_lang}}<< ,{SETTINGS}"
    models = [f"fast={folder}/marian,quantization=int8,{multi}", f"full={folder}/marian,quantization=float32,{multi}"]

    status = main([
        "--models", *models, "--task", "translation", "--data", str(data), "--out", str(out), "--twin", "full",
        "--param", "target_lang=fra", "max_new_tokens=12", "--rounds", "2", "--samples", "100",
        "--cache", str(tmp_path / "cache"), "--device", "cpu",
    ])  # fmt: skip

    assert status == 0
    found = json.loads((out / "report.json").read_text("utf-8"))
    fast, full = found["findings"]
    assert [fast["name"], full["name"]] == ["fast", "full"]
    assert (fast["twin"], full["twin"]) == ("full", None)
    assert 0 <= fast["agreement"]["same"] <= 1
    assert fast["engine_bytes"] < full["engine_bytes"]
    assert fast["peak_bytes"] > 10_000_000
    assert len(fast["speed"]["seconds"]) == 2
    assert set(fast["scores"]) == {"bleu", "chrf", "rouge1", "rouge2", "rougeL"}
    assert fast["perplexity"]["tokens"] == full["perplexity"]["tokens"]
    assert {(each["model"], each["other"]) for each in found["compared"]} == {
        ("fast", "full"), ("full", "fast"), ("fast", FLOOR), ("full", FLOOR),
    }  # fmt: skip
    [floor] = found["floors"]
    # The first reference of each item is its source.
    assert (floor["name"], floor["copied_whole"], floor["scores"]["chrf"]["score"]) == (FLOOR, 1, 100)
    rows = [json.loads(line) for line in (out / "outputs" / "full.jsonl").read_text("utf-8").splitlines()]
    assert [row["source"] for row in rows] == list(tiny.CORPUS)
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    picture = (out / "frontier.svg").read_text("utf-8")
    assert ">fast<" in picture and ">full<" in picture
    assert str(data) in json.loads((out / "record.json").read_text("utf-8"))["data"]
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["model", "fast", "full"]
    assert table[-1] == f"written to {out}/report.md, {out}/frontier.png"
    assert "fast: round 2 of 2 took" in caplog.text and "full: perplexity" in caplog.text
    assert "Translation en to fra: BLEU against speed" in picture


def test_a_causal_model_is_held_against_a_3_gram_baseline(folder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny.CORPUS), "utf-8")

    status = main([
        "--models", f"llama={folder}/llama,engine=transformers", "--task", "generation", "--data", str(data),
        "--out", str(out), "--ngrams", str(data), "--rounds", "1", "--param", "max_new_tokens=4",
        "--cache", str(tmp_path / "cache"), "--device", "cpu",
    ])  # fmt: skip

    assert status == 0
    [found] = json.loads((out / "report.json").read_text("utf-8"))["findings"]
    assert found["scores"] == {}
    # Random weights know nothing; the baseline has read these very texts.
    assert found["baseline"]["perplexity"] < found["perplexity"]["perplexity"]
    assert found["baseline"]["tokens"] == found["perplexity"]["tokens"]
    assert (out / "frontier.svg").is_file()


def test_a_causal_model_is_asked_what_the_bias_probe_asks(folder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny.CORPUS), "utf-8")

    status = main([
        "--models", f"llama={folder}/llama,{SETTINGS}", "--task", "generation", "--data", str(data), "--out", str(out),
        "--bias", "--no-perplexity", "--rounds", "1", "--samples", "40", "--param", "max_new_tokens=3",
        "--cache", str(tmp_path / "cache"), "--device", "cpu",
    ])  # fmt: skip

    assert status == 0
    [found] = json.loads((out / "report.json").read_text("utf-8"))["findings"]
    assert found["bias"]["language"] == "en"
    assert found["bias"]["changes"]["explicit"]["beyond_words"]["count"] > 50
    assert 0 <= found["bias"]["preferred"]["value"] <= 100
    assert "does not show" in (out / "report.md").read_text("utf-8")


@pytest.mark.parametrize("kind", ["t5", "m2m100"])
def test_other_architectures_are_evaluated_beside_their_int8_twins(kind: str, tmp_path: Path) -> None:
    made, data, out = tmp_path / kind, tmp_path / "data.tsv", tmp_path / "out"
    {"t5": tiny.make_t5, "m2m100": tiny.make_m2m100}[kind](made)
    data.write_text("".join(f"{text}\t{text[::-1]}\n" for text in tiny.CORPUS), "utf-8")
    said, asked = SETTINGS, []
    if kind == "m2m100":
        said += ",source_languages=en,target_languages=de"
        asked = ["--param", "source_lang=en", "--param", "target_lang=de"]

    status = main([
        "--models", f"whole={made},quantization=float32,{said}", f"small={made},quantization=int8,{said}",
        "--task", "translation", "--twin", "small=whole", "--data", str(data), "--out", str(out),
        "--rounds", "1", "--samples", "40", "--param", "max_new_tokens=5", *asked,
        "--cache", str(tmp_path / "cache"), "--device", "cpu",
    ])  # fmt: skip

    assert status == 0
    whole, small = found_in(out)["findings"]
    assert set(whole["scores"]) >= {"bleu", "chrf"}
    assert whole["perplexity"]["tokens"] == small["perplexity"]["tokens"] > len(tiny.CORPUS)
    # Of random weights every word is about as likely, so the outputs of two roundings may part at the first one.
    assert small["agreement"]["chrf"] > 0
    assert small["perplexity"]["perplexity"] == pytest.approx(whole["perplexity"]["perplexity"], rel=0.1)
    assert small["engine_bytes"] < whole["engine_bytes"]


# Configuration, and going on after an interruption.


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.toml"
    (tmp_path / "data.tsv").write_text("".join(f"{text}\t{text[::-1]}\n" for text in tiny.CORPUS), "utf-8")
    path.write_text(
        f"""
models = ["one={folder}/bart,{SETTINGS}", "two={folder}/bart,quantization=int8,{SETTINGS}"]
task = "summarization"
data = "{tmp_path}/data.tsv"
out = "{tmp_path}/out"
twin = ["one"]
param = {{ max_new_tokens = 5, num_beams = 1 }}
perplexity = true
rounds = 2
samples = 40
examples = 2
device = "cpu"
cache = "{tmp_path}/cache"
""",
        "utf-8",
    )
    return path


def found_in(out: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((out / "report.json").read_text("utf-8")))


def seconds(out: Path) -> dict[str, list[float]]:
    return {each["name"]: each["speed"]["seconds"] for each in found_in(out)["findings"]}


def test_a_configuration_is_the_options_in_a_file(config: Path, tmp_path: Path) -> None:
    assert main([str(config), "--limit", "4", "--no-perplexity"]) == 0

    found = found_in(tmp_path / "out")
    assert found["items"] == 4
    assert [each["perplexity"] for each in found["findings"]] == [None, None]
    assert found["findings"][0]["params"]["max_new_tokens"] == 5
    assert [each["name"] for each in found["floors"]] == ["first sentence"]
    assert len(found["examples"]) == 2
    assert set(found["examples"][0]["outputs"]) == {"one", "two"}
    record = json.loads((tmp_path / "out" / "record.json").read_text("utf-8"))
    assert str(config) in record["data"]
    assert record["options"]["rounds"] == 2
    assert record["weights"]["one"] == record["weights"]["two"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param('modles = ["a"]', "unknown: modles; known: again", id="misspelt"),
        pytest.param("limit = [", "cannot be read", id="no TOML"),
        pytest.param("limit = 2026-01-01", "nothing that --limit can be", id="a date"),
        pytest.param("limit = 3", "missing: --models, --data, --out", id="too little"),
    ],
)
def test_a_wrong_configuration_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    path = tmp_path / "evaluation.toml"
    path.write_text(line)

    assert main([str(path)]) == 2
    assert expected in capsys.readouterr().err


def test_what_was_measured_is_not_measured_again(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(config)]) == 0
    first, was = seconds(out), found_in(out)

    assert main([str(config)]) == 0

    # To the last digit: no clock runs twice alike.
    assert seconds(out) == first
    assert found_in(out)["resumed"] == ["one", "two"]
    assert found_in(out)["findings"] == was["findings"]
    assert "taken up again" in (out / "report.md").read_text("utf-8")

    assert main([str(config), "--again", "--rounds", "1", "--no-perplexity"]) == 0
    assert found_in(out)["resumed"] == []
    assert seconds(out)["one"] != first["one"][:1]


def test_an_interrupted_evaluation_goes_on_where_it_was(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(config)]) == 0
    first = seconds(out)
    # As if it had been killed in the second round, before the other model's turn.
    kept = out / "trials" / "two.json"
    said = json.loads(kept.read_text("utf-8"))
    said["measured"] |= {"rounds": said["measured"]["rounds"][:1], "perplexity": None}
    kept.write_text(json.dumps(said), "utf-8")

    assert main([str(config)]) == 0

    now = seconds(out)
    assert now["one"] == first["one"]
    assert now["two"][0] == first["two"][0] and now["two"][1] != first["two"][1]
    assert found_in(out)["findings"][1]["perplexity"] is not None


def test_another_model_or_other_data_are_measured_anew(config: Path, folder: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ["--rounds", "1", "--no-perplexity", "--models"]
    one, two = f"one={folder}/bart,{SETTINGS}", f"two={folder}/bart,quantization={{}},{SETTINGS}"
    assert main([str(config), *words, one, two.format("int8")]) == 0
    first = seconds(out)

    assert main([str(config), *words, one, two.format("float32")]) == 0
    assert found_in(out)["resumed"] == ["one"]
    assert seconds(out)["one"] == first["one"]

    assert main([str(config), *words, one, "--limit", "5"]) == 0
    assert found_in(out)["resumed"] == []


def test_bad_input_ends_with_its_lines_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.tsv"
    data.write_text("fine\tgut\nbad\t\n", "utf-8")

    status = main(["--models", STARTER, "--data", str(data), "--out", str(tmp_path / "out")])

    assert status == 2
    assert f"{data}:2: column 1, the reference, is empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_load_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    data = tmp_path / "data.tsv"
    data.write_text("fine\tgut\n", "utf-8")
    words = ["--models", f"broken={tmp_path}/empty", "--task", "translation", "--data", str(data)]

    status = main([*words, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")])

    assert status == 1
    assert "model broken: " in capsys.readouterr().err


def test_a_model_whose_process_dies_is_named(tmp_path: Path) -> None:
    spec = ModelSpec("doomed", Task.TRANSLATION, tmp_path, EngineKind.ECHO)

    with Trial(spec, tmp_path, Params()) as trial:
        trial.load()
        trial._process.kill()
        with pytest.raises(TrialFailed, match="model doomed: its process ended with status -9"):
            trial.run(["text"])
