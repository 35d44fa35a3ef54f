"""Settings of the API process."""

from pydantic import Field

from db.config import Settings


class APISettings(Settings):
    """What the API reads from the environment beside the shared settings."""

    max_upload_bytes: int = Field(2 * 2**30, ge=1, description="largest file that may be uploaded, in bytes")
    max_request_bytes: int = Field(16 * 2**20, ge=1_024, description="largest JSON body of a request, in bytes")
    max_inline_inputs: int = Field(10_000, ge=1, description="most inputs a request may carry; more go in a file")
    min_free_bytes: int = Field(
        512 * 2**20, ge=0, description="uploads and jobs are refused (507) while the file store has less room than this"
    )
    upload_idle_seconds: float = Field(
        30, gt=0, description="a client that sends nothing of its request for this long is cut off"
    )
    max_open_jobs: int = Field(
        10_000, ge=1, description="most jobs a tenant may have open at once, batches included; more are refused (429)"
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
    api_threads: int = Field(16, ge=1, le=1_000, description="requests an API process serves at once")
    api_processes: int = Field(1, ge=1, le=256, description="API processes gunicorn starts on this machine")
