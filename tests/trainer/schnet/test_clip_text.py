"""CLIP's text encoder computes what the published one does, and labels become its directions."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hp_sdk.domains import load_domain
from hp_sdk.errors import ModelError
from hp_trainer.clip_text import CLIPText, TextShape, text_shape
from hp_trainer.clip_tokenizer import CLIPTokenizer
from hp_trainer.label_features import embed_labels

SMALL = TextShape(vocabulary=540, context=20, width=128, depth=2, joint=48)
END = SMALL.vocabulary - 1


def random_encoder(seed: int = 0) -> CLIPText:
    torch.manual_seed(seed)
    encoder = CLIPText(SMALL).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def texts(*lengths: int) -> Tensor:
    """Ids with the end token, the highest, after so many others; then zeros."""
    ids = torch.randint(1, END, (len(lengths), SMALL.context))
    for row, length in zip(ids, lengths, strict=True):
        row[length] = END
        row[length + 1 :] = 0
    return ids


def reference(w: dict[str, Tensor], ids: Tensor, heads: int) -> Tensor:
    """The encoder in functions, one text at a time; a mask of -inf hides what comes later."""
    length, width = w["positional_embedding"].shape
    mask = torch.full((length, length), -torch.inf).triu(1)

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def attention(x: Tensor, name: str) -> Tensor:
        qkv = x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
        outputs = []
        heads_of = (part.split(width // heads, -1) for part in qkv.chunk(3, -1))
        for q, k, v in zip(*heads_of, strict=True):
            outputs.append((q @ k.T * (width // heads) ** -0.5 + mask).softmax(-1) @ v)
        return linear(torch.cat(outputs, -1), f"{name}.out_proj")

    found = []
    for row in ids:
        x = w["token_embedding.weight"][row] + w["positional_embedding"]
        for i in range(SMALL.depth):
            block = f"transformer.resblocks.{i}"
            x = x + attention(norm(x, f"{block}.ln_1"), f"{block}.attn")
            y = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            x = x + linear(y * torch.sigmoid(1.702 * y), f"{block}.mlp.c_proj")
        end = row.tolist().index(END)
        found.append(norm(x, "ln_final")[end] @ w["text_projection"])
    return torch.stack(found)


def test_the_encoder_agrees_with_a_plain_one():
    encoder, ids = random_encoder(), texts(3, 19, 1)
    with torch.no_grad():
        ours, theirs = encoder(ids), reference(encoder.state_dict(), ids, heads=2)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_what_follows_the_end_changes_nothing_and_what_precedes_it_does():
    encoder, ids = random_encoder(), texts(5, 5)
    ids[1] = ids[0]
    ids[1, 6:] = 7
    with torch.no_grad():
        same = encoder(ids)
        ids[1, 2] = ids[0, 2] % (END - 1) + 1
        other = encoder(ids)
        short = encoder(ids[:, :6])
    assert torch.equal(same[0], same[1])
    torch.testing.assert_close(short[0], same[0], atol=1e-5, rtol=0)
    assert (other[0] - other[1]).abs().max() > 1e-3


def test_the_full_encoder_has_the_published_size_and_names():
    with torch.device("meta"):
        encoder = CLIPText(TextShape())
    assert sum(p.numel() for p in encoder.parameters()) == 63_428_096
    assert len(encoder.state_dict()) == 149  # of the archive's 302; 152 are the image encoder's
    assert cast("Any", encoder.transformer.resblocks[0]).attn.heads == 8
    assert text_shape(encoder.state_dict()) == TextShape()


def test_the_sizes_of_an_encoder_are_read_from_its_weights():
    assert text_shape(CLIPText(SMALL).state_dict()) == SMALL


def test_weights_without_a_projection_are_refused():
    weights = CLIPText(SMALL).state_dict()
    del weights["text_projection"]
    weights["positional_embedding"] = torch.zeros(3)
    with pytest.raises(ModelError, match="no positional_embedding and no text_projection"):
        text_shape(weights)


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return CLIPTokenizer([(letter, "e</w>") for letter in alphabet])


def test_a_label_is_said_in_the_prompt_and_becomes_a_direction(tokenizer: CLIPTokenizer):
    domain = load_domain("pascal")
    encoder = random_encoder()
    features = embed_labels(encoder, tokenizer, domain, ["{label}"])
    assert features.shape == (7, SMALL.joint)
    assert domain.names[4] == "lower-arms"
    with torch.no_grad():
        arms = encoder(tokenizer.tokens(["lower arms"], SMALL.context))[0]
        background = encoder(tokenizer.tokens(["background"], SMALL.context))[0]
    torch.testing.assert_close(features[4], arms / arms.norm())
    torch.testing.assert_close(features[0], background / background.norm())


def test_the_directions_of_several_prompts_are_averaged(tokenizer: CLIPTokenizer):
    domain, encoder = load_domain("pascal"), random_encoder()
    prompts = ["{label}", "x {label}", "the {label}"]
    rows = [embed_labels(encoder, tokenizer, domain, [prompt]).numpy() for prompt in prompts]
    mean = np.mean(rows, 0)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    features = embed_labels(encoder, tokenizer, domain, prompts).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert np.abs(features - rows[0]).max() > 0.01
