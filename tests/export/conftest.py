"""Networks, a checkpoint and a bundle that the tests of the exporter share."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hp_export import verify
from hp_export.write import ExportReport, export_bundle
from hp_sdk.domains import Domain, load_domain
from hp_trainer.checkpoint import (
    Checkpoint,
    describe_network,
    input_description,
    write_checkpoint,
)
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.training_model import SSTTraining

SIZE_HW = (64, 96)


class PlainNetwork(nn.Module):
    """What the exporter asks of a network and no more; traced in a second."""

    def __init__(self, classes: dict[str, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.heads = nn.ModuleDict({name: nn.Conv2d(6, z, 1) for name, z in classes.items()})

    def forward(self, image: Tensor, heads: Sequence[str] | None = None) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.conv(image)))
        return {name: self.heads[name](x) for name in heads or self.heads}


def randomise(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give every tensor values that matter: zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        else:
            tensor.add_(0.1 * noise)
    return network.eval()


@pytest.fixture(autouse=True)
def one_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge by ONNX Runtime alone; the export of the session asks OpenVINO, too."""
    monkeypatch.setattr(verify, "OTHER_RUNTIMES", ())


@pytest.fixture
def plain_network() -> nn.Module:
    return randomise(PlainNetwork({"pascal": 7, "cihp": 20}))


@pytest.fixture(scope="session")
def domains() -> tuple[Domain, ...]:
    return load_domain("pascal"), load_domain("cihp")


@pytest.fixture(scope="session")
def training(domains: tuple[Domain, ...]) -> SSTTraining:
    """A small SST with random weights in training mode, auxiliary modules around it."""
    torch.manual_seed(0)
    config = replace(PRESETS["sst-tiny"], encoder_strides=(32, 16), decoder_depths=(2, 1, 1))
    model = SSTTraining(SST(config, domains))
    randomise(model.net)
    return model.train()


@pytest.fixture(scope="session")
def checkpoint(training: SSTTraining) -> Checkpoint:
    family, config = describe_network(training.net)
    return Checkpoint(
        family=family,
        config=config,
        domains=training.net.domains,
        model={key: value.clone() for key, value in training.net.state_dict().items()},
        aux={key: value.clone() for key, value in training.aux.state_dict().items()},
        input=input_description(SIZE_HW),
        train={"step": 7, "optimizer": {"state": {0: {"exp_avg": torch.zeros(1000)}}}},
    )


@pytest.fixture(scope="session")
def checkpoint_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    write_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """One real export of the small SST; tests must not change its folder."""
    return export_bundle(checkpoint, tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture
def bundle_folder(exported: ExportReport, tmp_path: Path) -> Path:
    """A copy of the exported bundle that a test may damage."""
    return Path(shutil.copytree(exported.bundle.root, tmp_path / "copy"))
