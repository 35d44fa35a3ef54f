"""Converts a model's folder for CTranslate2, once per machine.

`python -m workers.engines.convert SOURCE DESTINATION TYPE [VMAP]` is how the engine runs it: in a process of its own,
which gives back the hundreds of megabytes that torch and the full-precision weights take.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.spec import ModelSpec
from workers.engines.base import ModelUnavailable
from workers.engines.files import ModelFiles, load_weights
from workers.engines.quiet import quietly
from workers.engines.shortlist import find_shortlist

# Raise it when this file changes what comes out of a conversion.
FORMAT = 2
# Attributes the converter reads, which configs written by transformers 5 no longer carry.
ARCHITECTURE: Mapping[str, Mapping[str, bool]] = {
    "bart": {"normalize_before": False, "normalize_embedding": True},
    "mbart": {"normalize_before": True, "normalize_embedding": True},
    "pegasus": {"normalize_before": True, "normalize_embedding": False},
}
# Models of the T5 family that never scale their outputs; T5 itself says whether it does.
UNSCALED = frozenset({"mt5"})


def converted(spec: ModelSpec, files: ModelFiles, compute_type: str, cache: Path) -> Path:
    """The model in CTranslate2's format, converted if no process has done so yet.

    The folder's name is a hash of all that goes in, so that a changed model never meets an old conversion. A shortlist
    is part of it where the model's entry asks for one.
    """
    shortlist = find_shortlist(spec, files)
    parts = [files.weights_hash, files.tokenizer_hash, files.config_hash, compute_type, str(FORMAT)]
    if shortlist is not None:
        parts.append(shortlist.digest)
    versions = (version("ctranslate2"), version("transformers"))
    digest = hashlib.sha256("\n".join((*parts, *versions)).encode()).hexdigest()[:32]
    folder = cache / "ctranslate2" / digest
    if (folder / "model.bin").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        # Another process may have done it while this one waited.
        if not (folder / "model.bin").is_file():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _run(spec, files.folder, unfinished, compute_type, shortlist.path if shortlist is not None else None)
            about = {"model": spec.name, "source": str(spec.source), "revision": files.revision, "type": compute_type}
            (unfinished / "source.json").write_text(json.dumps(about, indent=1), "utf-8")
            os.replace(unfinished, folder)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock, which the system releases even if this process is killed."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(spec: ModelSpec, source: Path, destination: Path, compute_type: str, vmap: Path | None) -> None:
    # A process that has torch already gains nothing by starting another one.
    if "torch" in sys.modules:
        try:
            convert(source, destination, compute_type, vmap)
        except Exception as exc:
            raise ModelUnavailable(_advice(spec, f"{type(exc).__name__}: {exc}")) from exc
        return
    words = [str(source), str(destination), compute_type, *([str(vmap)] if vmap is not None else [])]
    done = subprocess.run(
        [sys.executable, "-m", "workers.engines.convert", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"the converter ended with status {done.returncode}"])[-1]
        raise ModelUnavailable(_advice(spec, reason))


def _advice(spec: ModelSpec, reason: str) -> str:
    return f'model {spec.name} cannot be converted for CTranslate2 ({reason}); set engine = "transformers" in its entry'


def convert(source: Path, destination: Path, compute_type: str, vmap: Path | None = None) -> None:
    """Convert now, in this process; `vmap` is a shortlist to be put beside the weights."""
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.converters.transformers import register_loader

    from workers.engines.marian_start import MarianLoader

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, model_class: Any, path: str, **options: Any) -> Any:
            model = load_weights(model_class, Path(path), **options)
            for name, value in ARCHITECTURE.get(model.config.model_type, {}).items():
                if not hasattr(model.config, name):
                    setattr(model.config, name, value)
            if model.config.model_type in UNSCALED or hasattr(model.config, "scale_decoder_outputs"):
                # Here the converter looks whether outputs are scaled, and transformers 5 says true of every T5.
                model.config.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", False)
            return model

        def load_tokenizer(self, tokenizer_class: Any, path: str, **options: Any) -> Any:
            return _Tokenizer(tokenizer_class.from_pretrained(path, local_files_only=True, **options))

    register_loader("MarianConfig")(MarianLoader)
    with quietly():
        Converter(str(source)).convert(
            str(destination), vmap=str(vmap) if vmap is not None else None, quantization=compute_type
        )


class _Tokenizer:
    """A tokenizer as the converter expects it: M2M100's language tokens are part of the vocabulary.

    They were "additional special tokens" until transformers 5, and the converter looks for them there.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def get_vocab(self) -> dict[str, int]:
        return {**self._tokenizer.get_vocab(), **getattr(self._tokenizer, "lang_token_to_id", {})}


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *(Path(said) for said in sys.argv[4:5]))
