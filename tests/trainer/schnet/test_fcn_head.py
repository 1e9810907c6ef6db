"""The auxiliary head of training."""

import torch

from hp_trainer.models.schnet.fcn_head import FCNHead


def test_the_head_gives_a_logit_per_class_at_the_size_of_its_map():
    head = FCNHead(16, 7, width=8).eval()
    assert head(torch.randn(2, 16, 4, 6)).shape == (2, 7, 4, 6)


def test_the_head_reads_the_first_map_of_the_network(tiny):
    net = tiny()
    middle, finest = net.features(torch.randn(1, 3, 64, 96))
    assert middle.shape == (1, net.config.width, 4, 6)
    assert finest.shape == (1, net.config.decoder_width, 16, 24)
    assert FCNHead(net.config.width, 7).eval()(middle).shape == (1, 7, 4, 6)


def test_the_network_that_ships_holds_no_auxiliary_head(tiny):
    assert not [name for name in tiny().state_dict() if "aux" in name or "classify" in name]
