"""A model that is measured: where its weights are, and how each runtime gets at them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import models
from benchmarks.marian import NAME, make_random
from benchmarks.service import BenchmarkFailed
from models import registry
from models.editing import add_entry
from models.spec import EngineKind, ModelSpec, Scalar, Task
from workers.engines.convert import converted
from workers.engines.ctranslate2 import COMPUTE_TYPES
from workers.engines.files import find_files
from workers.engines.shortlist import VMAP

SHIPPED = Path(models.__file__).parent / "registry.toml"


def contender(name: str, cache: Path) -> ModelSpec:
    """A translation model of the shipped registry, or the one with random weights, which is made if need be."""
    if name == NAME:
        return ModelSpec(
            name=NAME,
            task=Task.TRANSLATION,
            source=make_random(cache),
            quantization="int8",
            source_languages=("en",),
            target_languages=("de",),
        )
    spec = registry.load([SHIPPED]).get(name)
    if spec.task is not Task.TRANSLATION or not isinstance(spec.source, Path):
        raise BenchmarkFailed(f"{name} is no translation model that is here as a folder; name another with --model")
    if not (spec.source / "source.spm").is_file():
        raise BenchmarkFailed(f"{name} is no Marian model, and only those can be run by all ways; name another")
    # Of a multilingual model, one direction: not all that it is compared with know of languages.
    prefix = spec.prefix.format(source_lang="en", target_lang="de")
    return replace(spec, prefix=prefix, language_pairs=(), source_languages=("en",), target_languages=("de",))


def with_shortlist(spec: ModelSpec) -> ModelSpec:
    """The same model with its shortlist."""
    if not (source_of(spec) / VMAP).is_file():
        raise BenchmarkFailed(
            f"{spec.name} has no {VMAP}, so there is no shortlist to measure; "
            "make one with `bushel models shortlist`, or name another model with --model"
        )
    return replace(spec, options={**spec.options, "shortlist": True})


def source_of(spec: ModelSpec) -> Path:
    assert isinstance(spec.source, Path), "contenders are folders"
    return spec.source


def conversion(spec: ModelSpec, cache: Path) -> tuple[Path, str]:
    """The model as CTranslate2 reads it, the same that our engine loads; and its compute type.

    What our engine puts before inputs by the registry, CTranslate2 puts there by the folder's config, so that whoever
    uses the folder need not know of it.
    """
    compute_type = COMPUTE_TYPES.get(spec.quantization, spec.quantization)
    folder = converted(spec, find_files(spec, cache), compute_type, cache)
    return (_tagged(folder, spec.prefix.strip(), cache) if spec.prefix else folder), compute_type


def _tagged(folder: Path, tag: str, cache: Path) -> Path:
    made = cache / "tagged" / folder.name
    if not made.is_dir():
        shutil.copytree(folder, made)
        config = json.loads((made / "config.json").read_text("utf-8"))
        (made / "config.json").write_text(json.dumps(config | {"add_source_bos": True, "bos_token": tag}), "utf-8")
    return made


def write_registry(spec: ModelSpec, path: Path) -> Path:
    """A registry with this model alone."""
    entry: dict[str, object] = {
        "task": str(spec.task),
        "source": str(spec.source),
        "engine": str(spec.engine),
        "quantization": spec.quantization,
        "source_languages": list(spec.source_languages),
        "target_languages": list(spec.target_languages),
        "prefix": spec.prefix,
        "max_input_tokens": spec.max_input_tokens,
        "max_output_tokens": spec.max_output_tokens,
        "default": True,
        "options": dict(spec.options),
    }
    path.unlink(missing_ok=True)
    add_entry(path, spec.name, {key: value for key, value in entry.items() if value not in (None, "", [], {})})
    return path


def for_device(spec: ModelSpec, device: str) -> Mapping[str, ModelSpec]:
    """How our engines run it there: what to call each, and its entry."""
    if device == "cpu":
        return {"": spec}
    plain: dict[str, Scalar] = {key: value for key, value in spec.options.items() if key == "scores"}
    return {
        " (transformers, bf16)": replace(spec, engine=EngineKind.TRANSFORMERS, quantization="bfloat16", options=plain),
        " (CTranslate2, fp16)": replace(spec, quantization="float16"),
    }
