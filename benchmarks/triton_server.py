"""NVIDIA Triton with its dynamic batcher around CTranslate2. Run by benchmarks.triton with the peers' interpreter.

Says `ready` on standard output once it serves; stops when its standard input ends. Nothing of Bushel is in it, since
its interpreter has none of Bushel's packages.
"""

import json
import sys
from typing import Any

import ctranslate2
import numpy as np
import sentencepiece
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


class Translation:
    """Texts to texts, a batch of Triton's at a time, sorted by length and split by tokens as CTranslate2 does."""

    def __init__(self, about: dict[str, Any]) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=f"{about['source']}/source.spm")
        self._texts = sentencepiece.SentencePieceProcessor(model_file=f"{about['source']}/target.spm")
        self._translator = ctranslate2.Translator(
            about["model"],
            compute_type=about["compute_type"],
            inter_threads=about["threads"],
            intra_threads=1,
        )
        self._options = about["options"]

    @batch
    def __call__(self, text: Any) -> dict[str, Any]:
        lines = [row[0].decode() for row in text]
        sources = [[*pieces, "</s>"] for pieces in self._pieces.encode(lines, out_type=str)]
        found = self._translator.translate_batch(sources, max_batch_size=1_024, batch_type="tokens", **self._options)
        outputs = self._texts.decode([result.hypotheses[0] for result in found])
        return {"translation": np.array([[output.strip().encode()] for output in outputs], dtype=object)}


def main(about: dict[str, Any]) -> None:
    port = about["port"]
    config = TritonConfig(http_port=port, grpc_port=port + 1, metrics_port=port + 2, http_address="127.0.0.1")
    with Triton(config=config) as server:
        server.bind(
            model_name="translation",
            infer_func=Translation(about),
            inputs=[Tensor(name="text", dtype=np.bytes_, shape=(1,))],
            outputs=[Tensor(name="translation", dtype=np.bytes_, shape=(1,))],
            config=ModelConfig(
                max_batch_size=about["batch"],
                batcher=DynamicBatcher(max_queue_delay_microseconds=about["delay_microseconds"]),
            ),
        )
        server.run()
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
