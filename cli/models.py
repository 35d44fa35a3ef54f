"""`bushel models`: which models there are, and whether they work here."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from cli.access import Target
from cli.training import Tools
from models.editing import add_entry, remove_entry
from models.registry import BUILTIN, EngineKind, ModelSpec, Registry, RegistryError, Task, Tier, UnknownModel, load
from models.snapshots import available
from models.spec import QUANTIZATIONS

SAMPLES: Mapping[Task, tuple[str, ...]] = {
    Task.TRANSLATION: ("How are you today?", "We are going home.", "The weather is nice.", "I have two brothers."),
    Task.SUMMARIZATION: (
        "The town opened a new library on Monday. It has forty thousand books, a hall for readings and a garden. "
        "The mayor said that it had taken six years to build, and that every child in town would get a card.",
    ),
    Task.GENERATION: ("Once upon a time",),
    Task.EMBEDDING: ("How are you today?", "The town opened a new library on Monday.", "library", "How is it going?"),
}
SPEED_PROMPTS = 64
SPEED_SECONDS = 3.0

Command = TypeVar("Command", bound=Callable[..., Any])


class Failure(click.ClickException):
    """One line on stderr, exit code 1."""


@contextmanager
def failures() -> Iterator[None]:
    """Expected errors become one line; anything else stays a traceback, since it is a bug."""
    try:
        yield
    except RegistryError as exc:
        raise Failure(str(exc)) from exc


def data_folder() -> Path:
    """That of --data; BUSHEL_DATA alone where these commands are run without their group."""
    context = click.get_current_context(silent=True)
    target = context.find_object(Target) if context is not None else None
    if target is not None:
        return target.data
    return Path(os.environ.get("BUSHEL_DATA") or ".bushel")


def user_registry() -> Path:
    return data_folder() / "models.toml"


def model_cache() -> Path:
    return data_folder() / "models"


def registry() -> Registry:
    return load([BUILTIN, user_registry()])


def offer_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For shells: the models of the registries here. One that is broken offers nothing; the command will say so."""
    try:
        return [spec.name for spec in registry().all() if spec.name.startswith(incomplete)]
    except RegistryError:
        return []


def as_json(command: Command) -> Command:
    return click.option("--json", "is_json", is_flag=True, help="Print JSON.")(command)


@click.group(cls=Tools)
def models() -> None:
    """Add, list, download and check models; train, shrink and judge them."""


@models.command("list")
@as_json
def list_(is_json: bool) -> None:
    """List the models of Bushel and of your models.toml."""
    with failures():
        specs = registry().all()
    cache = model_cache()
    if is_json:
        click.echo(json.dumps([_described(spec, cache) for spec in specs], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("model", "task", "tier", "languages", "numbers", "here"):
        table.add_column(column, no_wrap=True)
    console = Console()
    is_wide = console.width >= 120
    if is_wide:
        table.add_column("engine", no_wrap=True)
        table.add_column("family", no_wrap=True)
        table.add_column("source", no_wrap=True, overflow="ellipsis")
    for spec in specs:
        name = f"{spec.name} *" if spec.default else spec.name
        here = "yes" if available(spec, cache) else "no"
        cells = [name, spec.task, spec.tier or "-", _languages(spec), spec.quantization, here]
        table.add_row(*cells, *((spec.engine, spec.family or "-", _source(spec)) if is_wide else ()))
    console.print(table)
    click.echo("* used when a request for its task names no model", err=True)


@models.command()
@click.argument("name")
@click.option("--task", required=True, type=click.Choice([str(task) for task in Task]), help="What it does.")
@click.option("--source", default="", help="A folder, or a Hugging Face hub id such as Helsinki-NLP/opus-mt-en-de.")
@click.option("--revision", help="For a hub id: the commit or tag.")
@click.option(
    "--engine",
    type=click.Choice([str(kind) for kind in EngineKind]),
    help="What runs it. Default: ctranslate2; transformers for embedding.",
)
@click.option(
    "--quantization",
    type=click.Choice(sorted({each for kinds in QUANTIZATIONS.values() for each in kinds})),
    help="How its numbers are kept. Default: what suits the engine.",
)
@click.option("--source-language", "source_languages", multiple=True, help="May be given several times.")
@click.option("--target-language", "target_languages", multiple=True, help="May be given several times.")
@click.option(
    "--language-pair",
    "language_pairs",
    nargs=2,
    multiple=True,
    metavar="FROM TO",
    help="Instead of both, for a model that cannot do every source with every target. May be given several times.",
)
@click.option("--prefix", help="Put before every input, e.g. 'summarize: ' or '>>{target_lang}<< '.")
@click.option("--max-input-tokens", type=click.IntRange(1), help="Longer inputs are an error, or truncated.")
@click.option("--max-output-tokens", type=click.IntRange(1), help="The most that a request may ask for.")
@click.option("--param", "defaults", multiple=True, metavar="NAME=VALUE", help="A decoding parameter's default.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the engine.")
@click.option("--default", is_flag=True, help="Use it when a request names no model.")
@click.option("--family", help="What it has in common with models that do the same at other cost.")
@click.option("--tier", type=click.Choice([str(tier) for tier in Tier]), help="Which of its family it is.")
@click.option("--description", help="A line about it, for the list of models.")
@click.option("--license", help="Its license, such as apache-2.0.")
def add(name: str, source: str, defaults: tuple[str, ...], options: tuple[str, ...], **keys: Any) -> None:
    """Add a model to your models.toml."""
    entry: dict[str, Any] = {key: value for key, value in keys.items() if value not in (None, (), False, "")}
    if source:
        if source.startswith((".", "/", "~")) and not Path(source).expanduser().exists():
            raise Failure(f"there is no {source}; --source wants a folder that exists, or a hub id such as org/name")
        # Relative to here, as one types it; in the file it would be relative to the file.
        entry["source"] = str(Path(source).expanduser().resolve()) if _is_folder(source) else source
        if _is_converted(Path(entry["source"])):
            raise Failure(
                f"{source} is in CTranslate2's format (model.bin), which Bushel makes itself, of safetensors: "
                "add the folder that it was made of, with --quantization int8"
            )
    for table, pairs in (("defaults", defaults), ("options", options)):
        if pairs:
            entry[table] = dict(_pair(pair) for pair in pairs)
    with failures():
        spec = add_entry(user_registry(), name, entry, beside=[BUILTIN])
    message = f"Added {name} to {user_registry()}. A running `bushel up` must be restarted to serve it."
    if not available(spec, model_cache()):
        message += f" Next: bushel models pull {name}"
    click.echo(message, err=True)


@models.command()
@click.argument("name", shell_complete=offer_names)
def remove(name: str) -> None:
    """Take a model out of your models.toml. Files on disk stay."""
    with failures():
        try:
            remove_entry(user_registry(), name)
        except UnknownModel as exc:
            if name in load([BUILTIN]):
                raise Failure(f"{name} comes with Bushel and cannot be removed; an entry of yours replaces it") from exc
            raise Failure(f"{user_registry()} has no model {name!r}") from exc
    click.echo(f"Removed {name} from {user_registry()}.", err=True)


@models.command()
@click.argument("name", shell_complete=offer_names)
def pull(name: str) -> None:
    """Download a model's files (safetensors only) at its revision."""
    from workers.engines.base import EngineError
    from workers.engines.load import pull as pull_files

    with failures():
        spec = registry().get(name)
    try:
        folder = pull_files(spec, model_cache())
    except EngineError as exc:
        raise Failure(str(exc)) from exc
    if not spec.is_local and not spec.is_pinned:
        click.echo(f'{name} is not pinned; to repeat results, set revision = "{folder.name}" in its entry.', err=True)
    click.echo(str(folder))


@models.command()
@click.argument("name", required=False, shell_complete=offer_names)
@click.option("--device", help="cpu, cuda or cuda:N; by default the best there is.")
@click.option("--recalibrate", is_flag=True, help="Measure the best thread and batch settings again.")
@as_json
def check(name: str | None, device: str | None, recalibrate: bool, is_json: bool) -> None:
    """Load a model (or every one that is here), run it, and say how it does. Exit code 1 if one does not work."""
    with failures():
        known = registry()
        specs = [known.get(name)] if name else [spec for spec in known.all() if available(spec, model_cache())]
    console = Console(stderr=True)
    reports = []
    for spec in specs:
        with console.status(f"checking {spec.name}"):
            reports.append(_report(spec, device, recalibrate))
        for warning in reports[-1]["warnings"]:
            click.echo(f"Warning: {warning}", err=True)
    if is_json:
        click.echo(json.dumps(reports, indent=2))
    else:
        for report in reports:
            if report["ok"]:
                Console().print(_table(report))
    broken = [report for report in reports if report["error"]]
    if broken:
        raise Failure("; ".join(str(report["error"]) for report in broken))


def _report(spec: ModelSpec, device: str | None, recalibrate: bool) -> dict[str, Any]:
    from workers.engines.base import EngineError
    from workers.engines.load import open_engine

    report: dict[str, Any] = {"model": spec.name, "ok": False, "error": None, "warnings": []}
    if not spec.is_pinned:
        advice = "pin a commit, so that results can be repeated"
        report["warnings"].append(f"{spec.name} follows revision {spec.revision}, which moves; {advice}")
    start = time.monotonic()
    try:
        engine = open_engine(spec, model_cache(), device, recalibrate=recalibrate)
        try:
            report["load_seconds"] = round(time.monotonic() - start, 2)
            report["limits"] = asdict(engine.limits)
            recipe = engine.recipe
            report["recipe"] = {**asdict(recipe), "details": dict(recipe.details)}
            calibration = getattr(engine, "calibration", None)
            report["calibration"] = asdict(calibration) if calibration is not None else None
            report |= _run(spec, engine)
        finally:
            engine.close()
    except EngineError as exc:
        report["error"] = str(exc)
    report["ok"] = report["error"] is None
    return report


def _run(spec: ModelSpec, engine: Any) -> dict[str, Any]:
    from models.params import LANGUAGES
    from models.params import check as check_params
    from workers.engines.base import Prompt
    from workers.engines.load import decoding_params

    sides = (
        zip(*spec.language_pairs, strict=True)
        if spec.language_pairs
        else (spec.source_languages, spec.target_languages)
    )
    wanted = {
        key: side[0] if key == "source_lang" or spec.language_pairs else side[-1]
        for key, side in zip(LANGUAGES, sides, strict=True)
        if side and key not in spec.defaults
    }
    clean, problems = check_params(wanted, spec)
    if problems:
        return {"error": str(problems[0])}
    params = decoding_params(clean if spec.task is Task.EMBEDDING else {"max_new_tokens": 64, **clean})
    samples = SAMPLES[spec.task]
    texts = [samples[index % len(samples)] for index in range(SPEED_PROMPTS)]
    encoded = engine.encode([Prompt(text) for text in texts], params)
    first = sorted(engine.generate(encoded[:1], params, lambda: False), key=lambda made: made.index)
    start = time.monotonic()
    # Of an encoder's work, the input is all there is to count.
    tokens = sum(
        len(encoded[made.index]) if made.vector is not None else len(made.tokens)
        for made in engine.generate(encoded, params, lambda: time.monotonic() - start > SPEED_SECONDS)
    )
    seconds = max(time.monotonic() - start, 1e-6)
    vector = first[0].vector
    return {
        "input": texts[0],
        "output": engine.decode(first, params)[0] if vector is None else f"a vector of {len(vector) // 4} numbers",
        "tokens_per_second": round(tokens / seconds, 1),
    }


def _table(report: Mapping[str, Any]) -> Table:
    table = Table(title=f"{report['model']}: works", title_justify="left")
    table.show_header, table.box, table.pad_edge = False, None, False
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key in ("input", "output", "tokens_per_second", "load_seconds", "limits", "calibration", "recipe"):
        value = report.get(key)
        if isinstance(value, Mapping):
            for inner, each in value.items():
                if each != "" and each != {}:
                    table.add_row(f"{key}.{inner}", _line(each))
        elif value is not None:
            table.add_row(key, str(value))
    return table


def _line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items() if each != "")
    return str(value)


def _described(spec: ModelSpec, cache: Path) -> dict[str, Any]:
    """A spec as JSON."""
    return {
        **asdict(spec),
        "source": str(spec.source),
        "defaults": dict(spec.defaults),
        "options": dict(spec.options),
        "available": available(spec, cache),
    }


def _languages(spec: ModelSpec) -> str:
    def shown(languages: tuple[str, ...]) -> str:
        return ",".join(languages[:3]) + ("…" if len(languages) > 3 else "") or "?"

    if spec.language_pairs:
        source, target = spec.language_pairs[0]
        more = len(spec.language_pairs) - 1
        return f"{source} → {target}" + (f" +{more}" if more else "")
    return f"{shown(spec.source_languages)} → {shown(spec.target_languages)}" if spec.target_languages else "-"


def _source(spec: ModelSpec) -> str:
    if spec.engine is EngineKind.ECHO:
        return "-"
    return str(spec.source) if spec.is_local else f"{spec.source}@{spec.revision}"


def _is_folder(source: str) -> bool:
    return source.startswith((".", "/", "~")) or Path(source).is_dir()


def _is_converted(folder: Path) -> bool:
    return (folder / "model.bin").is_file() and not any(folder.glob("*.safetensors"))


def _pair(pair: str) -> tuple[str, object]:
    """NAME=VALUE; the value as JSON where it is (4, 0.7, true, ["a"]), as text otherwise."""
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{pair!r} must be written NAME=VALUE")
    # A schema is JSON that the registry keeps as text: TOML has no null.
    if name == "json_schema":
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
