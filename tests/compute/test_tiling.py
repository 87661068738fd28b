"""Tiles cover, agree on the model's grid, and leave no trace in the result."""

import functools
import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepgsr_cli.compute import tiling
from deepgsr_cli.compute.levels import to_floats
from deepgsr_cli.compute.tiling import (
    Preparation,
    TileNeeds,
    Tiles,
    apply_tiled,
    blend_spans,
    choose_tile,
    default_overlap,
)
from deepgsr_cli.errors import OptionError, UserError

SIZES = [(37, 53), (300, 211), (1, 97), (97, 1), (64, 64)]
NEEDS = TileNeeds(grid=8, halo=6)
OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


def random_image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def tiled(function, image, tile=40, overlap=16, needs=NEEDS, batch=1, prepare=None, **options):
    tiles = Tiles(tile, overlap, needs, batch, prepare)
    return apply_tiled(function, image, tiles, device="cpu", **options)


def identity(x):
    return x


def conv_net(channels):
    """Two 5 x 5 and one 3 x 3 convolution: radius 5, with a bias so that zero padding shows."""
    generator = torch.Generator().manual_seed(1)
    kernels = [torch.randn(channels, channels, k, k, generator=generator) / k for k in (5, 5, 3)]

    def function(x):
        for kernel in kernels:
            x = F.relu(F.conv2d(x, kernel, bias=x.new_full((channels,), 0.3), padding=kernel.shape[-1] // 2))
        return x

    return function


def enlarged(function, scale):
    """The function, and each of its pixels as a square whose pixels all differ."""
    steps = torch.arange(float(scale * scale)).view(scale, scale)

    def enlarge(x):
        y = function(x)
        return y.repeat_interleave(scale, -2).repeat_interleave(scale, -1) + steps.repeat(y.shape[-2:])

    return enlarge


def pooled(x):
    """Each pixel's distance from its cell's mean; cells of 8 x 8, the last filled up by the last pixel."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
    return x - F.avg_pool2d(padded, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)[..., :height, :width]


def checkered(x):
    """Adds a pattern of period 8 that starts at the tile's own corner."""
    rows, columns = torch.arange(x.shape[-2]) % 8, torch.arange(x.shape[-1]) % 8
    return x + torch.outer(rows.float(), columns.float()) + rows[:, None]


class Scarce:
    """A function that runs out of memory above `limit` pixels, or at the calls numbered in `at`."""

    def __init__(self, function, error, limit=10**9, at=()):
        self.function, self.error, self.limit, self.at, self.calls = function, error, limit, at, 0

    def __call__(self, x):
        self.calls += 1
        if x.shape[0] * x[0, 0].numel() > self.limit or self.calls in self.at:
            raise self.error
        return self.function(x)


each_scale = pytest.mark.parametrize("scale", [1, 2, 3])

# The spans of a length are asked for by two tests.
spans_of = functools.cache(blend_spans)

COMBINATIONS = [
    (16, 4, 0, 1),
    (16, 0, 0, 8),
    (17, 5, 2, 1),
    (24, 16, 6, 4),
    (40, 16, 8, 8),
    (45, 13, 6, 8),
    (40, 30, 3, 2),
    (64, 32, 12, 32),
    (100, 99, 7, 1),
]


@pytest.mark.parametrize(("tile", "overlap", "halo", "grid"), COMBINATIONS)
def test_weights_sum_to_one_at_every_pixel_of_every_length(tile, overlap, halo, grid):
    for length in range(1, 301):
        total = np.zeros(length, np.float32)
        for span in spans_of(length, tile, overlap, halo, grid):
            weights = span.weights.numpy()
            assert weights.shape == (span.stop - span.start,)
            assert weights.min() >= 0
            total[span.start : span.stop] += weights
        assert np.abs(total - 1).max() <= 2e-7


@pytest.mark.parametrize(("tile", "overlap", "halo", "grid"), COMBINATIONS)
def test_spans_keep_to_grid_tile_overlap_and_halo(tile, overlap, halo, grid):
    for length in range(1, 301):
        spans = spans_of(length, tile, overlap, halo, grid)
        assert spans[0].start == 0
        assert spans[-1].stop == length
        assert all(span.start % grid == 0 and span.stop - span.start <= tile for span in spans)
        assert len({span.stop - span.start for span in spans[:-1]}) <= 1
        for left, right in itertools.pairwise(spans):
            assert left.start < right.start
            assert left.stop % grid == 0
            assert left.stop < right.stop
            assert left.stop - right.start >= overlap
            assert not left.weights.numpy()[len(left.weights) - halo :].any()
            assert not right.weights.numpy()[:halo].any()


def test_weights_are_a_linear_ramp_between_the_halos():
    left, right = blend_spans(length=44, tile=28, overlap=12, halo=4, grid=4)
    assert (left.start, left.stop, right.start, right.stop) == (0, 28, 16, 44)
    ramp = torch.tensor([0.125, 0.375, 0.625, 0.875])
    torch.testing.assert_close(right.weights[:12], torch.cat((torch.zeros(4), ramp, torch.ones(4))))
    torch.testing.assert_close(left.weights[16:], torch.cat((torch.ones(4), 1 - ramp, torch.zeros(4))))


@pytest.mark.parametrize(("tile", "overlap"), [(64, 8), (24, 16), (5, 16)])
def test_tiles_that_cannot_blend_are_refused_with_values_that_can(tile, overlap):
    with pytest.raises(OptionError) as caught:
        blend_spans(200, tile, overlap, halo=6, grid=16)
    assert (caught.value.option, caught.value.value) == (("overlap", 8) if overlap == 8 else ("tile", tile))
    option, value = re.search(r"give (\w+)=(\d+)", str(caught.value)).groups()
    blend_spans(200, **({"tile": tile, "overlap": overlap} | {option: int(value)}), halo=6, grid=16)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@each_scale
def test_identity_gives_the_image_back(height, width, channels, scale):
    image = random_image(channels, height, width)
    function = enlarged(identity, scale)
    torch.testing.assert_close(tiled(function, image), function(image[None])[0], rtol=0, atol=1e-6)


def test_identity_is_exact_where_one_tile_contributes():
    image = random_image(3, 101, 83)
    alone = torch.ones(101, 83, dtype=torch.bool)
    for axis, length in enumerate(alone.shape):
        for span in blend_spans(length, 40, 16, NEEDS.halo, NEEDS.grid):
            shared = torch.arange(span.start, span.stop)[(span.weights > 0) & (span.weights < 1)]
            alone.index_fill_(axis, shared, False)
    assert 0.1 < alone.float().mean() < 0.9
    assert torch.equal(tiled(identity, image)[:, alone], image[:, alone])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [12, 16, 30])
@each_scale
def test_a_net_of_radius_within_the_halo_gives_the_same_tiled_and_whole(height, width, overlap, scale):
    image, net = random_image(3, height, width), enlarged(conv_net(3), scale)
    torch.testing.assert_close(tiled(net, image, 48, overlap), net(image[None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("function", [pooled, checkered])
@pytest.mark.parametrize("tile", [24, 45])
@each_scale
def test_a_function_of_the_grid_phase_gives_the_same_tiled_and_whole(height, width, function, tile, scale):
    image, needs = random_image(1, height, width), TileNeeds(grid=8, halo=0)
    function = enlarged(function, scale)
    whole = function(image[None])[0]
    torch.testing.assert_close(tiled(function, image, tile, 8, needs), whole, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("tile", [0, 64, 300])
def test_a_tile_as_large_as_the_image_gives_the_functions_own_result_in_one_call(tile):
    calls = []

    def recorded(x):
        calls.append(x.shape)
        return net(x)

    image, net = random_image(1, 37, 61), conv_net(1)
    assert torch.equal(tiled(recorded, image, tile), net(image[None])[0])
    assert calls == [(1, 1, 37, 61)]


def test_a_result_of_another_scale_goes_into_the_array_given():
    image, function = random_image(3, 101, 83), enlarged(conv_net(3), 2)
    out = torch.full((3, 202, 166), torch.nan)
    assert tiled(function, image, out=out) is out
    torch.testing.assert_close(out, function(image[None])[0], rtol=1e-5, atol=1e-5)


def test_the_function_may_change_the_number_of_channels():
    image = random_image(1, 100, 75)
    result = tiled(lambda x: torch.cat((x, 2 * x, 1 - x), dim=1), image)
    torch.testing.assert_close(result, torch.cat((image, 2 * image, 1 - image)), rtol=0, atol=1e-6)


def test_batches_hold_equal_tiles_up_to_their_number_and_change_nothing():
    shapes = []

    def recorded(x):
        shapes.append(x.shape)
        return net(x)

    image, net = random_image(3, 101, 211), conv_net(3)
    one = tiled(net, image)
    torch.testing.assert_close(tiled(recorded, image, batch=4), one, rtol=1e-5, atol=1e-6)
    assert max(shape[0] for shape in shapes) == 4
    assert max(shape[2:] for shape in shapes) <= (40, 40)
    torch.testing.assert_close(tiled(net, image, batch=10**20), one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overlap", [12, 30])
def test_in_place_equals_out_of_place(overlap):
    image, net = random_image(3, 207, 101), conv_net(3)
    expected = tiled(net, image, 48, overlap)
    result = tiled(net, image, 48, overlap, out=image)
    assert result is image
    assert torch.equal(result, expected)


def allocated(run):
    """Most bytes that torch has taken at once in a run, beyond those it had."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as it:
        run()
    changes = [event for event in it.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in changes))


@pytest.mark.parametrize("prepare", [None, Preparation(lambda rows: rows + 1, 8, 3)])
def test_what_is_held_of_a_row_of_tiles_is_of_the_type_of_the_result_and_what_two_share(prepare):
    image = (255 * random_image(3, 300, 16000)).to(torch.uint8)
    tile, overlap, halo = 128, 16, 6
    most = allocated(lambda: tiled(lambda x: x[:, :3] / 2, image, tile, overlap, prepare=prepare, out=image))
    row, tiles = 4 * 3 * tile * 16000, 20 * 4 * 3 * tile**2
    # Finished rows in whole numbers, and two shares as floats, without what is all halo.
    held = 3 * (tile - overlap) * 16000 + 2 * 4 * 3 * (overlap - halo) * 16000
    assert held < most < held + tiles < 0.6 * row


@pytest.mark.parametrize("at", [{3}, {8}, {4, 9, 16}])
def test_out_of_memory_halfway_keeps_whole_numbers_that_are_restored_in_place(at):
    image, net = (255 * random_image(1, 500, 210)).to(torch.uint8), conv_net(1)
    expected = tiled(net, image, 160, out=torch.empty_like(image))
    same = torch.from_numpy(image.numpy())  # memory under another name
    tiled(Scarce(net, OUT_OF_MEMORY[0], at=at), image, 160, out=same)
    assert (image.int() - expected.int()).abs().max() <= 1


def test_a_memory_mapped_file_is_restored_in_place(tmp_path):
    image = random_image(1, 120, 77)
    mapped = np.memmap(tmp_path / "image", np.float32, "w+", shape=image.shape)
    mapped[:] = image.numpy()
    pixels = torch.from_numpy(mapped)
    tiled(checkered, pixels, out=pixels)
    mapped.flush()
    stored = np.fromfile(tmp_path / "image", np.float32).reshape(image.shape)
    torch.testing.assert_close(torch.from_numpy(stored), checkered(image[None])[0], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_batch_first_and_says_so_once(error):
    image, net, said = random_image(1, 101, 211), conv_net(1), []
    scarce = Scarce(net, error, limit=2 * 40 * 40)
    result = tiled(scarce, image, batch=4, notify=said.append)
    torch.testing.assert_close(result, net(image[None])[0], rtol=1e-5, atol=1e-5)
    assert len(said) == 1
    assert "--tile 40 --batch 2" in said[0]


@pytest.mark.parametrize("tile", [0, 160])
@each_scale
def test_out_of_memory_then_halves_the_tile_until_it_fits(tile, scale):
    image, net, said = random_image(1, 301, 211), enlarged(conv_net(1), scale), []
    scarce = Scarce(net, OUT_OF_MEMORY[0], limit=80 * 80)
    result = tiled(scarce, image, tile, batch=2, notify=said.append)
    torch.testing.assert_close(result, net(image[None])[0], rtol=1e-5, atol=1e-5)
    assert result.shape == (1, scale * 301, scale * 211)
    assert len(said) == 1
    assert int(re.search(r"--tile (\d+) --batch 1", said[0])[1]) <= 80


def test_a_tile_or_batch_beyond_the_image_is_not_what_is_halved():
    image = random_image(1, 301, 211)
    from_whole, from_larger = (Scarce(identity, OUT_OF_MEMORY[0], limit=160 * 160) for _ in range(2))
    tiled(from_whole, image, tile=0)
    tiled(from_larger, image, tile=5000, batch=64)
    assert from_larger.calls == from_whole.calls


@pytest.mark.parametrize("at", [{1}, {3}, {8}, {4, 5}, {4, 9, 16}, {3, 20, 21}])
def test_out_of_memory_halfway_keeps_the_rows_already_finished_even_in_place(at):
    # Not idempotent: a row that is restored twice, or context that was overwritten, would show.
    image, net, said = random_image(1, 500, 210), conv_net(1), []
    expected = net(image[None])[0]
    result = tiled(Scarce(net, OUT_OF_MEMORY[0], at=at), image, 160, out=image, notify=said.append)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert len(said) == 1


def test_out_of_memory_in_the_smallest_tile_is_the_users_error():
    scarce = Scarce(identity, OUT_OF_MEMORY[0], limit=100)
    with pytest.raises(UserError, match="tile of 32 px, and 32 px is the least with overlap=16; free memory"):
        tiled(scarce, random_image(1, 200, 200), tile=150)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_without_the_memory_for_a_tile_gets_smaller_ones():
    device, image, said = torch.device("cuda:0"), random_image(1, 4000, 4000), []
    tiles = Tiles(0, 16, NEEDS)

    def eightfold(x):
        return x.expand(-1, 8, -1, -1).contiguous().mean(1, keepdim=True)  # 512 MB of the whole image

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**28 / torch.cuda.mem_get_info(device)[1], device)
    try:
        result = apply_tiled(eightfold, image, tiles, device=device, notify=said.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    torch.testing.assert_close(result, image, rtol=1e-6, atol=1e-6)
    assert "memory of cuda:0 ran out; going on with --tile 2000" in said[0]


class Fetching:
    """Transfers that note what is sent and fetched, by the first pixel, as those of CUDA are ahead."""

    ahead = 1

    def __init__(self):
        self.notes = []

    def send(self, batch):
        self.notes.append(("send", float(batch[0, 0, 0, 0])))
        return batch.clone()

    def fetch(self, *results):
        first = float(results[0][0, 0, 0, 0])

        def wait():
            self.notes.append(("fetch", first))
            return [result.clone() for result in results]

        return wait


def test_the_next_tiles_are_sent_before_a_result_is_waited_for(monkeypatch):
    image, net, transfers = random_image(3, 101, 83), conv_net(3), Fetching()
    expected = tiled(net, image, batch=2)
    monkeypatch.setattr(tiling, "transfers_of", lambda device: transfers)
    assert torch.equal(tiled(net, image, batch=2), expected)
    transfers.notes.clear()
    tiled(identity, image[:, :40])  # one row of tiles
    sent, fetched = ([value for what, value in transfers.notes if what == each] for each in ("send", "fetch"))
    assert sent == fetched
    assert len(sent) == 3
    assert [what for what, _ in transfers.notes] == ["send", "send", "fetch", "send", "fetch", "fetch"]


@pytest.mark.parametrize("at", [{1}, {3}, {8}, {4, 5}])
def test_out_of_memory_with_a_result_on_its_way_loses_nothing(monkeypatch, at):
    image, net = random_image(1, 300, 210), conv_net(1)
    monkeypatch.setattr(tiling, "transfers_of", lambda device: Fetching())
    result = tiled(Scarce(net, OUT_OF_MEMORY[0], at=at), image, 160, out=image.clone())
    torch.testing.assert_close(result, net(image[None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_gpu_gives_the_same_and_is_waited_for_by_no_tile(batch):
    image, tiles = random_image(3, 301, 211), Tiles(80, 16, NEEDS, batch)
    kernel = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double() / 5

    def convolved(device):
        there = kernel.to(device)
        return lambda x: F.conv2d(x.double(), there, padding=2).float()

    expected = apply_tiled(convolved("cpu"), image, tiles, device="cpu")
    function = convolved("cuda")
    apply_tiled(function, image, tiles, device="cuda")  # libraries are loaded at their first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = apply_tiled(function, image, tiles, device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_other_errors_and_interrupts_pass_through():
    for error in (RuntimeError("expected scalar type Half"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            tiled(Scarce(identity, error, at={3}), random_image(1, 100, 100))


def large_inside(x):
    """The identity by a convolution whose result is beyond float16 where x > 0.55."""
    kernel = torch.full((x.shape[1], 1, 1, 1), 6e4)
    return F.conv2d(2 * x, kernel, groups=x.shape[1]).float() / 12e4


def test_half_precision_is_used_where_it_suffices():
    image, said = random_image(3, 61, 83), []
    result = tiled(large_inside, image / 2, precision="fp16", notify=said.append)
    error = (result - image / 2).abs().max()
    assert 1e-6 < error < 2e-3
    assert not said
    assert (tiled(large_inside, image, precision="bf16") - image).abs().max() > 1e-3
    torch.testing.assert_close(tiled(large_inside, image), image, rtol=1e-6, atol=1e-6)


def test_a_batch_that_overflows_in_half_precision_is_done_again_in_float32():
    image, said = random_image(1, 90, 83), []
    image[:, 30:] /= 2
    result = tiled(large_inside, image, precision="fp16", notify=said.append)
    torch.testing.assert_close(result[:, :30], image[:, :30], rtol=1e-6, atol=1e-6)
    assert (result[:, 60:] - image[:, 60:]).abs().max() > 1e-6
    assert len(said) == 1
    assert "--precision fp16 overflowed" in said[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_non_finite_result_of_a_finite_image_is_the_users_error(precision):
    with pytest.raises(
        UserError, match="gave 3 non-finite values of 4800 for a finite input; check the weights"
    ):
        tiled(
            lambda x: torch.where(x == 2, torch.nan, x), blots(random_image(3, 40, 40)), precision=precision
        )


def blots(image):
    image[:, 5, 7] = 2
    return image


def test_a_non_finite_pixel_of_the_image_stays_near_where_it_was():
    image, net = random_image(1, 101, 83), conv_net(1)
    image[0, 70, 20] = torch.nan
    affected = tiled(net, image).isnan()
    assert affected[0, 70, 20]
    assert affected.nonzero()[:, 1:].sub(torch.tensor([70, 20])).abs().max() <= 40


def test_progress_grows_with_every_batch_and_ends_at_all_pixels():
    seen = []
    tiled(identity, random_image(3, 101, 211), batch=2, progress=lambda *step: seen.append(step))
    done, totals = zip(*seen, strict=True)
    assert set(totals) == {101 * 211}
    assert done[-1] == 101 * 211
    assert all(before < after for before, after in itertools.pairwise(done))
    assert len(seen) > 12


def test_gradients_are_not_recorded():
    weight = torch.ones((), requires_grad=True)
    assert not tiled(lambda x: weight * x, random_image(1, 50, 50)).requires_grad


@pytest.mark.parametrize(("height", "width"), [(2048, 2048), (1100, 3000), (700, 700)])
def test_the_tile_on_a_cpu_leaves_the_fewest_shared_pixels(height, width):
    needs = TileNeeds(128, 32)
    overlap = default_overlap(needs)

    def pixels_computed(tile):
        spans = [blend_spans(length, tile, overlap, needs.halo, needs.grid) for length in (height, width)]
        rows, columns = ([span.stop - span.start for span in axis] for axis in spans)
        return sum(rows) * sum(columns)

    settings = {"bytes_per_pixel": 400, "needs": needs, "device_type": "cpu"}
    tile, _ = choose_tile(height, width, 1, free_bytes=2**40, **settings)
    others = range(256, (tile or max(height, width)) + 1, 128)
    assert pixels_computed(tile or 10**6) <= min(map(pixels_computed, others))


@pytest.mark.parametrize("width", [30, 101, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_what_is_prepared_of_parts_of_a_row_is_as_of_all_of_it(width, dtype):
    image, widths = random_image(2, 90, width), []
    given = image if dtype == torch.float32 else (255 * image).round().to(dtype)
    image = given if dtype == torch.float32 else given / 255

    def mean_of_columns(rows):
        widths.append(rows.shape[-1])
        return torch.nn.functional.avg_pool2d(rows[:, :1], (1, 7), 1, (0, 3), count_include_pad=False)

    result = tiled(lambda x: x[:, 2:] - x[:, :1], given, prepare=Preparation(mean_of_columns, 8, 1))
    rows = len(blend_spans(90, 40, 16, 6, 8))
    spared = sum(widths) - rows * width
    expected = mean_of_columns(image[None])[0] - image[:1]
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)
    # Nothing but the margins is prepared twice.
    assert spared == 2 * 8 * (len(widths) - 1 - rows)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("in_place", [False, True])
def test_whole_numbers_are_restored_as_their_floats_and_rounded_once(dtype, in_place):
    full = torch.iinfo(dtype).max
    numbers = np.random.default_rng(0).integers(0, full + 1, (90, 101, 3)).astype(str(dtype)[6:])
    image = torch.from_numpy(numbers).permute(2, 0, 1)
    floats = torch.from_numpy(to_floats(image.numpy()))

    def brighter(x):
        return 1.5 * x.roll(1, -1) - 0.1

    expected = tiled(brighter, floats)
    assert torch.equal(tiled(brighter, image), expected)
    out = image if in_place else torch.empty(3, 90, 101, dtype=dtype)
    assert tiled(brighter, image, out=out) is out
    rounded = np.rint(np.clip(expected.numpy() * np.float32(full), 0, full)).astype(numbers.dtype)
    np.testing.assert_array_equal(out.numpy(), rounded)


@pytest.mark.parametrize(("side", "most"), [(2000, 2**28), (5000, 5 * 2**25)])
def test_a_large_picture_leaves_less_memory_to_its_tiles(side, most):
    settings = {"free_bytes": 2**40, "bytes_per_pixel": 300, "needs": NEEDS, "device_type": "cpu"}
    tile, _ = choose_tile(side, side, 3, **settings)
    assert most / 2 < tile**2 * (300 + 24) + 12 * (tile + 2 * default_overlap(NEEDS)) * side <= most


@pytest.mark.parametrize("needs", [TileNeeds(1, 0), NEEDS, TileNeeds(64, 32)])
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (5000, 7001), (200, 50_000)])
def test_the_chosen_tile_fits_the_memory_and_the_model(needs, device_type, height, width):
    overlap = default_overlap(needs)
    assert overlap >= 2 * needs.halo
    for free in (1e6, 3e8, 8e9, 1e12):
        tile, batch = choose_tile(
            height,
            width,
            3,
            free_bytes=int(free),
            bytes_per_pixel=1000,
            needs=needs,
            device_type=device_type,
        )
        side = [min(tile, length) if tile else length for length in (height, width)]
        fits = batch * side[0] * side[1] * (1000 + 24) <= free / 3
        assert fits or (batch == 1 and tile == 2 * overlap)
        assert tile % needs.grid == 0
        blend_spans(max(height, width), tile or max(height, width), overlap, needs.halo, needs.grid)
        if device_type == "cpu":
            assert batch == 1
            assert side[0] * side[1] * (1000 + 24) <= 3 * 2**27
        elif free == 1e12:
            assert (tile, batch) == (0, 1)


def test_tiles_do_not_depend_on_the_default_type_of_torch():
    image, net = random_image(3, 70, 91), conv_net(3)
    doubled = Preparation(lambda rows: 2 * rows, margin=0, channels=3)
    expected = tiled(lambda x: net(x[:, :3]) + x[:, 3:], image, prepare=doubled)
    torch.set_default_dtype(torch.float64)
    try:
        result = tiled(lambda x: net(x[:, :3]) + x[:, 3:], image, prepare=doubled)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
