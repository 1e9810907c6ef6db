"""What the tests of SCHNet share: the small network, weights that hide nothing, the large one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hp_sdk.domains import load_domain
from hp_trainer.models.schnet.schnet import PRESETS, SCHNet


def build_tiny(*names: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = replace(PRESETS["schnet-tiny"], **changes)
    return SCHNet(config, [load_domain(name) for name in names or ("pascal",)]).eval()


def perturb_weights(module: nn.Module, spread: float = 0.05) -> Any:
    """Move every weight, so that nothing that starts at zero hides an error."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Build `schnet-tiny` for some domains with changes to its configuration."""
    return build_tiny


@pytest.fixture(scope="session")
def perturb() -> Any:
    return perturb_weights


@pytest.fixture(scope="session")
def schnet_l() -> Any:
    """The full network for the 20 classes of CIHP, shapes only."""
    with torch.device("meta"):
        return SCHNet(PRESETS["schnet-l"], [load_domain("cihp")]).eval()
