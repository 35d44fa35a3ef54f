"""One sentencepiece vocabulary for both sides: unigram pieces, tags, and the files Marian models keep it in."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from training.errors import BadRecipe
from training.pairs import Pair

EOS, UNKNOWN = 0, 1


class Vocabulary:
    """Texts to ids. The pad id comes after the pieces, as Marian models have it."""

    def __init__(self, folder: Path) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
        self.pad = int(self._pieces.get_piece_size())

    @classmethod
    def train(cls, pairs: Iterable[Pair], size: int, tags: Sequence[str], folder: Path) -> "Vocabulary":
        """Learn it from both sides of the pairs and write its files; the same pairs give the same vocabulary.

        BadRecipe where they have not so many pieces.
        """
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(text for pair in pairs for text in (pair.source, pair.target)),
                model_prefix=str(folder / "pieces"),
                vocab_size=size,
                character_coverage=0.9999,
                model_type="unigram",
                eos_id=EOS,
                unk_id=UNKNOWN,
                bos_id=-1,
                pad_id=-1,
                user_defined_symbols=list(tags),
                input_sentence_size=600_000,
                shuffle_input_sentence=False,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as exc:
            # Of too few texts for so many pieces, above all; it says how many would do.
            raise BadRecipe(f"pieces = {size}: {str(exc).rpartition('] ')[2]}") from exc
        (folder / "pieces.model").rename(folder / "source.spm")
        (folder / "pieces.vocab").unlink()
        shutil.copyfile(folder / "source.spm", folder / "target.spm")
        made = cls(folder)
        made._write(folder)
        return made

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, with the end token behind them."""
        return [[*ids, EOS] for ids in self._pieces.encode(texts)]

    def decode(self, rows: list[list[int]]) -> list[str]:
        return [self._pieces.decode([id for id in row if EOS < id < self.pad]) for row in rows]

    def tag(self, tag: str) -> int:
        return int(self._pieces.piece_to_id(tag))

    def _write(self, folder: Path) -> None:
        ids = {self._pieces.id_to_piece(id): id for id in range(self.pad)} | {"<pad>": self.pad}
        settings = {
            "tokenizer_class": "MarianTokenizer",
            "source_lang": "",
            "target_lang": "",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "separate_vocabs": False,
        }
        # The last one says that all are there.
        for name, content in (("tokenizer_config.json", settings), ("vocab.json", ids)):
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
