"""Which published weights SCHNet starts from, as a section of the training configuration."""

from __future__ import annotations

from dataclasses import dataclass

from hp_sdk.errors import ConfigError

LABEL = "{label}"
"""Where a prompt takes the name of a class."""


@dataclass(frozen=True, slots=True)
class FoundationConfig:
    """Files of the two frozen encoders, and what CLIP is to read for each class.

    A file is a path, or `hf:<owner>/<repository>[/<file>]` with `download`.
    """

    sam: str = ""
    """Segment Anything (sam_vit_b, _l or _h): as published, of Hugging Face or timm."""
    clip: str = ""
    """CLIP with a ViT: OpenAI's archive or its state dict, of open_clip or Hugging Face."""
    text: str = ""
    """CLIP's text encoder, if it is not in the file of `clip`; or a file of text features made
    before (.npz)."""
    merges: str = ""
    """Byte-pair merges that the text encoder's tokens are made with: bpe_simple_vocab_16e6.txt.gz
    of OpenAI, or merges.txt of Hugging Face."""
    prompt: str | tuple[str, ...] = f"a photo of a {LABEL}"
    """What is said of a class; of several, the directions are averaged (A24)."""
    download: bool = False
    """Fetch what is named `hf:…`."""

    def __post_init__(self) -> None:
        for prompt in self.prompts or ("",):
            if LABEL not in prompt:
                raise ConfigError(
                    f"foundation.prompt is {prompt!r}; every prompt must say {LABEL} where the "
                    f'name of a class goes, as in "a photo of a {LABEL}"'
                )

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, one or several."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)
