"""T-22, T-23 and Eq. 12: the losses of universal training, against brute force."""

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.auxiliary import image_pairs
from hp_trainer.models.auxiliary.msa import predicted_regions
from hp_trainer.models.auxiliary.mse import associate
from hp_trainer.models.auxiliary.mst import scr
from hp_trainer.models.sst import SST, SSTConfig
from hp_trainer.priors import intra_matrix, static_cross
from hp_trainer.training_model import SSTTraining

TINY = SSTConfig(
    backbone="tiny", width=32, encoder_layers=1, encoder_heads=4, encoder_ffn=64,
    decoder_depths=(1, 1, 1), decoder_heads=4, decoder_window=4, drop_path=0.0,
)  # fmt: skip


def training(*names, **options) -> Any:  # a module whose children are looked up by name
    """A tiny training model whose heads predict a mix of classes."""
    torch.manual_seed(0)
    model: Any = SSTTraining(SST(TINY, [load_domain(name) for name in names]), **options)
    for head in model.net.heads.values():
        torch.nn.init.normal_(head.weight)
    return model.eval()


def batch(counts, *, size=64):
    """Images of the domains in turn, shuffled, and their labels with a padded border."""
    g = torch.Generator().manual_seed(5)
    total = sum(counts.values())
    images = torch.randn(total, 3, size, size, generator=g)
    order, labels = torch.randperm(total, generator=g), {}
    for name, count in counts.items():
        z = load_domain(name).num_classes
        coarse = torch.randint(z, (count, 1, size // 8, size // 8), generator=g).float()
        maps = F.interpolate(coarse, size=(size, size), mode="nearest")[:, 0].long()
        maps[:, :, size - 10 :] = 255
        labels[name] = (order[:count], maps)
        order = order[count:]
    return images, labels


def up(logits):
    return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)


def by_hand(model, images, labels, name):
    """Reference for one domain: its two losses, S_1..S_3 and X_0..X_3."""
    indices, maps = labels[name]
    features = [h[indices] for h in model.net.features(images)]
    logits = model.net.heads[name](features[-1])
    s = model.aux.msa[name](features, predicted_regions(logits, features, maps != 255))
    x = model.aux.mse[name](s)
    losses = []
    for prediction in (logits, associate(features[-1], x[-1])):
        chances = up(prediction).log_softmax(1)
        valid = maps != 255
        picked = chances.gather(1, maps.clamp(max=chances.shape[1] - 1)[:, None])[:, 0]
        losses.append(-picked[valid].mean())
    return (*losses, s, x)


def close(ours, theirs):
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=1e-4, rtol=1e-4)


# ---- T-23: pairs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "full", "progressive"),
    [
        (("cihp",), 0, 0),
        (("pascal", "atr", "cihp"), 3, 2),
        (("pascal", "atr", "cihp", "lip"), 6, 3),
    ],
)
def test_full_topology_joins_all_domains_and_progressive_a_chain(names, full, progressive):
    everyone = {frozenset(pair) for pair in itertools.combinations(names, 2)}
    pairs = training(*names, topology="full").pairs
    assert len(pairs) == full
    assert {frozenset(pair) for pair in pairs} == everyone
    chain = training(*names, topology="progressive").pairs
    assert len(chain) == progressive
    assert [frozenset(p) for p in chain] == [frozenset(p) for p in itertools.pairwise(names)]


@pytest.mark.parametrize("topology", ["full", "progressive"])
def test_the_pairs_do_not_depend_on_the_order_of_the_heads(topology):
    forward = training("pascal", "atr", "cihp", topology=topology).pairs
    assert training("cihp", "pascal", "atr", topology=topology).pairs == forward


def test_pairs_may_be_listed():
    model = training("pascal", "atr", "cihp", topology=[("pascal", "cihp")])
    assert model.pairs == (("pascal", "cihp"),)
    assert list(model.aux.mst) == ["pascal__cihp"]


@pytest.mark.parametrize("topology", ["ring", [("pascal", "lip")], [("pascal", "pascal")]])
def test_an_impossible_topology_is_refused(topology):
    with pytest.raises(ConfigError):
        training("pascal", "atr", topology=topology)


def test_each_module_holds_the_prior_of_its_domains():
    model = training("pascal", "atr", "cihp")
    for name in ("pascal", "atr", "cihp"):
        prior = torch.from_numpy(intra_matrix(load_domain(name)))
        assert torch.equal(model.aux.mse[name].m_intra, prior)
    for a, b in model.pairs:
        prior = torch.from_numpy(static_cross(load_domain(b), load_domain(a)))
        assert torch.equal(model.aux.mst[f"{a}__{b}"].m_static, prior)


def test_a_domain_of_the_users_own_trains_like_any_other():
    mine = Domain(name="mine", names=("background", "hat", "face"), edges=((1, 2),))
    torch.manual_seed(0)
    model = SSTTraining(SST(TINY, [load_domain("pascal"), mine]))
    images, labels = batch({"pascal": 1})
    labels["mine"] = (torch.tensor([0]), torch.randint(3, (1, 64, 64)))
    assert model.losses(images, labels)["total"].isfinite()


# ---- Eq. 12 ------------------------------------------------------------------------------------


@torch.no_grad()
def test_segmentation_and_auxiliary_losses_average_the_valid_pixels_of_their_domain():
    model, (images, labels) = training("pascal", "atr"), batch({"pascal": 2, "atr": 3})
    losses = model.losses(images, labels)
    for name in ("pascal", "atr"):
        seg, aux, _, _ = by_hand(model, images, labels, name)
        close(losses[f"seg.{name}"], seg)
        close(losses[f"aux.{name}"], aux)


@torch.no_grad()
def test_consistency_losses_equal_a_double_loop_over_the_images_of_two_domains():
    model, (images, labels) = training("pascal", "atr"), batch({"pascal": 2, "atr": 3})
    losses = model.losses(images, labels)
    ((a, b),) = model.pairs
    mst = model.aux.mst[f"{a}__{b}"]
    _, _, s_a, x_a = by_hand(model, images, labels, a)
    _, _, s_b, x_b = by_hand(model, images, labels, b)

    to_b, to_a = mst.map_dataset(x_a[0], x_b[0])
    close(losses[f"dataset.{a}__{b}"], scr(x_a[0], to_a) + scr(x_b[0], to_b))

    image = torch.zeros(())
    pairs = list(itertools.product(range(len(x_a[1])), range(len(x_b[1]))))
    assert len(pairs) == 6
    for (i, j), level in itertools.product(pairs, (1, 2, 3)):
        one_a, one_b = slice(i, i + 1), slice(j, j + 1)
        to_b, to_a = mst.map_image(
            level,
            (x_a[level][one_a], x_b[level][one_b]),
            (s_a[level - 1][one_a], s_b[level - 1][one_b]),
        )
        image += scr(x_a[level][i], to_a[0, 0]) + scr(x_b[level][j], to_b[0, 0])
    close(losses[f"img.{a}__{b}"], image / len(pairs))


@pytest.mark.parametrize("weights", [{}, {"alpha": 2.0, "beta": 3.0, "lam": 7.0}])
@torch.no_grad()
def test_the_total_weighs_the_three_kinds_of_loss(weights):
    model = training("pascal", "atr", "cihp", **weights)
    images, labels = batch({"pascal": 1, "atr": 1, "cihp": 2})
    losses = model.losses(images, labels)
    kinds = {"seg": 0.0, "aux": 0.0, "dataset": 0.0, "img": 0.0}
    for key, value in losses.items():
        if key != "total":
            kinds[key.partition(".")[0]] += value.item()
    alpha, beta, lam = (weights.get(k, d) for k, d in (("alpha", 10), ("beta", 1), ("lam", 5)))
    expected = alpha * kinds["seg"] + beta * kinds["aux"] + lam * (kinds["dataset"] + kinds["img"])
    assert losses["total"].item() == pytest.approx(expected, rel=1e-5)
    assert len(losses) == 1 + 3 + 3 + 3 + 3
    assert min(kinds.values()) > 0


@torch.no_grad()
def test_the_order_of_the_batch_does_not_change_the_losses():
    model, (images, labels) = training("pascal", "atr"), batch({"pascal": 2, "atr": 2})
    order = torch.tensor([2, 0, 3, 1])
    position = order.argsort()  # image i of the old batch is image position[i] of the new one
    moved = {
        name: (position[indices].flip(0), maps.flip(0)) for name, (indices, maps) in labels.items()
    }
    ours, theirs = model.losses(images, labels), model.losses(images[order], moved)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        close(theirs[key], value)


@torch.no_grad()
def test_ignored_pixels_change_no_loss():
    model, (images, labels) = training("pascal"), batch({"pascal": 2})
    before = model.losses(images, labels)["seg.pascal"]
    indices, maps = labels["pascal"]
    fewer = maps.clone()
    fewer[1] = 255  # the second image says nothing
    alone = model.losses(images[indices[:1]], {"pascal": (torch.tensor([0]), maps[:1])})
    after = model.losses(images, {"pascal": (indices, fewer)})["seg.pascal"]
    close(after, alone["seg.pascal"])
    assert not torch.isclose(before, after)


def test_a_domain_whose_pixels_are_all_ignored_adds_nothing_and_no_nan():
    model, (images, labels) = training("pascal", "atr"), batch({"pascal": 1, "atr": 1})
    labels["atr"] = (labels["atr"][0], torch.full_like(labels["atr"][1], 255))
    losses = model.losses(images, labels)
    assert losses["seg.atr"].item() == losses["aux.atr"].item() == 0.0
    losses["total"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# ---- gradients ---------------------------------------------------------------------------------


def gradients(model, prefix):
    return {
        name: 0.0 if p.grad is None else p.grad.abs().sum().item()
        for name, p in model.named_parameters()
        if name.startswith(prefix)
    }


def test_the_dataset_loss_trains_both_domains_when_only_one_is_in_the_batch():
    model, (images, labels) = training("pascal", "atr"), batch({"pascal": 2})
    losses = model.losses(images, labels)
    ((a, b),) = model.pairs
    assert float(losses.get(f"img.{a}__{b}", 0.0)) == 0.0
    assert float(losses.get("seg.atr", 0.0)) == float(losses.get("aux.atr", 0.0)) == 0.0
    losses[f"dataset.{a}__{b}"].backward()
    assert model.aux.mse["pascal"].x0.grad.abs().sum() > 0
    assert model.aux.mse["atr"].x0.grad.abs().sum() > 0
    mst = model.aux.mst[f"{a}__{b}"]
    for projections in (mst.q, mst.v):
        for linear in projections[0].values():
            assert linear.weight.grad.abs().sum() > 0


def test_every_parameter_learns_from_a_mixed_batch():
    model, (images, labels) = training("pascal", "atr").train(), batch({"pascal": 2, "atr": 2})
    model.losses(images, labels)["total"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    for prefix in ("net.backbone", "net.encoder", "net.decoder", "net.heads"):
        assert sum(gradients(model, prefix).values()) > 0
    for prefix in ("aux.msa", "aux.mse", "aux.mst"):
        assert all(v > 0 for k, v in gradients(model, prefix).items() if k.endswith("weight"))


def test_predicted_regions_pass_no_gradient_to_the_heads():
    model = training("pascal", "atr", alpha=0.0)
    model.losses(*batch({"pascal": 2, "atr": 2}))["total"].backward()
    assert set(gradients(model, "net.heads").values()) == {0.0}
    assert sum(gradients(model, "net.backbone").values()) > 0


def test_without_auxiliary_weights_only_the_network_learns():
    model = training("pascal", "atr", beta=0.0, lam=0.0)
    model.losses(*batch({"pascal": 1, "atr": 1}))["total"].backward()
    assert set(gradients(model, "aux").values()) <= {0.0}
    assert all(v > 0 for v in gradients(model, "net.heads").values())


@pytest.mark.parametrize(
    ("weights", "falling"),
    [({}, ("total", "seg", "dataset", "img")), ({"alpha": 0.0, "lam": 0.0}, ("total", "aux"))],
)
def test_a_few_steps_on_one_batch_lower_what_they_weigh_most(weights, falling):
    model = training("pascal", "atr", **weights).train()
    images, labels = batch({"pascal": 1, "atr": 1})
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(15):
        losses = model.losses(images, labels)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        history.append({key: value.item() for key, value in losses.items()})
    first, last = history[0], history[-1]
    watched = [key for key in first if key.partition(".")[0] in falling]
    assert len(watched) >= 3
    assert [key for key in watched if last[key] > 0.8 * first[key]] == []


# ---- options of the ambiguity register ---------------------------------------------------------


@torch.no_grad()
def test_random_pairs_are_as_many_as_the_larger_side_and_average_some_of_all_pairs():
    torch.manual_seed(3)
    i, j = image_pairs(2, 5, "random") or ([], [])
    assert len(i) == len(j) == 5
    assert max(i) < 2
    assert max(j) < 5
    images, labels = batch({"pascal": 2, "atr": 2})
    model = training("pascal", "atr", pairing="random")
    seen = {round(float(model.losses(images, labels)["img.pascal__atr"]), 5) for _ in range(8)}
    assert len(seen) > 1


@torch.no_grad()
def test_labels_give_the_regions_while_warming_up():
    images, labels = batch({"pascal": 2})
    by_prediction, by_label = training("pascal"), training("pascal", mask_source="gt")
    warm = by_prediction.losses(images, labels, warm_up=True)
    assert torch.equal(warm["aux.pascal"], by_label.losses(images, labels)["aux.pascal"])
    assert not torch.equal(warm["aux.pascal"], by_prediction.losses(images, labels)["aux.pascal"])


@torch.no_grad()
def test_each_consistency_can_be_switched_off():
    images, labels = batch({"pascal": 1, "atr": 1})
    kinds = {}
    for switch in ("scr_dataset", "scr_image"):
        losses = training("pascal", "atr", **{switch: False}).losses(images, labels)
        kinds[switch] = {key.partition(".")[0] for key in losses} & {"dataset", "img"}
    assert kinds == {"scr_dataset": {"img"}, "scr_image": {"dataset"}}


@torch.no_grad()
def test_absent_categories_can_be_left_out_of_the_consistency():
    images, labels = batch({"pascal": 2, "atr": 2})
    for name, (_, maps) in labels.items():
        maps[maps != 255] %= 2  # only two categories have pixels
        assert labels[name][1].max() == 255
    losses = [
        training("pascal", "atr", mask_source="gt", scr_skip_absent=skip).losses(images, labels)
        for skip in (False, True)
    ]
    assert losses[0]["img.pascal__atr"] != losses[1]["img.pascal__atr"]


@torch.no_grad()
def test_the_loss_of_a_domain_may_average_its_images_and_the_domains():
    images, labels = batch({"pascal": 2, "atr": 1})
    labels["pascal"][1][0, 8:] = 255  # one image says little
    by_pixel = training("pascal", "atr").losses(images, labels)
    by_image = training("pascal", "atr", seg_mean="images").losses(images, labels)
    index, maps = labels["pascal"]
    one_by_one = [
        training("pascal", "atr").losses(images, {"pascal": (index[i : i + 1], maps[i : i + 1])})
        for i in range(2)
    ]
    close(by_image["seg.pascal"], sum(float(each["seg.pascal"]) for each in one_by_one) / 2)
    assert not torch.isclose(by_image["seg.pascal"], by_pixel["seg.pascal"])
    summed = training("pascal", "atr", lam=0.0).losses(images, labels)["total"]
    averaged = training("pascal", "atr", lam=0.0, average_domains=True).losses(images, labels)
    close(averaged["total"], summed / 2)


@torch.no_grad()
def test_a_domain_may_weigh_more_than_the_others():
    images, labels = batch({"pascal": 1, "atr": 1})
    plain = training("pascal", "atr").losses(images, labels)
    heavy = training("pascal", "atr", domain_weights={"pascal": 3.0}).losses(images, labels)
    more = 2 * (10 * plain["seg.pascal"] + plain["aux.pascal"])
    close(heavy["total"], plain["total"] + more)
    with pytest.raises(ConfigError, match="'lip'"):
        training("pascal", "atr", domain_weights={"lip": 2.0})


def test_one_projection_for_all_scales_is_smaller():
    sizes = [
        sum(p.numel() for p in training("pascal", share_w=share).aux.parameters())
        for share in (False, True)
    ]
    projections = 2 * 32 * 32 + 3 * (32 * 32 + 32)  # W_s, f_Q, f_K, f_V
    assert sizes[0] - sizes[1] == 2 * projections


@pytest.mark.parametrize("key", ["pairing", "scr_stop", "seg_mean", "mask_source", "intra_mask"])
def test_an_unknown_choice_is_refused_by_its_key(key):
    with pytest.raises(ConfigError, match=f"aux.{key} is 'nonsense'"):
        training("pascal", **{key: "nonsense"})


def test_word_vectors_from_a_file_replace_the_static_prior(tmp_path):
    words = sorted(
        {w for n in ("pascal", "atr") for name in load_domain(n).names for w in name.split("-")}
    )
    lines = [f"{word} {i % 3} {i % 5} 1" for i, word in enumerate(words)]
    (tmp_path / "vectors.txt").write_text("\n".join(lines), "utf-8")
    path = str(tmp_path / "vectors.txt")
    model = training("pascal", "atr", embeddings=path)
    expected = static_cross(load_domain("atr"), load_domain("pascal"), embeddings=path)
    assert torch.equal(model.aux.mst["pascal__atr"].m_static, torch.from_numpy(expected))
