"""A model's lexical shortlist: for each token of an input, those that its output may be made of."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from models.spec import ModelSpec
from workers.engines.base import ModelUnavailable
from workers.engines.files import ModelFiles
from workers.engines.tokens import MULTILINGUAL

# CTranslate2's name for it, in a model's folder and in a converted one.
VMAP = "vmap.txt"


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The file, and its SHA-256."""

    path: Path
    digest: str


def find_shortlist(spec: ModelSpec, files: ModelFiles) -> Shortlist | None:
    """That of the model's folder if its entry asks for it; ModelUnavailable if there is none to be had."""
    if not spec.options.get("shortlist", False):
        return None
    if not files.is_encoder_decoder:
        raise ModelUnavailable(
            f"model {spec.name} goes on from its input instead of translating it, so that no shortlist can be used; "
            "remove options.shortlist from its entry"
        )
    if has_forced_tokens(files):
        # Seen with 4.8.5: where candidates change from batch to batch, a third of the batches end in an IndexError, as
        # if the forced token were looked up among the candidates of the batch before.
        raise ModelUnavailable(
            f"model {spec.name} begins every output with a forced token, which CTranslate2 gets wrong where there is a "
            "shortlist; remove options.shortlist from its entry"
        )
    path = files.folder / VMAP
    if not path.is_file():
        raise ModelUnavailable(
            f"model {spec.name}: options.shortlist is true, but {files.folder} has no {VMAP}; make one with "
            "`bushel models shortlist`, or remove the option from its entry"
        )
    with path.open("rb") as file:
        return Shortlist(path, hashlib.file_digest(file, "sha256").hexdigest())


def has_forced_tokens(files: ModelFiles) -> bool:
    """Whether outputs begin with a language, or with what the config forces; Marian's never do."""
    is_forced = files.model_type in MULTILINGUAL or bool(files.token_ids("forced_bos_token_id"))
    return is_forced and files.model_type != "marian"
