"""A teacher whose distributions over the words a student learns, and what the record says of both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from training.errors import CannotMake
from training.folders import open_model, open_tokenizer
from training.provenance import file_digest


def open_teacher(folder: Path, words: Mapping[str, int], student: Any) -> Any:
    """The teacher, on the student's device; CannotMake if it does not say its words with the same ids."""
    if open_tokenizer(folder).get_vocab() != words:
        raise CannotMake(f"{folder} has another vocabulary than the student: it can teach sentences, but not words")
    teacher = open_model(folder).to(student.device)
    if teacher.config.vocab_size != student.config.vocab_size:
        raise CannotMake(f"{folder} has {teacher.config.vocab_size} words, the student {student.config.vocab_size}")
    return teacher


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || student) of (words, vocabulary) logits: the mean over the words, in nats (Hinton et al. 2015).

    Times the square of the temperature, so that its gradient stays as large beside the cross-entropy's.
    """
    said, taught = (torch.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    distance = torch.nn.functional.kl_div(said, taught, reduction="batchmean", log_target=True)
    return distance * temperature**2


def weights_of(model: Path | None, teacher: Path | None) -> dict[str, object]:
    """For the record: the hashes of the weights that a training began with, and of those that taught it."""
    folders = {name: folder for name, folder in (("model", model), ("teacher", teacher)) if folder is not None}
    if not folders:
        return {}
    return {
        "weights": {
            name: {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
            for name, folder in folders.items()
        }
    }
