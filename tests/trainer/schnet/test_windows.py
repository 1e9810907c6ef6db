"""A torch network reads a photo larger than its input as a bundle does: window by window."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hp_sdk.bundle import InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.parser import Parser
from hp_sdk.testing import FakeBackend, make_bundle
from hp_sdk.tta import TTA
from hp_trainer.checkpoint import (
    Checkpoint,
    describe_network,
    input_description,
    write_checkpoint,
)
from hp_trainer.evaluate import input_spec, network_predictor, open_predictor
from hp_trainer.models.sst import normalise
from hp_trainer.paperdolls import paper_doll
from hp_trainer.tta import NetworkTTA, TTAChoice

CIHP = load_domain("cihp")
SIZE = (64, 64)
VIEWS = {
    "plain": NetworkTTA(),
    "flip": NetworkTTA(flip=True, average="probs"),
    "the paper's": NetworkTTA(scales=(0.75, 1.0, 1.25, 1.5), flip=True, average="probs"),
}


@pytest.fixture(scope="module")
def net(tiny: Any, perturb: Any) -> Any:
    return perturb(tiny("cihp"))


def photo(height: int, width: int) -> np.ndarray:
    return np.asarray(paper_doll(np.random.default_rng(3), (height, width)).image)


def in_bundle(net: Any, folder: Path, resize: str, image: np.ndarray, tta: NetworkTTA) -> Any:
    """Labels by `Parser`, whose runtime is the torch network behind the bundle's one input size."""

    @torch.no_grad()
    def runtime(batch: Any, head: Any) -> Any:
        return net(normalise(torch.from_numpy(batch)), [head.domain.name])["cihp"].numpy()

    bundle = make_bundle(folder, size_hw=SIZE, resize=resize)
    bundle = replace(bundle, input=input_spec(input_description(SIZE, resize)))
    views = TTA(scales=tta.scales, flip=tta.flip, average=tta.average)
    return Parser(bundle, FakeBackend(bundle, runtime)).predict(image, tta=views).labels


@pytest.mark.parametrize("tta", VIEWS.values(), ids=list(VIEWS))
@pytest.mark.parametrize("size", [(64, 150), (130, 96)])
def test_checkpoint_and_bundle_give_the_same_labels_through_windows(net, tmp_path, size, tta):
    image = photo(*size)
    spec = input_spec(input_description(SIZE, "shortest-side"))

    labels = network_predictor(net, "cihp", spec, tta=tta)(image)

    bundled = in_bundle(net, tmp_path, "shortest-side", image, tta)
    assert len(np.unique(labels)) > 3
    # batches of another size round otherwise, and near-ties may fall either way
    assert (labels == bundled).mean() > 0.999
    whole = network_predictor(net, "cihp", replace(spec, resize="letterbox"), tta=tta)(image)
    assert (labels == whole).mean() < 0.99  # the policy is seen in the labels


def test_checkpoint_and_bundle_give_the_same_labels_of_a_letterboxed_photo(net, tmp_path):
    image = photo(64, 150)
    labels = network_predictor(net, "cihp", input_spec(input_description(SIZE)))(image)
    bundled = in_bundle(net, tmp_path, "letterbox", image, NetworkTTA())
    assert (labels == bundled).mean() > 0.999


def test_the_network_sees_windows_of_one_size_whatever_the_scale(net):
    seen = []
    handle = net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    spec = input_spec(input_description(SIZE, "shortest-side"))
    tta = NetworkTTA(scales=(1.0, 1.5), flip=True)
    network_predictor(net, "cihp", spec, tta=tta)(photo(64, 128))
    handle.remove()
    # 64x128: windows at columns 0, 32, 64; 96x192: at rows 0, 32 and columns 0, 32 ... 128
    assert seen == [(2, 3, 64, 64)] * (3 + 2 * 5)


def test_the_papers_windows_are_480_wide_and_320_apart():
    spec = input_spec(input_description((480, 480), "shortest-side"))
    assert spec == InputSpec(
        size_hw=(480, 480), resize="shortest-side", pad_value=0, stride_hw=(320, 320)
    )


def test_a_stride_of_the_checkpoint_holds_for_its_own_size_only(net, tmp_path: Path):
    family, config = describe_network(net)
    described = input_description(SIZE, "shortest-side") | {"stride_hw": [32, 64]}
    checkpoint = Checkpoint(family, config, (CIHP,), net.state_dict(), input=described)
    write_checkpoint(tmp_path / "a.pt", checkpoint)
    strides = {}
    for size in (None, (128, 128)):
        with open_predictor(str(tmp_path / "a.pt"), "cihp", size_hw=size) as predict:
            strides[size] = predict.protocol["stride_hw"]
    assert strides == {None: [32, 64], (128, 128): [64, 64]}


@pytest.mark.parametrize("name", ["ms+flip", "schnet+flip"])
def test_the_papers_views_are_four_scales_mirrored_and_their_probabilities(name: str):
    views = TTAChoice(name=name).for_network("schnet")
    assert sorted(views.scales) == [0.75, 1.0, 1.25, 1.5]
    assert (views.flip, views.average) == (True, "probs")
