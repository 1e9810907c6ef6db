"""T-41, T-43 and the network as a whole: order, shapes, what is frozen, what is kept in memory."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, HpError
from hp_trainer.models.schnet.schnet import PRESETS, SCHNet

SAM_ONLY = {"use_clip": False, "use_srm": False, "use_ftm": False}
ABLATION = {
    "CLIP": {"use_sam": False, "use_srm": False, "use_ftm": False},
    "SAM": SAM_ONLY,
    "CLIP+SAM+SRM": {"use_ftm": False},
    "CLIP+SAM+SRM+FTM": {},
}


def trace(net, image):
    """Names of the parts in the order they run."""
    calls, handles = [], []

    def note(label):
        return lambda _, inputs: calls.append(label(inputs))

    numbered = {
        "block": net.sam.blocks,
        "inject": net.adapter.injectors,
        "extract": net.adapter.extractors,
    }
    for name, parts in numbered.items():
        for i, part in enumerate(parts):
            handles.append(part.register_forward_pre_hook(note(lambda _, n=name, i=i: f"{n}{i}")))
    single = {
        "clip": net.clip,
        "patches": net.sam.patch_embed,
        "srm": net.srm[0],
        "prior": net.adapter.spatial_prior,
        "decoder": net.decoder,
        "head": net.heads["cihp"],
    }
    for name, part in single.items():
        handles.append(part.register_forward_pre_hook(note(lambda _, n=name: n)))
    handles.append(net.ftm.register_forward_pre_hook(note(lambda inputs: f"ftm{inputs[1]}")))
    with torch.no_grad():
        logits = net(image)
    for handle in handles:
        handle.remove()
    return calls, logits


@pytest.fixture(scope="session")
def full_run(schnet_l):
    """Order of the calls, logits and operations of the full network at 480x480, shapes only."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        calls, logits = trace(schnet_l, torch.empty(1, 3, 480, 480))
    return calls, logits, counter.get_flop_counts()


def test_the_parts_run_in_the_papers_order(full_run):
    expected = ["clip", "patches", "srm", "prior"]
    for stage in range(4):
        expected.append(f"inject{stage}")
        for layer in range(6 * stage, 6 * stage + 6):
            expected += [f"block{layer}", f"ftm{layer}"]
        expected += ["srm", f"extract{stage}"]
    assert full_run[0] == [*expected, "extract4", "extract5", "decoder", "head"]


@torch.no_grad()
def test_what_srm_makes_of_a_stage_is_what_comes_next_is_extracted_and_is_added(tiny, perturb):
    """T-41, the tensors themselves: f''_sv^s goes on, into the extractor and into map s."""
    net = perturb(tiny())
    made, injected, extracted, added = [], [], [], []
    net.srm[0].register_forward_hook(lambda _, __, y: made.append(y))
    for injector, extractor in zip(net.adapter.injectors, net.adapter.extractors, strict=False):
        injector.register_forward_pre_hook(lambda _, x: injected.append(x[0]))
        extractor.register_forward_pre_hook(lambda _, x: extracted.append(x[1]))
    fuse = net.adapter.fuse
    net.adapter.fuse = lambda fine, c, outputs, grid_hw: (
        added.extend(outputs) or fuse(fine, c, outputs, grid_hw)
    )
    net(torch.randn(1, 3, 64, 64))
    assert len(made) == 5
    for stage in range(4):
        assert torch.equal(injected[stage], made[stage])
        assert torch.equal(extracted[stage], made[stage + 1])
        assert torch.equal(added[stage], made[stage + 1])


def test_a_480_pixel_image_gives_logits_at_120(full_run):
    assert full_run[1]["cihp"].shape == (1, 20, 120, 120)


def test_the_full_network_costs_774_billion_multiply_accumulates(full_run):
    counts = full_run[2]
    billions = {
        name: sum(counts[key].values()) / 2e9
        for name, key in (
            ("all", "Global"),
            ("clip", "SCHNet.clip"),
            ("ftm", "SCHNet.ftm"),
            ("decoder", "SCHNet.decoder"),
        )
    }
    assert billions["all"] == pytest.approx(774, rel=0.005)
    assert billions["clip"] == pytest.approx(92.0, rel=0.005)
    assert billions["ftm"] == pytest.approx(42.3, rel=0.005)
    assert billions["decoder"] == pytest.approx(193.7, rel=0.005)


def test_the_full_network_trains_66_of_its_459_million_parameters(schnet_l):
    sizes = {True: 0, False: 0}
    for parameter in schnet_l.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    learns = 6_661_377 + 1_329_152 + 23_236_800 + 34_363_412 + 787_456
    assert sizes == {True: learns, False: 307_425_280 - 787_456 + 86_192_640}


def test_the_base_network_is_built_around_the_smaller_sam():
    with torch.device("meta"):
        net: Any = SCHNet(PRESETS["schnet-b"], [load_domain("atr")])
    size = sum(p.numel() for p in net.sam.parameters())
    assert size == 89_670_912 - 787_456  # the published image encoder without its neck


def test_the_tiny_network_is_tiny(tiny):
    assert sum(p.numel() for p in tiny().parameters()) < 3_000_000


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_logits_are_a_quarter_of_the_image(tiny, perturb, size):
    logits = perturb(tiny("pascal", "atr"))(torch.randn(2, 3, *size))
    h, w = size[0] // 4, size[1] // 4
    assert {name: tuple(x.shape) for name, x in logits.items()} == {
        "pascal": (2, 7, h, w),
        "atr": (2, 18, h, w),
    }


def test_a_size_that_is_no_multiple_of_32_is_refused_with_the_nearest_legal_one(tiny):
    with pytest.raises(ConfigError, match="64x96"):
        tiny()(torch.randn(1, 3, 60, 96))


def test_an_unknown_head_is_refused_by_name(tiny):
    with pytest.raises(HpError, match=r"lip.*pascal"):
        tiny()(torch.randn(1, 3, 32, 32), heads=["lip"])


@torch.no_grad()
def test_each_image_of_a_batch_is_parsed_alone(tiny, perturb):
    net = perturb(tiny())
    images = torch.randn(3, 3, 64, 64)
    alone = torch.cat([net(image[None])["pascal"] for image in images])
    torch.testing.assert_close(net(images)["pascal"], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_trunk_runs_once_for_all_domains_and_heads_do_not_disturb_each_other(tiny, perturb):
    net = perturb(tiny("pascal", "atr"))
    image, runs = torch.randn(1, 3, 32, 32), []
    net.sam.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    both = net(image)
    assert len(runs) == 1
    assert torch.equal(net(image, heads=["atr"])["atr"], both["atr"])


def test_each_domain_has_its_text_its_gate_and_its_class_layer(tiny):
    names = {name for name, _ in tiny("pascal", "atr").state_dict().items() if "atr" in name}
    assert names == {
        "text.atr",
        "srm.0.gate.atr.weight",
        "srm.0.gate.atr.bias",
        "heads.atr.weight",
        "heads.atr.bias",
    }


def test_the_zero_initialised_modules_leave_sam_alone_at_first(tiny):
    """With SRM, FTM and injectors at rest, the network is SAM under the adapter."""
    net, plain = tiny(), tiny(**SAM_ONLY)
    plain.load_state_dict(
        {k: v for k, v in net.state_dict().items() if k in plain.state_dict()}, strict=True
    )
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(image)["pascal"], plain(image)["pascal"])


@pytest.mark.parametrize("row", ABLATION)
def test_every_row_of_the_ablation_trains(tiny, perturb, row):
    net = perturb(tiny(**ABLATION[row])).train()
    logits = net(torch.randn(2, 3, 32, 32))["pascal"]
    logits.square().mean().backward()
    there = set(net.parts())
    assert ("clip" in there, "sam" in there) == ("CLIP" in row, "SAM" in row)
    assert ("srm" in there, "text" in there, "ftm" in there) == (
        "SRM" in row, "SRM" in row, "FTM" in row,
    )  # fmt: skip
    for parameter in net.adapter.parameters():
        assert parameter.grad is not None


@torch.no_grad()
def test_without_sam_the_injectors_reach_clips_blocks(tiny, perturb):
    net = perturb(tiny(**ABLATION["CLIP"]))
    image = torch.randn(1, 3, 64, 64)
    before = net.maps(image)
    for injector in net.adapter.injectors:
        injector.gamma.zero_()
    assert not torch.allclose(net.maps(image)[3], before[3], atol=1e-3)
    # at rest they leave CLIP alone: the last stage's tokens are CLIP's own
    tokens = []
    net.adapter.extractors[3].register_forward_pre_hook(lambda _, x: tokens.append(x[1]))
    net.maps(image)
    torch.testing.assert_close(tokens[0], net.clip(image).maps[3])


def test_training_mode_does_not_reach_the_frozen_encoders(tiny):
    net = tiny()
    assert net.train() is net
    assert net.training
    assert net.adapter.training
    assert net.decoder.training
    for encoder in (net.sam, net.clip):
        assert not any(module.training for module in encoder.modules())
    torch.nn.Sequential(net).train()  # as part of something larger
    assert not any(module.training for module in net.sam.modules())
    net.eval()
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize(
    "extra", [(), ("sam.pos_embed",), ("clip.conv1", "clip.positional_embedding")]
)
def test_what_learns_of_the_pretrained_encoders_is_a_setting(tiny, perturb, extra):
    net = perturb(tiny(trainable=("sam.patch_embed", *extra)))
    wanted = {"sam.patch_embed.proj.weight", "sam.patch_embed.proj.bias"}
    wanted |= {f"{name}.weight" if name.endswith("conv1") else name for name in extra}
    learns = {
        name
        for name, parameter in net.named_parameters()
        if parameter.requires_grad and name.startswith(("sam.", "clip."))
    }
    assert learns == wanted
    net(torch.randn(1, 3, 32, 32))["pascal"].square().mean().backward()
    for name in wanted:
        assert net.get_parameter(name).grad.abs().sum() > 0, name


def test_freezing_again_restores_the_split(tiny):
    net = tiny()
    split = {name: p.requires_grad for name, p in net.named_parameters()}
    net.requires_grad_(requires_grad=True)
    net.freeze()
    assert {name: p.requires_grad for name, p in net.named_parameters()} == split


def bytes_kept(net, image):
    """Bytes of activations that wait for the backward pass."""
    kept, weights = {}, {p.untyped_storage()._cdata for p in net.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (logits,) = net(image).values()
    return sum(s.nbytes() for key, s in kept.items() if key not in weights), logits


def test_freezing_saves_memory_and_recomputing_saves_more(tiny):
    image = torch.randn(2, 3, 64, 64)
    frozen, _ = bytes_kept(tiny().train(), image)
    unfrozen, _ = bytes_kept(tiny().requires_grad_(requires_grad=True).train(), image)
    recomputed, _ = bytes_kept(tiny(recompute=True).train(), image)
    assert frozen < 0.9 * unfrozen
    assert recomputed < 0.5 * frozen


@pytest.mark.parametrize(
    ("trainable", "gib"), [(("sam.patch_embed",), 3.77), (("sam", "clip"), 5.86)]
)
def test_what_the_large_network_keeps_of_a_480_pixel_image_for_the_backward_pass(trainable, gib):
    with torch.device("meta"):
        net: Any = SCHNet(replace(PRESETS["schnet-l"], trainable=trainable), [load_domain("cihp")])
        net.train().decoder.pyramid[0].eval()  # one value has no variance
        kept, _ = bytes_kept(net, torch.empty(1, 3, 480, 480))
    assert kept / 2**30 == pytest.approx(gib, rel=0.02)


def test_recomputing_gives_the_same_gradients(tiny, perturb):
    image, results = torch.randn(2, 3, 64, 64), []
    for recompute in (False, True):
        net = perturb(tiny(recompute=recompute)).train()
        torch.manual_seed(5)  # the same paths are dropped
        logits = net(image)["pascal"]
        logits.square().mean().backward()
        results.append((logits, {k: p.grad for k, p in net.named_parameters()}))
    (plain, gradients), (again, others) = results
    torch.testing.assert_close(again, plain)
    for name, gradient in gradients.items():
        assert (gradient is None) == (others[name] is None)
        if gradient is not None:
            torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_every_core_and_every_form_of_positions_gives_the_same_logits(tiny, perturb):
    image = torch.randn(1, 3, 64, 64)
    logits = []
    for deform, relpos in itertools.product(("grid_sample", "gather"), ("bias", "augmented")):
        net = perturb(tiny(deform=deform, sam_relpos=relpos))
        logits.append(net(image)["pascal"])
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"sim_scale": "clip"},
        {"clip_stats": "sam"},
        {"srm_clip_map": (-1, 0, 1, 2, 3)},
        {"pos_interp": "bilinear"},
        {"sam_window": 3},
        {"ftm_residual": "fprime"},
    ],
)
def test_each_reading_of_the_paper_changes_the_logits(tiny, perturb, changes):
    image = torch.randn(1, 3, 64, 96)
    ours, other = (perturb(tiny(**c), 0.1)(image)["pascal"] for c in ({}, changes))
    assert (ours - other).abs().max() > 1e-4


def test_the_network_survives_its_own_state(tiny, perturb):
    net, fresh = perturb(tiny("pascal", "atr")), tiny("pascal", "atr")
    fresh.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fresh(image)["atr"], net(image)["atr"])
