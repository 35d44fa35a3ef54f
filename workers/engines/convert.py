"""Converts a model's folder for CTranslate2, once per machine.

`python -m workers.engines.convert SOURCE DESTINATION TYPE` is how the engine runs it: in a process of its own, which
gives back the hundreds of megabytes that torch and the full-precision weights take.
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

# Raise it when this file changes what comes out of a conversion.
FORMAT = 1
# Attributes the converter reads, which configs written by transformers 5 no longer carry.
ARCHITECTURE: Mapping[str, Mapping[str, bool]] = {
    "bart": {"normalize_before": False, "normalize_embedding": True},
    "mbart": {"normalize_before": True, "normalize_embedding": True},
    "pegasus": {"normalize_before": True, "normalize_embedding": False},
}


def converted(spec: ModelSpec, files: ModelFiles, compute_type: str, cache: Path) -> Path:
    """The model in CTranslate2's format, converted if no process has done so yet.

    The folder's name is a hash of all that goes in, so that a changed model never meets an old conversion.
    """
    parts = (files.weights_hash, files.tokenizer_hash, files.config_hash, compute_type, str(FORMAT))
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
            _run(spec, files.folder, unfinished, compute_type)
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


def _run(spec: ModelSpec, source: Path, destination: Path, compute_type: str) -> None:
    # A process that has torch already gains nothing by starting another one.
    if "torch" in sys.modules:
        try:
            convert(source, destination, compute_type)
        except Exception as exc:
            raise ModelUnavailable(_advice(spec, f"{type(exc).__name__}: {exc}")) from exc
        return
    done = subprocess.run(
        [sys.executable, "-m", "workers.engines.convert", str(source), str(destination), compute_type],
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


def convert(source: Path, destination: Path, compute_type: str) -> None:
    """Convert now, in this process."""
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, model_class: Any, path: str, **options: Any) -> Any:
            model = load_weights(model_class, Path(path), **options)
            for name, value in ARCHITECTURE.get(model.config.model_type, {}).items():
                if not hasattr(model.config, name):
                    setattr(model.config, name, value)
            return model

        def load_tokenizer(self, tokenizer_class: Any, path: str, **options: Any) -> Any:
            return _Tokenizer(tokenizer_class.from_pretrained(path, local_files_only=True, **options))

    with quietly():
        Converter(str(source)).convert(str(destination), quantization=compute_type)


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
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
