"""What went wrong is left alone for a while, and then no longer."""

from workers.resting import Resting


def test_a_name_rests_for_its_time_and_longer_when_it_goes_wrong_again() -> None:
    now = [0.0]
    resting = Resting(10, lambda: now[0])
    resting.add("a")
    now[0] = 5
    resting.add("b")

    assert resting.names() == ["a", "b"]
    now[0] = 10
    assert resting.names() == ["b"]
    resting.add("b")
    now[0] = 19
    assert resting.names() == ["b"]
    now[0] = 20
    assert resting.names() == []
