"""What inputs are estimated to cost."""

from hypothesis import given
from hypothesis import strategies as st

from db.inputs import estimate_tokens, estimated_tokens


@given(st.text())
def test_estimates_are_positive_for_any_text(text: str) -> None:
    assert estimate_tokens(text) >= 1


def test_an_estimate_is_of_everything_the_input_holds() -> None:
    long, short = "x" * 400, "x"

    assert estimated_tokens({"texts": [long, short]}) == estimated_tokens({"text": long}) + estimate_tokens(short)
    assert estimated_tokens({"messages": [{"role": "user", "content": long}]}) > estimated_tokens({"text": long})
    assert estimated_tokens({"text": short, "request": {"system": long}}) == 1
