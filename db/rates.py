"""How fast each model has lately been, for chunk sizes and estimates."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.bands import MAX_LOG_ERROR

# Weight of the newest chunk in the moving averages: about the last ten chunks count.
_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Rate:
    """`tokens_per_second` counts input tokens plus output tokens of one worker, on the device's clock."""

    tokens_per_second: float
    output_per_input: float


def measured(session: Session, model: str) -> Rate | None:
    row = session.execute(
        text("SELECT tokens_per_second, output_per_input FROM model_rates WHERE model = :model"), {"model": model}
    ).one_or_none()
    return Rate(*row) if row else None


def observe(
    session: Session, model: str, input_tokens: int, output_tokens: int, seconds: float, expected_tokens: int = 0
) -> None:
    """Fold one chunk's measurement into the averages; a chunk too small to say anything is left out.

    `expected_tokens` is what the chunk was estimated to have, of which the rate gave it a time; 0 if it was not run as
    a whole. How far off that time was is what bands are made of (db/bands.py).
    """
    if seconds <= 0 or input_tokens <= 0:
        return
    session.execute(
        text("""
            INSERT INTO model_rates (model, tokens_per_second, output_per_input) VALUES (:model, :rate, :ratio)
            ON CONFLICT (model) DO UPDATE SET updated_at = now(),
                tokens_per_second = (1 - :weight) * model_rates.tokens_per_second
                    + :weight * excluded.tokens_per_second,
                output_per_input = (1 - :weight) * model_rates.output_per_input + :weight * excluded.output_per_input,
                log_variance = CASE WHEN :expected = 0 THEN model_rates.log_variance ELSE
                    (1 - :weight) * model_rates.log_variance + :weight * power(greatest(-:most, least(:most, ln(
                        :seconds * model_rates.tokens_per_second / (:expected * (1 + model_rates.output_per_input))
                    ))), 2) END
        """),
        {
            "model": model,
            "rate": (input_tokens + output_tokens) / seconds,
            "ratio": output_tokens / input_tokens,
            "weight": _WEIGHT,
            "expected": expected_tokens,
            "seconds": seconds,
            "most": MAX_LOG_ERROR,
        },
    )
