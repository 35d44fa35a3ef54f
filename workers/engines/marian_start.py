"""What a Marian model's decoder starts from, read for CTranslate2 as transformers reads it.

In Marian that is nothing, a zero embedding; transformers has the padding's row for it, which conversions from Marian
set to zero. CTranslate2's converter takes that for granted, drops the row and starts from zero. But a model that was
trained further has learned another start: the row is tied to the output layer, which moves it. Without it the two
engines differ from the first token on.
"""

from typing import Any

from ctranslate2.converters.transformers import BartLoader, MarianMTLoader

# Low enough never to be chosen, and within half precision.
NEVER = -1e4


class MarianLoader(MarianMTLoader):  # type: ignore[misc]
    """The converter's own, unless the model starts from something."""

    def __call__(self, model: Any, tokenizer: Any) -> Any:
        start = model.get_input_embeddings().weight[model.config.decoder_start_token_id]
        loader = StartedLoader() if bool(start.any()) else MarianMTLoader()
        return loader(model, tokenizer)


class StartedLoader(MarianMTLoader):  # type: ignore[misc]
    """Keeps the start token and its embedding; the padding stays in the vocabulary, and is never said."""

    def get_model_spec(self, model: Any) -> Any:
        spec = super().get_model_spec(model)
        bias = model.final_logits_bias.detach().clone().squeeze(0)
        bias[model.config.pad_token_id] = NEVER
        spec.decoder.projection.bias = bias
        return spec

    def set_decoder(self, spec: Any, decoder: Any) -> None:
        super().set_decoder(spec, decoder)
        spec.start_from_zero_embedding = False

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        super().set_config(config, model, tokenizer)
        config.decoder_start_token = tokenizer.convert_ids_to_tokens(model.config.decoder_start_token_id)

    def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
        tokens: list[str] = BartLoader.get_vocabulary(self, model, tokenizer)
        return tokens

    def _remove_pad_weights(self, spec: Any) -> None:
        """It is the start."""
