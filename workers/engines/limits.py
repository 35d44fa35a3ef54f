"""How long inputs and outputs of a model may be, from its config, its tokenizer and its registry entry."""

from models.spec import ModelSpec, Task
from workers.engines.base import Limits, ModelUnavailable
from workers.engines.files import ModelFiles

# They have relative positions: nothing breaks beyond the length they were trained on, quality only fades.
UNBOUNDED = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})
POSITION_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
# Their positions begin behind the padding's number, so that there is room for fewer than the config says.
OFFSET = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text"})
# Tokenizers say 10^30 for "no limit".
SANE = 10_000_000
FALLBACK = 512


def find_limits(spec: ModelSpec, files: ModelFiles, tokenizer_limit: int | None = None, forced: int = 0) -> Limits:
    """The model's limits, lowered by the entry's. `forced` tokens begin every output and take room from it.

    ModelUnavailable if the entry asks for more than the model has positions for.
    """
    offset = next(iter(files.token_ids("pad_token_id")), 1) + 1 if files.model_type in OFFSET else 0
    known = [files.config[key] - offset for key in POSITION_KEYS if isinstance(files.config.get(key), int)]
    trained = [size for size in (tokenizer_limit, *known) if size is not None and 0 < size < SANE]
    usual = min(trained, default=FALLBACK)
    bound = SANE if files.model_type in UNBOUNDED or not known else known[0]
    if spec.task is Task.EMBEDDING:
        return Limits(_chosen(spec, "max_input_tokens", spec.max_input_tokens, usual, bound), max_output=0)
    if not files.is_encoder_decoder:
        context = _chosen(spec, "max_input_tokens", spec.max_input_tokens, usual, bound)
        longest = _chosen(spec, "max_output_tokens", spec.max_output_tokens, context - 1, context - 1)
        return Limits(max_input=context, max_output=longest, shared_context=True)
    usual_output = bound - forced if bound < SANE else usual
    return Limits(
        max_input=_chosen(spec, "max_input_tokens", spec.max_input_tokens, usual, bound),
        max_output=_chosen(spec, "max_output_tokens", spec.max_output_tokens, usual_output, bound - forced),
    )


def _chosen(spec: ModelSpec, key: str, wanted: int | None, usual: int, bound: int) -> int:
    if wanted is None:
        return usual
    if wanted > bound:
        raise ModelUnavailable(f"model {spec.name}: {key} is {wanted}, but the model has room for {bound} tokens")
    return wanted
