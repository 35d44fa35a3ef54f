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
    api_threads: int = Field(16, ge=1, le=1_000, description="requests an API process serves at once")
    api_processes: int = Field(1, ge=1, le=256, description="API processes gunicorn starts on this machine")
