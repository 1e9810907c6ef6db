"""What makes the losses cheaper on a CPU changes them as it says, or not at all."""

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_trainer.losses import lovasz_softmax
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.training_model import SSTTraining, take


@pytest.mark.parametrize("index", [[0], [2, 0], [1, 1, 3]])
def test_take_is_index_select_with_its_gradient(index: list[int]):
    images = torch.randn(4, 3, 2, 2, requires_grad=True)
    weight = torch.randn(len(index), 3, 2, 2)
    results = []
    for taken in (take(images.unbind(), torch.tensor(index)), images[index]):
        images.grad = None
        (taken * weight).sum().backward()
        assert images.grad is not None
        results.append((taken.detach(), images.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1])


def test_the_lovasz_term_can_look_at_some_logits_only():
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 7, (2, 64, 64))
    values = {}
    for weight, stride in ((1.0, 1), (1.0, 2), (0.0, 1)):
        torch.manual_seed(0)
        net = SST(PRESETS["sst-tiny"], [load_domain("pascal")])
        torch.nn.init.normal_(next(net.head("pascal").parameters()))
        model = SSTTraining(net, beta=0.0, lam=0.0, lovasz=weight, lovasz_stride=stride).eval()
        found = model.losses(images, {"pascal": (torch.arange(2), labels)})["seg.pascal"]
        values[weight, stride] = found.item()
        logits = net(images)["pascal"]
    wanted = lovasz_softmax(logits[:, :, 1::2, 1::2], labels[:, 6::8, 6::8]).item()
    assert values[1.0, 2] - values[0.0, 1] == pytest.approx(wanted, abs=1e-4)
    assert values[1.0, 1] != pytest.approx(values[1.0, 2], abs=1e-4)
