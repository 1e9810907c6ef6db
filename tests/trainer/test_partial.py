"""The loss on what labels of other domains admit, for heads that an image has no labels of."""

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
