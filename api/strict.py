"""The base of everything a client may send: what is not known is refused, never ignored."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from db.inputs import check_text


class Strict(BaseModel):
    """`known` holds the field names of all subclasses, for a hint when somebody mistypes one."""

    model_config = ConfigDict(extra="forbid")
    known: ClassVar[set[str]] = set()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        Strict.known |= {field.alias or name for name, field in cls.model_fields.items()}


def _kept(text: str) -> str:
    for problem in check_text(text, ""):
        raise ValueError(f"{problem.message.strip()}; {problem.hint}")
    return text


# A text of the client's that is stored as it is; the database takes no NUL.
Kept = Annotated[str, AfterValidator(_kept)]
