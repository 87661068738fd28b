import torch

from deepgsr_cli.pictures.dataset import with_black_edges, with_more_contrast


def test_more_contrast_makes_parts_black_or_white_and_keeps_the_order_of_levels():
    clean = 0.05 + 0.9 * torch.rand(400, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    given = with_more_contrast(clean, torch.Generator().manual_seed(1))
    changed = (given != clean).flatten(1).any(1)
    assert 0.4 < changed.float().mean() < 0.55
    before, after = clean[changed].flatten(1), given[changed].flatten(1)
    assert after.min() == 0
    assert after.max() == 1
    for end in (0, 1):
        clipped = (after == end).float().mean(1)
        assert 0.2 < (clipped > 0).float().mean() < 0.9
        assert clipped.max() < 0.6
    ordered = after.gather(1, before.argsort(dim=1))
    assert (ordered.diff(dim=1) >= 0).all()
    # No level is stretched more than the least range is to all.
    inside = (after > 0) & (after < 1)
    for x, y, within in zip(before, after, inside):
        gain = (y[within].max() - y[within].min()) / (x[within].max() - x[within].min())
        assert 1 <= gain < 1.7


def test_contrast_of_some_pictures_is_stretched_in_each_channel_by_itself():
    levels = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    noise = torch.rand(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    given = with_more_contrast(levels + 0.1 * noise, torch.Generator().manual_seed(1))
    black = (given == 0).flatten(2).any(2)
    # The brightest channel is black in parts only where it is stretched by itself.
    assert 0.02 < black[:, 2].float().mean() < 0.2
    assert black[:, 0].float().mean() > 2 * black[:, 2].float().mean()


def test_black_edges_are_along_sides_and_three_pixels_wide_at_most():
    clean = 0.1 + 0.9 * torch.rand(400, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    given = with_black_edges(clean, torch.Generator().manual_seed(1))
    black = (given == 0).all(1)
    assert torch.equal(given, clean.masked_fill(black[:, None], 0))
    assert not black[:, 3:-3, 3:-3].any()
    assert 0.08 < black.flatten(1).any(1).float().mean() < 0.18
    middle = black[:, 8], black[:, :, 10]
    for line in middle:  # at each end whole lines of 0 to 3 pixels
        for end in (line[:, :3], line.flip(1)[:, :3]):
            assert (end.int().diff(dim=1) <= 0).all()
            assert set(end.sum(1).tolist()) == {0, 1, 2, 3}
