"""What a worker process counts and measures, by the names under which it is asked for.

Labels are names of models and fixed words: nothing of a tenant, a job or a text. Where a model is not known, as of
lines that were refused before any was chosen, its label is empty.
"""

from prometheus_client import Counter, Gauge, Histogram

from workers.engines.base import Tally

# From what an echo takes to what a job of millions does.
_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
NO_MODEL = ""

ITEMS = Counter("bushel_items", "Items that have their final outcome", ["model", "outcome"])
TOKENS = Counter("bushel_tokens", "Tokens of items that succeeded", ["model", "kind"])
REUSED = Counter("bushel_items_reused", "Items that took an output that was there already", ["model", "source"])
CHUNKS = Counter("bushel_chunks", "Chunks by what became of a worker's lease on them", ["model", "outcome"])
RETRIES = Counter("bushel_chunk_retries", "Claims of chunks that had been claimed before", ["model"])
STAGE = Histogram("bushel_stage_seconds", "What a chunk spends in each stage", ["stage", "model"], buckets=_BUCKETS)
STEP = Histogram("bushel_step_seconds", "What ingest and finalize take for a job", ["step"], buckets=_BUCKETS)
STEP_FAILURES = Counter("bushel_step_failures", "Ingests and finalizations that ended in an error", ["step"])
JOBS = Counter("bushel_jobs_ended", "Jobs by how they ended", ["status"])
BATCHES = Counter("bushel_batches", "Batches that engines ran", ["model"])
BATCH_PROMPTS = Counter("bushel_batch_prompts", "Prompts in those batches", ["model"])
BATCH_TOKENS = Counter("bushel_batch_tokens", "Tokens of those prompts", ["model"])
BATCH_PADDED = Counter("bushel_batch_padded_tokens", "The same with padding to the longest of the batch", ["model"])
BATCH_ROOM = Counter("bushel_batch_room_tokens", "Padded tokens that the batches could have had", ["model"])
HALVINGS = Counter("bushel_batch_halvings", "Times a device ran out of memory and its batches were halved", ["model"])
LEASES_EXPIRED = Counter(
    "bushel_leases_expired", "Leases that this process took back from workers that died or hung", ["model"]
)
LOADS = Counter("bushel_model_loads", "Models loaded, or not", ["model", "outcome"])
LOAD_SECONDS = Gauge("bushel_model_load_seconds", "What the latest load of a model took", ["model"])
DELIVERIES = Counter("bushel_webhook_deliveries", "Tries to deliver an event, by what came of it", ["outcome"])
DELIVERY = Histogram("bushel_webhook_delivery_seconds", "What a try to deliver took", buckets=_BUCKETS)
LOOP_FAILURES = Counter("bushel_loop_failures", "Rounds of a background loop that ended in an error", ["loop"])
LOOP_SUCCESS = Gauge(
    "bushel_loop_success_timestamp_seconds", "When a background loop last ended a round without one", ["loop"]
)


def count_batches(model: str, some: Tally) -> None:
    BATCHES.labels(model).inc(some.batches)
    BATCH_PROMPTS.labels(model).inc(some.prompts)
    BATCH_TOKENS.labels(model).inc(some.tokens)
    BATCH_PADDED.labels(model).inc(some.padded_tokens)
    BATCH_ROOM.labels(model).inc(some.room_tokens)
