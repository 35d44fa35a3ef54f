"""The model registry: what files may say, who wins, and what is said when something is wrong."""

import threading
from pathlib import Path

import pytest

from models.editing import add_entry, remove_entry
from models.registry import BUILTIN, BadEntry, EngineKind, ModelSpec, NoDefaultModel, Task, UnknownModel, load
from models.snapshots import available, snapshot

HUB = 'task = "translation"\nsource = "org/name"\nrevision = "abc"\n'
VECTORS = HUB.replace("translation", "embedding")
ECHO = 'task = "generation"\nengine = "echo"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


def test_the_builtin_registry_has_a_default_translator_that_is_here(tmp_path: Path) -> None:
    spec = load([BUILTIN]).default(Task.TRANSLATION)

    assert spec.name == "translation-balanced"
    assert available(spec, tmp_path)


def test_the_commented_examples_of_the_builtin_registry_are_valid(file: Path) -> None:
    text = BUILTIN.read_text("utf-8").split("\n# [models.", 1)[1]
    lines = ("# [models." + text).splitlines()
    file.write_text("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines), "utf-8")

    names = {spec.name for spec in load([file]).all()}

    assert {"opus-mt-en-de", "distilbart-cnn-12-6", "smollm2-135m-instruct", "qwen2.5-0.5b-instruct"} <= names
    assert {"all-minilm-l6-v2", "multilingual-e5-small"} <= names


def test_a_later_file_replaces_an_entry_of_the_same_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f"[models.m]\n{HUB}\n[models.other]\n{ECHO}", "utf-8")
    second.write_text(f"[models.m]\n{ECHO}", "utf-8")

    registry = load([first, second])

    assert registry.get("m").engine is EngineKind.ECHO
    assert "other" in registry and len(registry) == 2


def test_the_default_of_a_later_file_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f"[models.old]\n{ECHO}default = true\n", "utf-8")
    second.write_text(f"[models.new]\n{ECHO}default = true\n", "utf-8")

    registry = load([first, second])

    assert registry.default(Task.GENERATION).name == "new"
    assert not registry.get("old").default


def test_a_file_that_is_not_there_is_empty(file: Path) -> None:
    assert load([file]).all() == ()


def test_an_embedding_model_runs_on_transformers_unless_it_is_an_echo(file: Path) -> None:
    echo = ECHO.replace("generation", "embedding")
    file.write_text(f"[models.m]\n{VECTORS}options = {{ normalize = false }}\n[models.echo]\n{echo}", "utf-8")

    registry = load([file])

    assert registry.get("m").engine is EngineKind.TRANSFORMERS
    assert registry.get("echo").task is Task.EMBEDDING


def test_a_folder_is_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "models.toml").write_text('[models.m]\ntask = "translation"\nsource = "weights"\n', "utf-8")

    spec = load([tmp_path / "models.toml"]).get("m")

    assert spec.source == tmp_path / "weights"
    assert spec.is_local and spec.is_pinned


def test_an_unknown_model_is_answered_with_near_matches(file: Path) -> None:
    file.write_text(f"[models.opus-mt-en-de]\n{HUB}[models.zebra]\n{ECHO}", "utf-8")

    with pytest.raises(UnknownModel, match="did you mean opus-mt-en-de") as caught:
        load([file]).get("opus-mt-ende")

    assert caught.value.near == ("opus-mt-en-de",)


def test_no_default_model_names_those_there_are(file: Path) -> None:
    file.write_text(f"[models.m]\n{ECHO}", "utf-8")
    registry = load([file])

    with pytest.raises(NoDefaultModel, match="name one of: m"):
        registry.default(Task.GENERATION)
    with pytest.raises(NoDefaultModel, match="bushel models add"):
        registry.default(Task.SUMMARIZATION)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[models.m\n", "not valid TOML", id="syntax"),
        pytest.param("[model.m]\n", "tables [models.NAME]", id="another table"),
        pytest.param("[models.m]\n", "[models.m]: task: is missing; it must be one of: translation", id="no task"),
        pytest.param(f'[models.m]\n{HUB}engine = "onnx"\n', "engine: is 'onnx'; it must be one of", id="engine"),
        pytest.param('[models.m]\ntask = "translation"\n', "source: is missing", id="no source"),
        pytest.param('[models.m]\ntask = "translation"\nsource = "o/n"\n', "revision: is missing", id="no revision"),
        pytest.param('[models.m]\ntask = "translation"\nsource = "x"\n', "neither a folder", id="no folder"),
        pytest.param('[models.m]\ntask = "translation"\nsource = "./x"\nrevision="a"', "is for hub ids", id="revision"),
        pytest.param(f"[models.m]\n{HUB}defaut = true\n", "defaut: unknown key; did you mean default", id="key"),
        pytest.param(f"[models.m]\n{HUB}default = 1\n", "default: must be true or false", id="flag"),
        pytest.param(f'[models.m]\n{HUB}source_languages = "en"\n', "must be a list of strings", id="languages"),
        pytest.param(f"[models.m]\n{ECHO}source_languages = ['en']\n", "is for translation models", id="task"),
        pytest.param(f"[models.m]\n{HUB}language_pairs = ['en-de']\n", 'pairs like ["en", "de"]', id="pairs"),
        pytest.param(
            f"[models.m]\n{HUB}language_pairs = [['en', 'de']]\ntarget_languages = ['de']\n",
            "target_languages: is said by language_pairs already",
            id="pairs and languages",
        ),
        pytest.param(
            f"[models.m]\n{ECHO}language_pairs = [['en', 'de']]\n", "is for translation models", id="no pairs"
        ),
        pytest.param(f"[models.m]\n{HUB}max_input_tokens = true\n", "must be a whole number above 0", id="limit"),
        pytest.param(f'[models.m]\n{HUB}quantization = "int4"\n', "the ctranslate2 engine has: default", id="type"),
        pytest.param(f'[models.m]\n{HUB}prefix = "{{lang}}"\n', "{lang} is unknown", id="placeholder"),
        pytest.param(f'[models.m]\n{HUB}prefix = "{{"\n', "braces must be written", id="brace"),
        pytest.param(f'[models.m]\n{HUB}prefix = ">>{{target_lang}}<<"\n', "target_languages must list", id="prefix"),
        pytest.param(f"[models.m]\n{HUB}defaults = {{ num_beam = 4 }}\n", "did you mean num_beams", id="default name"),
        pytest.param(f"[models.m]\n{HUB}defaults = {{ num_beams = 0 }}\n", "from 1 to 16", id="default range"),
        pytest.param(f"[models.m]\n{HUB}options = {{ x = [1] }}\n", "options.x: must be a string", id="option"),
        pytest.param(f"[models.m]\n{HUB}options = {{ batch = 1 }}\n", "options.batch: unknown; the", id="option name"),
        pytest.param(f"[models.m]\n{HUB}options = {{ scores = 1 }}\n", "must be of type bool, not 1", id="option type"),
        pytest.param(f"[models.m]\n{HUB}options = {{ batch_tokens = 0 }}\n", "it must be 1 or more", id="option range"),
        pytest.param(f'[models.m]\n{VECTORS}engine = "ctranslate2"\n', "engine: ctranslate2 makes no", id="vectors"),
        pytest.param(f"[models.m]\n{VECTORS}max_output_tokens = 9\n", "is for models that write", id="no output"),
        pytest.param(f"[models.m]\n{VECTORS}defaults = {{ seed = 1 }}\n", "has no meaning for model m", id="no params"),
        pytest.param(f"[models.m]\n{VECTORS}options = {{ scores = true }}\n", "does embedding", id="no scores"),
        pytest.param(
            f'[models.m]\n{HUB}engine = "transformers"\noptions = {{ normalize = true }}\n',
            "options.normalize: has no meaning for a model that does translation",
            id="no vectors",
        ),
        pytest.param(f"[models.m]\n{HUB}tier = 'best'\n", "tier: is 'best', of no family", id="tier alone"),
        pytest.param(f"[models.m]\n{HUB}family = 'f'\n", "tier: is missing; in a family", id="family alone"),
        pytest.param(f"[models.m]\n{HUB}family = 'f'\ntier = 'good'\n", "must be one of: best, balanced, fast", id="t"),
        pytest.param(f"[models.m]\n{HUB}family = 'a b'\ntier = 'best'\n", "family: is 'a b'; a name is", id="family"),
        pytest.param(f"[models.'a b']\n{HUB}", "a model's name is", id="name"),
        pytest.param(f"[models.qwen2.5]\n{HUB}", 'quote it: [models."qwen2.5"]', id="unquoted dot"),
        pytest.param(
            f"[models.a]\n{ECHO}default = true\n[models.b]\n{ECHO}default = true\n",
            "[models.b]: default: generation already has a as its default",
            id="two defaults",
        ),
    ],
)
def test_an_error_names_file_table_and_key(file: Path, text: str, expected: str) -> None:
    file.write_text(text, "utf-8")

    with pytest.raises(BadEntry) as caught:
        load([file])

    assert str(file) in str(caught.value)
    assert expected in str(caught.value)


def in_family(tier: str, family: str = "f", task: str = "generation") -> str:
    return f'task = "{task}"\nengine = "echo"\nfamily = "{family}"\ntier = "{tier}"\n'


def test_tiers_of_a_family_may_share_their_weights(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    shared = 'task = "translation"\nsource = "./weights"\nfamily = "f"\n'
    best = f'[models.a]\n{shared}tier = "best"\nquantization = "float32"\n'
    (tmp_path / "m.toml").write_text(f'{best}[models.b]\n{shared}tier = "balanced"\nquantization = "int8"\n', "utf-8")

    registry = load([tmp_path / "m.toml"])

    assert registry.get("a").source == registry.get("b").source
    assert [(spec.family, spec.tier) for spec in registry.all()] == [("f", "best"), ("f", "balanced")]


def test_a_tier_that_another_file_has_already_is_told_of_the_later_entry(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f"[models.a]\n{in_family('best')}", "utf-8")
    second.write_text(f"[models.b]\n{in_family('best')}", "utf-8")

    with pytest.raises(BadEntry) as caught:
        load([first, second])

    assert (caught.value.file, caught.value.table, caught.value.key) == (second, "models.b", "tier")
    assert "f already has a as its best" in str(caught.value) and "call the entry a to replace it" in str(caught.value)


def test_an_entry_of_the_same_name_takes_the_tier_over(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f"[models.a]\n{in_family('best')}[models.b]\n{in_family('fast')}", "utf-8")
    second.write_text(f"[models.a]\n{in_family('fast', 'g')}[models.c]\n{in_family('best')}", "utf-8")

    registry = load([first, second])

    assert {spec.name: (spec.family, spec.tier) for spec in registry.all()} == {
        "a": ("g", "fast"), "b": ("f", "fast"), "c": ("f", "best")
    }  # fmt: skip


def test_a_family_does_one_task(file: Path) -> None:
    file.write_text(f"[models.a]\n{in_family('best')}[models.b]\n{in_family('fast', task='embedding')}", "utf-8")

    with pytest.raises(BadEntry, match=r"f does generation already \(a\), and this one embedding"):
        load([file])


def test_an_entry_is_not_added_that_contradicts_a_file_beside(tmp_path: Path) -> None:
    builtin, own = tmp_path / "a.toml", tmp_path / "b.toml"
    builtin.write_text(f"[models.a]\n{in_family('best')}", "utf-8")
    entry = {"task": "generation", "engine": "echo", "family": "f", "tier": "best"}

    with pytest.raises(BadEntry, match="already has a as its best"):
        add_entry(own, "b", entry, beside=[builtin])
    assert not own.exists()
    add_entry(own, "a", entry, beside=[builtin])
    add_entry(own, "b", {**entry, "tier": "fast"}, beside=[builtin])

    assert [spec.tier for spec in load([builtin, own]).all()] == ["best", "fast"]


def test_an_added_entry_is_read_back_as_it_was_given(file: Path) -> None:
    file.write_text("# mine\n[models.first]\n" + ECHO + "# the end\n", "utf-8")
    entry = {
        "task": "translation",
        "source": "org/name",
        "revision": "v1",
        "source_languages": ("en",),
        "target_languages": ["deu", "fra"],
        "prefix": '>>{target_lang}<< "quoted" \\ \t',
        "default": True,
        "defaults": {"num_beams": 4, "length_penalty": 0.6, "stop": ["\n", "€"]},
        "options": {"scores": True},
    }

    added = add_entry(file, "a.b", entry)

    spec = load([file]).get("a.b")
    assert spec == added
    assert spec.prefix == entry["prefix"] and spec.defaults == entry["defaults"] and spec.options == {"scores": True}
    assert file.read_text("utf-8").startswith("# mine\n[models.first]\n")


def test_a_removed_entry_leaves_the_rest_as_it_was(file: Path) -> None:
    before = f"# mine\n[models.first]\n{ECHO}\n[models.last]\n{ECHO}"
    file.write_text(before, "utf-8")
    add_entry(file, "a.b", {"task": "generation", "engine": "echo", "options": {"markers": True}})

    remove_entry(file, "a.b")

    assert file.read_text("utf-8").strip() == before.strip()
    remove_entry(file, "first")
    assert [spec.name for spec in load([file]).all()] == ["last"]


def test_an_entry_that_cannot_be_cut_out_is_left_alone(file: Path) -> None:
    before = f'[models.m]\n{ECHO}description = """\n[models.other]\n"""\n'
    file.write_text(before, "utf-8")

    with pytest.raises(BadEntry, match="edit the file by hand"):
        remove_entry(file, "m")

    assert file.read_text("utf-8") == before


def test_a_wrong_entry_is_not_added(file: Path) -> None:
    file.write_text(f"[models.m]\n{ECHO}default = true\n", "utf-8")
    before = file.read_text("utf-8")

    with pytest.raises(BadEntry, match="must be one of"):
        add_entry(file, "x", {"task": "poetry"})
    with pytest.raises(BadEntry, match="already has m as its default"):
        add_entry(file, "x", {"task": "generation", "engine": "echo", "default": True})
    with pytest.raises(BadEntry, match="already there"):
        add_entry(file, "m", {"task": "generation", "engine": "echo"})
    with pytest.raises(UnknownModel):
        remove_entry(file, "x")

    assert file.read_text("utf-8") == before


def test_entries_added_at_the_same_time_are_all_kept(file: Path) -> None:
    names = [f"m{number}" for number in range(12)]
    threads = [
        threading.Thread(target=add_entry, args=(file, name, {"task": "generation", "engine": "echo"}))
        for name in names
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(spec.name for spec in load([file]).all()) == sorted(names)


def test_a_hub_model_is_available_once_its_revision_is_in_the_cache(tmp_path: Path) -> None:
    spec = ModelSpec("m", Task.TRANSLATION, "org/name", revision="main")
    cache = tmp_path / "models"
    assert not available(spec, cache)

    repository = cache / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    folder = repository / "snapshots" / "c0ffee"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")

    assert snapshot(spec, cache) == folder
    assert not spec.is_pinned
    assert available(ModelSpec("m", Task.TRANSLATION, "org/name", revision="c0ffee"), cache)
    assert not available(ModelSpec("m", Task.TRANSLATION, "org/name", revision="other"), cache)


@pytest.fixture(autouse=True)
def no_hub_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "user-cache"))
