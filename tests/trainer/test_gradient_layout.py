"""Gradients reach batch normalisation in the layout of its output, and stay what they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hp_trainer.gradient_layout import keep_gradient_layout

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


class Joined(nn.Module):
    """Batch normalisation whose output is joined with another map, as in the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        y = self.norm(image)
        if y.requires_grad:
            y.register_hook(self.seen.append)
        return torch.cat([image.square(), y], 1)


def gradient(model: Joined, image: Tensor) -> Tensor:
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    joined = model(image)
    weight = torch.linspace(-1, 1, joined.numel()).reshape(joined.shape)
    (joined * weight.contiguous(memory_format=torch.channels_last)).sum().backward()
    assert image.grad is not None
    return image.grad


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_takes_the_layout_of_the_output(layout: str) -> None:
    image = torch.randn(2, 4, 6, 5).contiguous(memory_format=LAYOUTS[layout])
    model = Joined()
    keep_gradient_layout(model)
    gradient(model, image)
    assert model.seen[0].is_contiguous(memory_format=LAYOUTS[layout])


def test_gradient_is_what_it_was() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 4, 6, 5)
    kept, plain = Joined(), Joined()
    keep_gradient_layout(kept)
    torch.testing.assert_close(gradient(kept, image), gradient(plain, image))


def test_nothing_is_watched_without_gradients() -> None:
    model = Joined()
    keep_gradient_layout(model)
    with torch.no_grad():
        assert not model(torch.randn(2, 4, 6, 5)).requires_grad
    assert model.seen == []
