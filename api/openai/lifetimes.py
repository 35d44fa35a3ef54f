"""How long a file is kept, as the OpenAI API's requests say it."""

from datetime import timedelta
from typing import Literal

from pydantic import ConfigDict, Field

from api.files import MAX_LIFETIME, MIN_LIFETIME
from api.strict import Strict


class ExpiresAfter(Strict):
    """How long a file is kept, from when it was made."""

    model_config = ConfigDict(strict=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_LIFETIME, le=MAX_LIFETIME)

    @property
    def lifetime(self) -> timedelta:
        return timedelta(seconds=self.seconds)
