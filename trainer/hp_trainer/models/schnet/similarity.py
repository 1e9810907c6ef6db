"""How much the whole image looks like each class name."""

from __future__ import annotations

from torch import Tensor, nn

from hp_trainer.models.precision import without_autocast

SCALES: dict[str, float] = {"none": 1.0, "clip": 100.0}
"""Named factors on the cosine; 100 is the logit scale that CLIP's training ended at."""


class SimModule(nn.Module):
    """f_cls (N, D), f_txt (Z, D), both of unit rows → f_sim (N, Z), rows that sum to 1.

    Always in float32: cosines of 0.2 to 0.3 leave little to tell classes apart by.

    Source: SCHNet, Eq. (1).
    """

    def __init__(self, scale: float | str = "none") -> None:
        super().__init__()
        self.scale = SCALES[scale] if isinstance(scale, str) else float(scale)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        with without_autocast(image):
            cosine = image.float() @ text.float().T
            return (self.scale * cosine).softmax(-1)
