"""A Celery task per text, as a good tutorial writes it: the model is loaded once in every process of the pool.

Run by `celery -A benchmarks.celery_tasks worker`; the variables say where model and broker are. Nothing of Bushel is in
it.
"""

import json
import os
from pathlib import Path
from typing import Any

import ctranslate2
import sentencepiece
from celery import Celery
from celery.signals import worker_process_init

app = Celery("translations", broker=os.environ.get("PEER_BROKER"), backend=os.environ.get("PEER_BROKER"))
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    # A model in every process: without it, one would hold many tasks while the others have none.
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)

_loaded: dict[str, Any] = {}


@worker_process_init.connect  # type: ignore[untyped-decorator]
def load(**_: object) -> None:
    """The model, and its sentencepiece model, for this process."""
    source = Path(os.environ["PEER_SOURCE"])
    _loaded["pieces"] = sentencepiece.SentencePieceProcessor(model_file=str(source / "source.spm"))
    _loaded["texts"] = sentencepiece.SentencePieceProcessor(model_file=str(source / "target.spm"))
    _loaded["translator"] = ctranslate2.Translator(
        os.environ["PEER_MODEL"], compute_type=os.environ["PEER_COMPUTE_TYPE"], inter_threads=1, intra_threads=1
    )
    _loaded["options"] = json.loads(os.environ["PEER_OPTIONS"])


@app.task(name="translations.translate")  # type: ignore[untyped-decorator]
def translate(text: str) -> str:
    pieces = [*_loaded["pieces"].encode(text, out_type=str), "</s>"]
    [result] = _loaded["translator"].translate_batch([pieces], **_loaded["options"])
    output: str = _loaded["texts"].decode(result.hypotheses[0])
    return output.strip()
