import pytest
import torch
from torch import nn

from kinema.families.latent_dit.hourglass import Hourglass
from kinema.nn.rotary import grid


def awake(module: Hourglass) -> Hourglass:
    """With weights where training starts from zeros, so that every part has a say."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


def run(module: Hourglass, x: torch.Tensor, height: int, width: int, **context: object) -> torch.Tensor:
    frames = x.shape[1] // (height * width)
    condition = torch.ones(len(x), frames, x.shape[2])
    return module(x, grid(frames, height, width), condition, frames, context.get("context"), height)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 2), (1, 1)])
def test_tokens_of_any_rows_and_columns_come_back(height: int, width: int) -> None:
    module = awake(Hourglass(12, 24, 3, 2, local_conv=True))
    assert run(module, torch.randn(2, 2 * height * width, 12), height, width).shape == (2, 2 * height * width, 12)


def test_merged_tokens_change_only_the_tokens_that_they_were_merged_of() -> None:
    module = awake(Hourglass(12, 24, 3, 2))
    given: list[torch.Tensor] = []
    module.last.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0].detach()))
    with torch.no_grad():
        module.split.weight.zero_()
        module.split.bias.copy_(torch.arange(48.0) // 12)  # a number for each of the four places
    x = torch.randn(1, 30, 12)  # 2 frames of 3 rows and 5 columns
    run(module, x, 3, 5)
    before = module.first(x, grid(2, 3, 5), torch.ones(1, 2, 12), 2, None, 3)
    added = (given[0] - before)[0, :, 0].reshape(2, 3, 5)
    places = torch.tensor([[0.0, 1, 0, 1, 0], [2, 3, 2, 3, 2], [0, 1, 0, 1, 0]])
    torch.testing.assert_close(added, places.expand(2, 3, 5))


def test_a_merged_token_is_of_its_own_tokens() -> None:
    module = awake(Hourglass(12, 24, 3, 2))
    given: list[torch.Tensor] = []
    module.first.register_forward_hook(lambda *_: x)  # as they are: attention would mix them
    module.merged.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0].detach()))
    x = torch.randn(1, 24, 12)  # 2 frames of 3 rows and 4 columns
    run(module, x, 3, 4)
    x = x.clone()
    x[0, 12 + 2 * 4 + 3] += 1  # the last token of the second frame
    run(module, x, 3, 4)
    changed = (given[0] != given[1]).any(2)[0].reshape(2, 2, 2)
    assert changed.nonzero().tolist() == [[1, 1, 1]]


def test_starts_as_its_first_and_last_block() -> None:
    torch.manual_seed(0)
    module = Hourglass(12, 24, 4, 2)
    x = torch.randn(2, 8, 12)
    places, condition = grid(2, 2, 2), torch.ones(2, 2, 12)
    expected = module.last(module.first(x, places, condition, 2, None, 2), places, condition, 2, None, 2)
    torch.testing.assert_close(run(module, x, 2, 2), expected)


def test_inner_blocks_attend_to_the_words() -> None:
    torch.manual_seed(0)
    module = awake(Hourglass(12, 24, 3, 2, cross_attention=True))
    nn.init.zeros_(module.first.blocks[0].cross.out.weight)  # pyright: ignore
    nn.init.zeros_(module.last.blocks[0].cross.out.weight)  # pyright: ignore
    x, mask = torch.randn(1, 4, 12), torch.ones(1, 3, dtype=torch.bool)
    one, other = (run(module, x, 2, 2, context=(torch.randn(1, 3, 12), mask)) for _ in range(2))
    assert not torch.allclose(one, other)


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="3 or more, not 2"):
        Hourglass(12, 24, 2, 2)
