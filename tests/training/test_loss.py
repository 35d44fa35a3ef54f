"""The fused loss says what torch's own says, and teaches the same."""

import pytest
import torch

from training.learning.loss import Taught, linear_cross_entropy

WORDS, WIDTH = 37, 16
IGNORED = 5


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # More rows than fit into one part.
    chance = torch.Generator().manual_seed(1)
    states = torch.randn(700, WIDTH, generator=chance, requires_grad=True)
    weight = torch.randn(WORDS, WIDTH, generator=chance, requires_grad=True)
    targets = torch.randint(0, WORDS, (700,), generator=chance)
    targets[::7] = IGNORED
    return states, weight, targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [IGNORED, -100])
def test_loss_and_gradients_are_those_of_torch(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor], smoothing: float, ignored: int
) -> None:
    states, weight, targets = case
    targets = targets.where(targets != IGNORED, ignored)
    expected = torch.nn.functional.cross_entropy(
        states @ weight.T, targets, ignore_index=ignored, label_smoothing=smoothing
    )
    wanted = torch.autograd.grad(3 * expected, (states, weight))

    loss = linear_cross_entropy(states, weight, targets, ignored, smoothing)

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for slope, want in zip(torch.autograd.grad(3 * loss, (states, weight)), wanted, strict=True):
        assert torch.allclose(slope, want, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_teachers_share_is_the_distance_to_it(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor], share: float, smoothing: float
) -> None:
    states, weight, targets = case
    chance = torch.Generator().manual_seed(2)
    taught = Taught(torch.randn(700, 8, generator=chance), torch.randn(WORDS, 8, generator=chance), share)
    logits, said = states @ weight.T, targets != IGNORED
    own = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing)
    distance = torch.nn.functional.kl_div(
        logits[said].log_softmax(1),
        (taught.states @ taught.weight.T)[said].log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    expected = (1 - share) * own + share * distance
    wanted = torch.autograd.grad(3 * expected, (states, weight))

    loss = linear_cross_entropy(states, weight, targets, IGNORED, smoothing, taught)

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for slope, want in zip(torch.autograd.grad(3 * loss, (states, weight)), wanted, strict=True):
        assert torch.allclose(slope, want, atol=1e-6)


def test_without_gradients_it_is_the_loss_alone(case: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    states, weight, targets = case

    with torch.inference_mode():
        loss = linear_cross_entropy(states, weight, targets, IGNORED)

    assert not loss.requires_grad
    assert float(loss) == pytest.approx(
        float(torch.nn.functional.cross_entropy(states @ weight.T, targets, ignore_index=IGNORED).detach()), rel=1e-5
    )


def test_what_predicts_nothing_has_no_loss() -> None:
    states, weight = torch.ones(3, WIDTH), torch.ones(WORDS, WIDTH)

    assert float(linear_cross_entropy(states, weight, torch.full((3,), IGNORED), IGNORED)) == 0
