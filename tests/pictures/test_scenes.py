import numpy as np
import pytest
from skimage.feature import match_template

from deepgsr_cli.pictures.scenes import SIDE, structures


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


def test_scenes_are_a_function_of_the_generator() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (3, 70, 64)).astype(np.uint8)
    scenes = [structures([noise], np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(scene.shape == (3, SIDE, SIDE) and scene.dtype == np.uint8 for scene in scenes)
    assert np.array_equal(scenes[0], scenes[1])
    assert not np.array_equal(scenes[1], scenes[2])


def test_pictures_lend_their_colours() -> None:
    red = [np.array([200, 10, 10], np.uint8)[:, None, None] * np.ones((1, 70, 70), np.uint8)]
    scene = structures(red, np.random.default_rng(0)).astype(int)
    lit = scene[0] > 60
    assert lit.mean() > 0.5
    assert np.abs(scene[1] - scene[0] / 20)[lit].max() <= 3
