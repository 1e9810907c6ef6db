"""The loss on what labels of other domains admit, where a head's own leave pixels undecided."""

import torch
from torch.nn import functional as F

from hp_sdk.domains import admissible, load_domain
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.training_model import SSTTraining

NAMES = ("pascal", "ccp", "cihp")


def test_what_two_domains_say_of_an_image_is_averaged_over_all_their_pixels():
    """Photographs labelled in body parts, and in tags where their skin shows."""
    torch.manual_seed(0)
    net = SST(PRESETS["sst-tiny"], [load_domain(name) for name in NAMES])
    model = SSTTraining(net, beta=0.0, lam=0.0, partial=0.5).eval()
    images, both = torch.randn(2, 3, 64, 64), torch.arange(2)
    parts = torch.randint(7, (2, 64, 64))
    parts[:, :, 54:] = 255
    tags = torch.full_like(parts, 255)
    tags[:, 16:40, 8:24] = load_domain("ccp").index("skin")
    labels = {"pascal": (both, parts), "ccp": (both, tags)}
    logits = F.interpolate(net(images)["cihp"], scale_factor=4, mode="bilinear")
    chances, total, count = logits.softmax(1), torch.zeros(()), 0
    for source, (_, maps) in labels.items():
        for label, allowed in enumerate(admissible(source, "cihp") or ()):
            where = maps == label
            if allowed:
                total = total - chances[:, list(allowed)].sum(1)[where].log().sum()
                count += int(where.sum())
    found = model.losses(images, labels)["partial.cihp"]
    torch.testing.assert_close(found, total / count, atol=1e-4, rtol=1e-4)


def test_where_an_image_has_labels_of_its_own_others_speak_of_what_these_leave_undecided():
    """A photograph labelled in body parts whose arms are also known by their side."""
    torch.manual_seed(0)
    net = SST(PRESETS["sst-tiny"], [load_domain(name) for name in NAMES])
    model = SSTTraining(net, beta=0.0, lam=0.0, partial=0.5).eval()
    images, parts = torch.randn(2, 3, 64, 64), torch.randint(7, (2, 64, 64))
    sides = torch.full((1, 64, 64), 255)
    sides[:, 16:40, 8:24] = load_domain("cihp").index("left-arm")

    labels = {"pascal": (torch.arange(2), parts), "cihp": (torch.tensor([1]), sides)}
    found = model.losses(images, labels)["partial.cihp"]
    parts = parts.clone()
    parts[1, 16:40, 8:24] = 255
    masked = model.losses(images, {"pascal": (torch.arange(2), parts)})["partial.cihp"]
    torch.testing.assert_close(found, masked)
    sides[:] = load_domain("cihp").index("left-arm")
    found = model.losses(images, labels)["partial.cihp"]
    first = model.losses(images[:1], {"pascal": (torch.arange(1), parts[:1])})["partial.cihp"]
    torch.testing.assert_close(found, first, atol=1e-4, rtol=1e-4)
