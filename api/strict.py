"""The base of everything a client may send: what is not known is refused, never ignored."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """`known` holds the field names of all subclasses, for a hint when somebody mistypes one."""

    model_config = ConfigDict(extra="forbid")
    known: ClassVar[set[str]] = set()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        Strict.known |= {field.alias or name for name, field in cls.model_fields.items()}
