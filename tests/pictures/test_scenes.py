from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.feature import match_template

from deepgsr_cli.pictures.scenes import SIDE, grains, structures

Kind = Callable[[Sequence[np.ndarray], np.random.Generator], np.ndarray]


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_of_a_scene_are_found_again_beside_themselves(channels: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (channels, 450, 450)).astype(np.uint8)
    likeness = []
    for seed in range(5):
        scene = structures([noise], np.random.default_rng(seed))[0].astype(float)
        scene = scene[SIDE // 2 - 100 : SIDE // 2 + 100, SIDE // 2 - 100 : SIDE // 2 + 100]
        found = match_template(scene, scene[92:108, 92:108])
        found[87:98, 87:98] = 0  # itself
        likeness.append(found.max())
    assert np.median(likeness) > 0.8


@pytest.mark.parametrize("channels", [1, 3])
def test_grains_are_some_pixels_wide(channels: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (channels, 450, 450)).astype(np.uint8)
    alike = []
    for seed in range(8):
        # The lower third, which is ground in every scene.
        ground = grains([noise], np.random.default_rng(seed))[0, SIDE * 2 // 3 :].astype(float)
        ground -= gaussian_filter(ground, 20)
        alike.append([(ground[:, :-d] * ground[:, d:]).mean() / (ground**2).mean() for d in (1, 20)])
    assert np.min(alike, axis=0)[0] > 0.3
    assert np.median(alike, axis=0)[1] < 0.1


@pytest.mark.parametrize("kind", [structures, grains])
def test_scenes_are_a_function_of_the_generator(kind: Kind) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (3, 70, 64)).astype(np.uint8)
    scenes = [kind([noise], np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(scene.shape == (3, SIDE, SIDE) and scene.dtype == np.uint8 for scene in scenes)
    assert np.array_equal(scenes[0], scenes[1])
    assert not np.array_equal(scenes[1], scenes[2])


@pytest.mark.parametrize("kind", [structures, grains])
def test_pictures_lend_their_colours(kind: Kind) -> None:
    red = [np.array([200, 10, 10], np.uint8)[:, None, None] * np.ones((1, 70, 70), np.uint8)]
    scene = kind(red, np.random.default_rng(0)).astype(int)
    lit = scene[0] > 60
    assert lit.mean() > 0.5
    assert np.abs(scene[1] - scene[0] / 20)[lit].max() <= 3
