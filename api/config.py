"""Settings of the API process."""

from pydantic import Field

from db.config import Settings
from db.quotas import Limits


class APISettings(Settings):
    """What the API reads from the environment beside the shared settings."""

    allow_plain_http: bool = Field(
        False,
        description="listen on addresses that other machines reach, although without TLS keys travel in the clear",
    )
    max_upload_bytes: int = Field(2 * 2**30, ge=1, description="largest file that may be uploaded, in bytes")
    max_request_bytes: int = Field(16 * 2**20, ge=1_024, description="largest JSON body of a request, in bytes")
    max_inline_inputs: int = Field(10_000, ge=1, description="most inputs a request may carry; more go in a file")
    min_free_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="uploads and jobs are refused (507) that would leave the disk of the file store, or of "
        "the database of `bushel up`, less room than this",
    )
    header_seconds: float = Field(
        20, gt=0, description="a client whose request has no whole header after this long is cut off (408)"
    )
    body_seconds: float = Field(
        60,
        gt=0,
        description="a client whose request of up to 1 MiB is not whole after this long is cut off (408), whatever its "
        "pace; a larger body needs only keep that",
    )
    max_queued_tokens: int = Field(
        1_000_000_000,
        ge=1,
        description="most input tokens that may wait, of all tenants together; jobs beyond it are refused (429)",
    )
    upload_idle_seconds: float = Field(
        20,
        gt=0,
        description="a client that sends or takes nothing for this long is cut off, "
        "and one that stays below `BUSHEL_MIN_BYTES_PER_SECOND` over it",
    )
    min_bytes_per_second: float = Field(
        512, ge=0, description="slowest pace at which requests may come and answers be taken; 0: any, but not none"
    )
    max_transfers: int = Field(
        6,
        ge=1,
        le=1_000,
        description="uploads and downloads of more than 1 MiB that an API process serves at once, at most what "
        "`BUSHEL_SYNC_REQUESTS` and one for the rest leave of its threads; more are refused (503)",
    )
    max_open_jobs: int = Field(
        10_000, ge=1, description="most jobs a tenant may have open at once, batches included; more are refused (429)"
    )
    tenant_stored_bytes: int | None = Field(
        None, ge=0, description="most bytes of files, uploads and inline inputs a tenant may keep; default: any number"
    )
    tenant_requests_per_second: int | None = Field(
        None, ge=1, description="most requests a tenant may make in a second; default: any number"
    )
    sync_wait_seconds: float = Field(
        60, gt=0, le=3_600, description="longest a single request waits for its answer before it is cancelled (504)"
    )
    sync_requests: int = Field(
        8,
        ge=1,
        le=1_000,
        description="requests that may wait for workers at once in an API process, at most all but one of its threads; "
        "more are refused (429)",
    )
    metrics_public: bool = Field(
        False, description="answer GET /metrics without a key: where only Prometheus reaches the API"
    )
    max_streams: int = Field(
        256,
        ge=1,
        le=10_000,
        description="event streams that may be open at once in an API process, shared evenly between the tenants that "
        "want some; more are refused (429)",
    )
    api_threads: int = Field(16, ge=1, le=1_000, description="requests an API process serves at once")
    api_processes: int = Field(1, ge=1, le=256, description="API processes gunicorn starts on this machine")

    @property
    def quotas(self) -> Limits:
        """What tenants may have who have no quotas of their own."""
        return Limits(
            self.max_open_jobs,
            self.tenant_queued_items,
            self.tenant_queued_tokens,
            self.tenant_stored_bytes,
            self.tenant_requests_per_second,
        )
