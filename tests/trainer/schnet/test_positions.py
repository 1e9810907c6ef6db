"""Positions on another grid: absolute ones in two dimensions, relative ones along a line."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from hp_trainer.models.schnet.positions import gather_relative, resize_positions


def linear_resize(table, size):
    """Reference: half-pixel centres, borders repeated."""
    at = np.clip((np.arange(size) + 0.5) * len(table) / size - 0.5, 0, None)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, len(table) - 1)
    share = (at - below)[:, None]
    return (1 - share) * table[below] + share * table[above]


def test_a_table_that_fits_is_returned_itself():
    table = torch.randn(1, 4, 6, 8)
    assert resize_positions(table, (4, 6), "bicubic") is table


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_absolute_positions_are_resized_without_antialias(mode):
    table = torch.randn(1, 8, 8, 3)
    resized = resize_positions(table, (4, 6), mode)
    planes = table.permute(0, 3, 1, 2)
    options = {"size": (4, 6), "mode": mode, "align_corners": False}
    plain, smoothed = (
        functional.interpolate(planes, antialias=antialias, **options).permute(0, 2, 3, 1)
        for antialias in (False, True)
    )
    torch.testing.assert_close(resized, plain)
    assert (plain - smoothed).abs().max() > 0.1  # the choice matters


def test_rows_and_columns_keep_their_places():
    table = torch.zeros(1, 4, 4, 2)
    table[..., 0] = torch.arange(4.0)[:, None]  # row number
    table[..., 1] = torch.arange(4.0)  # column number
    resized = resize_positions(table, (2, 4), "bilinear")
    torch.testing.assert_close(resized[0, :, 0, 0], torch.tensor([0.5, 2.5]))
    torch.testing.assert_close(resized[0, 0, :, 1], torch.arange(4.0))


def test_entry_q_k_of_gathered_positions_is_the_table_at_q_minus_k():
    table = torch.arange(9.0)[:, None]  # offsets -4 ... 4
    gathered = gather_relative(table, 5)
    for q in range(5):
        for k in range(5):
            assert gathered[q, k, 0] == q - k + 4


@pytest.mark.parametrize("size", [3, 15, 30])
def test_a_table_of_another_length_is_interpolated_linearly(size):
    table = torch.randn(27, 4)
    gathered = gather_relative(table, size)
    assert gathered.shape == (size, size, 4)
    expected = linear_resize(table.numpy(), 2 * size - 1)
    line = torch.cat([gathered[0].flip(0), gathered[1:, 0]])  # offsets 1-size ... size-1
    np.testing.assert_allclose(line.numpy(), expected, atol=1e-5)


def test_gathered_positions_are_not_gathered_again():
    gathered = gather_relative(torch.randn(27, 4), 14)
    assert gather_relative(gathered, 14) is gathered
