import torch

from deepgsr_cli.pictures.dataset import with_more_contrast


def test_more_contrast_makes_parts_black_or_white_and_keeps_the_order_of_levels():
    clean = 0.05 + 0.9 * torch.rand(400, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    given = with_more_contrast(clean, torch.Generator().manual_seed(1))
    changed = (given != clean).flatten(1).any(1)
    assert 0.3 < changed.float().mean() < 0.45
    before, after = clean[changed].flatten(1), given[changed].flatten(1)
    assert after.min() == 0
    assert after.max() == 1
    for end in (0, 1):
        clipped = (after == end).float().mean(1)
        assert 0.2 < (clipped > 0).float().mean() < 0.9
        assert clipped.max() < 0.5
    ordered = after.gather(1, before.argsort(dim=1))
    assert (ordered.diff(dim=1) >= 0).all()
    # No level is stretched more than the least range is to all.
    inside = (after > 0) & (after < 1)
    for x, y, within in zip(before, after, inside):
        gain = (y[within].max() - y[within].min()) / (x[within].max() - x[within].min())
        assert 1 <= gain < 1.7
