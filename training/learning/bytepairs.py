"""A byte-level BPE tokenizer for causal models, learned from texts, and the files transformers keeps it in."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.errors import CannotMake

# It begins every text and ends it, so that texts can be put one behind another with one of it between them.
BOUNDARY = "<|endoftext|>"
BOUNDARY_ID = 0


class BytePairs:
    """Texts to ids and back; there is no unknown text, as every byte is a token."""

    def __init__(self, folder: Path) -> None:
        """CannotMake if the folder's tokenizer is not one of these."""
        path = folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else None
        if tokenizer is None or tokenizer.token_to_id(BOUNDARY) != BOUNDARY_ID:
            raise CannotMake(
                f"{folder} has no vocabulary that a recipe of kind causal has made; "
                "of other models, one of kind finetune goes on with pairs"
            )
        self._tokenizer = tokenizer
        self.size = int(tokenizer.get_vocab_size())

    @property
    def words(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    @classmethod
    def train(cls, texts: Iterable[str], size: int, context: int, folder: Path) -> "BytePairs":
        """Learn it and write its files; the same texts give the same tokenizer."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[BOUNDARY],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOUNDARY} $A", special_tokens=[(BOUNDARY, BOUNDARY_ID)]
        )
        fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer,
            bos_token=BOUNDARY,
            eos_token=BOUNDARY,
            pad_token=BOUNDARY,
            unk_token=BOUNDARY,
            model_max_length=context,
            clean_up_tokenization_spaces=False,
        )
        fast.save_pretrained(folder)
        return cls(folder)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, with the boundary before it and none behind it: that is what a prompt looks like."""
        return [each.ids for each in self._tokenizer.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))
