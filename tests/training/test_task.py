import dataclasses
from pathlib import Path

import pytest

from deepgsr_cli.ct.network import UNROLLED_PRESETS, Unrolled
from deepgsr_cli.mar.network import METAL_PRESETS, MetalReduction
from deepgsr_cli.models.deepgsr import PRESETS, DeepGSR, GroupBlock
from deepgsr_cli.phase.network import UNROLLED_PHASE_PRESETS, UnrolledPhase
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.task import preset_of


@pytest.mark.parametrize(
    ("network", "presets"),
    [
        (DeepGSR, PRESETS),
        (Unrolled, UNROLLED_PRESETS),
        (MetalReduction, METAL_PRESETS),
        (UnrolledPhase, UNROLLED_PHASE_PRESETS),
    ],
)
def test_a_run_without_groups_leaves_its_group_blocks_out_and_nothing_else(network, presets):
    config = TrainConfig(data=(Path(),), output=Path())

    def modules(**changes):
        return list(network(preset_of(dataclasses.replace(config, **changes), presets)).modules())

    whole, rest = modules(), modules(without_groups=True)
    groups = [module for module in whole if isinstance(module, GroupBlock)]
    assert groups
    assert len(rest) == len(whole) - sum(len(list(group.modules())) for group in groups)
    assert not any(isinstance(module, GroupBlock) for module in rest)
