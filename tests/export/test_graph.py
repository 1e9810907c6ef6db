"""The module that is exported: normalisation inside, batch norms folded, the network untouched."""

import copy

import pytest
import torch
from torch import Tensor, nn

from hp_export.graph import HeadGraph, fold_batch_norm, output_name
from hp_export.strip import bare_network
from hp_trainer.checkpoint import Checkpoint
from hp_trainer.models.backbone import FrozenBatchNorm2d

MEAN, STD = (120.0, 110.0, 100.0), (50.0, 60.0, 70.0)


def batch_norms(network: nn.Module) -> list[str]:
    kinds = (nn.BatchNorm2d, FrozenBatchNorm2d)
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]


def perturbed(norm: nn.Module) -> nn.Module:
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + (0.5 if name == "running_var" else -0.5))
    return norm.eval()


def test_pixels_give_what_the_network_gives_for_the_normalised_image(
    plain_network: nn.Module,
) -> None:
    graph = HeadGraph(plain_network, ["cihp", "pascal"], mean=MEAN, std=STD)
    pixels = torch.randint(0, 256, (2, 32, 64, 3), dtype=torch.uint8)
    image = (pixels.permute(0, 3, 1, 2) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    expected = plain_network(image)
    cihp, pascal = graph(pixels)
    torch.testing.assert_close(cihp, expected["cihp"])
    torch.testing.assert_close(pascal, expected["pascal"])
    assert cihp.shape == (2, 20, 8, 16)


def test_channels_keep_their_order() -> None:
    class FirstChannel(nn.Module):
        def forward(self, image: Tensor, heads: tuple[str, ...]) -> dict[str, Tensor]:
            return {"red": image[:, :1]}

    graph = HeadGraph(FirstChannel(), ["red"], mean=(0, 0, 0), std=(1, 2, 2))
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    pixels[0, 1, 2] = torch.tensor([200, 100, 50], dtype=torch.uint8)
    (red,) = graph(pixels)
    assert red[0, 0, 1, 2] == 200
    assert red.sum() == 200


def test_logits_are_float32_whatever_the_network_computes_in() -> None:
    class Half(nn.Module):
        def forward(self, image: Tensor, heads: tuple[str, ...]) -> dict[str, Tensor]:
            return {"a": image.half()}

    (logits,) = HeadGraph(Half(), ["a"], mean=MEAN, std=STD)(torch.zeros(1, 4, 4, 3))
    assert logits.dtype == torch.float32


def test_output_tensors_are_named_after_their_domain() -> None:
    assert output_name("cihp") == "logits.cihp"


def test_folding_changes_logits_by_rounding_only(checkpoint: Checkpoint) -> None:
    network = bare_network(checkpoint)
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    folded = fold_batch_norm(network, image)
    with torch.inference_mode():
        expected, found = network(image), folded(image)
    for name in expected:
        assert (found[name] - expected[name]).abs().max() <= 1e-4


def test_folding_leaves_no_batch_norm_in_a_network_that_ships(checkpoint: Checkpoint) -> None:
    network = bare_network(checkpoint)
    assert len(batch_norms(network)) > 10
    assert batch_norms(fold_batch_norm(network, torch.zeros(1, 3, 64, 64))) == []


def test_folding_never_touches_the_network_given(plain_network: nn.Module) -> None:
    before = copy.deepcopy(plain_network.state_dict())
    fold_batch_norm(plain_network, torch.zeros(1, 3, 8, 8))
    after = plain_network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module._forward_hooks for module in plain_network.modules())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(5), FrozenBatchNorm2d(5)])
@pytest.mark.parametrize("bias", [True, False])
def test_both_kinds_of_batch_norm_fold_with_and_without_bias(norm: nn.Module, bias: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), perturbed(norm)).eval()
    image = torch.randn(2, 3, 9, 9)
    folded = fold_batch_norm(network, image)
    assert batch_norms(folded) == []
    torch.testing.assert_close(folded(image), network(image), rtol=1e-5, atol=1e-5)


def test_a_norm_that_follows_no_convolution_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), perturbed(nn.BatchNorm2d(5))).eval()
    image = torch.randn(1, 3, 9, 9)
    folded = fold_batch_norm(network, image)
    assert batch_norms(folded) == ["2"]
    assert torch.equal(folded(image), network(image))


def test_a_convolution_that_runs_twice_is_not_folded() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = perturbed(nn.BatchNorm2d(3))

        def forward(self, image: Tensor) -> Tensor:
            return self.norm(self.conv(self.conv(image)))

    network = Shared().eval()
    image = torch.randn(1, 3, 8, 8)
    folded = fold_batch_norm(network, image)
    assert batch_norms(folded) == ["norm"]
    assert torch.equal(folded(image), network(image))
