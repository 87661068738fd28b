"""Runs of the command line whose outcome is kept in tests/golden, and the command that keeps it anew.

A group of cases has a text, `golden/texts/GROUP.txt`, of arguments, exit codes, what is printed, and tables
and reports written; and the pixels written, `golden/pixels/GROUP.npz`. What depends on weights is in the
group of their name, so that new weights change that group alone, and `weights list` in the group weights. The
helps are in `golden/help`, one file a command. All goes through `deepgsr_cli.cli.app`, from files to files.

Keep anew, on purpose, all groups or some (help is one), and read the change in `git diff`:

    python tests/golden_cases.py --update
    python tests/golden_cases.py --update deepgsr-gray help

Compare two checkouts on one machine bit for bit: with either first on PYTHONPATH, write the SHA-256 of each
text and each array as it is, and compare the files by `diff`:

    OMP_NUM_THREADS=1 python tests/golden_cases.py --hashes before.txt
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL.Image
import pydicom
import tifffile
import typer
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from typer.testing import CliRunner

from deepgsr_cli.cli import app

GOLDEN = Path(__file__).with_name("golden")
# Group of cases that take ten seconds each: hashed, and kept in no golden file.
SLOW = "slow"
# Typer and rich lay out helps and the errors of usage: other versions have other boxes.
LAYOUT = {name: importlib.metadata.version(name) for name in ("typer", "rich")}
_ENVIRONMENT = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}

H, W = 32, 44  # of the pictures
SIDE = 40  # of the slices and of the pictures that diffract
PIXEL_MM = 7.0
WATER = 0.0193  # 1/mm, near 70 keV


@dataclass(frozen=True)
class Case:
    """One run of the command line.

    Attributes:
        group: The golden files it is in.
        name: Of its pixels.
        arguments: Of the command, in one string, relative to the folder with the inputs.
        keep: Files it writes that are kept: pictures and slices as pixels, others as text.
    """

    group: str
    name: str
    arguments: str
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a case comes to.

    Attributes:
        text: Arguments, exit code, stdout, stderr and the files of text, without what differs by chance.
        arrays: Pixels of the files kept, by name.
    """

    text: str
    arrays: dict[str, np.ndarray]


def cases() -> list[Case]:
    """All cases in the order they run in; later ones read what earlier ones have written."""
    return [*_pictures(), *_tomography(), *_metal(), *_phase(), *_training(), *_installation()]


def _pictures() -> Iterator[Case]:
    for weights, channels in (("deepgsr-gray", 1), ("deepgsr-gray-fast", 1), ("deepgsr-color", 3)):
        out = f"{weights}.tif"
        options = f"--reference clean{channels}.tif --json"
        command = f"denoise noisy{channels}.tif -o {out} --sigma 25 --weights {weights} {options}"
        yield Case(weights, "denoise", command, (out,))
    for task in ("derain", "restore"):
        out = f"{task}.tif"
        yield Case(f"deepgsr-{task}", task, f"{task} wet.tif -o {out} --reference dry.tif --json", (out,))
    fast = "--weights deepgsr-gray-fast"
    group = "deepgsr-gray-fast"
    yield Case(group, "sentence", f"denoise noisy1.png -o sentence.png {fast}", ("sentence.png",))
    yield Case(
        group, "depth", f"denoise noisy16.png -o depth.png {fast} --json --strength 0.5", ("depth.png",)
    )
    tiles = f"{fast} --sigma 25 --overlap 8 --json"
    yield Case(group, "tiles", f"denoise noisy1.png -o tiles.png --tile 32 {tiles}")
    report = f"{fast} --sigma 25 --reference clean1.png --report report.json"
    yield Case(group, "report", f"denoise noisy1.png -o report.png {report}", ("report.json",))
    folder = f"denoise photos -o photos_out --sigma 20 {fast} --json"
    yield Case(group, "folder", folder)
    yield Case(group, "again", folder)
    yield Case(group, "skip", f"{folder} --skip-existing")
    yield Case(group, "shard", f"{folder} --shard 2/2 --overwrite")
    evaluate = f"eval denoise --data clean --sigma 25 --method deepgsr --method tv {fast} --gray --limit 1"
    yield Case(
        group, "eval", f"{evaluate} --csv eval_denoise.csv --report e.json", ("eval_denoise.csv", "e.json")
    )
    yield Case(group, "eval json", f"{evaluate} --json")
    yield Case(
        "deepgsr-derain",
        "eval",
        "eval derain --data storm --csv eval_derain.csv --json",
        ("eval_derain.csv",),
    )
    group = "pictures"
    for command in ("denoise", "derain", "restore", "dejpeg"):
        yield Case(group, "dry run", f"{command} photos -o nowhere --dry-run")
        yield Case(group, "no input", command)
        yield Case(group, "missing", f"{command} missing.png -o x.png")
        yield Case(group, "no picture", f"{command} notes.txt -o x.png")
        yield Case(group, "damaged", f"{command} damaged.png -o x.png --json")
        yield Case(group, "exists", f"{command} noisy3.png -o clean3.tif")
        yield Case(group, "weights", f"{command} noisy3.png -o x.png --weights unknown")
        yield Case(group, "other task", f"{command} noisy3.png -o x.png --weights deepgsr-ct")
        yield Case(group, "device", f"{command} noisy3.png -o x.png --device nowhere")
        yield Case(group, "precision", f"{command} noisy3.png -o x.png --precision fp8")
        yield Case(group, "tile", f"{command} noisy3.png -o x.png --tile small")
        name = "wet.png" if command in ("derain", "restore") else "noisy3.png"  # one that a network sees
        yield Case(group, "overlap", f"{command} {name} -o x.png --tile 32 --overlap 40")
        yield Case(group, "strength", f"{command} noisy3.png -o x.png --strength 2")
        yield Case(group, "format", f"{command} noisy3.png -o x.png --format xyz")
        yield Case(group, "shard", f"{command} photos -o nowhere --shard 3/2")
        yield Case(group, "skip or overwrite", f"{command} photos -o nowhere --skip-existing --overwrite")
        yield Case(group, "most pixels", f"{command} noisy3.png -o x.png --max-pixels 100")
        yield Case(group, "report", f"{command} noisy3.png -o x.png --report x.pdf")
        yield Case(group, "option", f"{command} noisy3.png --unknown")
    yield Case(group, "sigma", "denoise noisy1.png -o x.png --sigma 300")
    yield Case(group, "sigma", "denoise noisy1.png -o x.png --sigma much")
    yield Case(group, "quality", "dejpeg noisy1.png -o x.png --quality 101")
    yield Case(group, "quality", "dejpeg noisy1.png -o x.png --quality fine")
    out = "demosaicked.tif"
    yield Case("deepgsr-demosaick", "demosaick", f"demosaick noisy1.png --sigma 5 -o {out} --json", (out,))
    group = "demosaick"
    for pattern in ("RGGB", "gbrg"):
        out = f"{pattern}.png"
        yield Case(
            group, pattern, f"demosaick noisy16.png --pattern {pattern} --method malvar -o {out}", (out,)
        )
    levels = "--black 20 --white 200 --method bilinear --reference clean3.tif --json"
    yield Case(group, "levels", f"demosaick noisy1.png -o levels.tif {levels}", ("levels.tif",))
    for name, arguments in {
        "no input": "",
        "dry run": "photos -o nowhere --dry-run",
        "missing": "missing.png -o x.png",
        "colour": "noisy3.png -o x.png",
        "pattern": "noisy1.png -o x.png --pattern RGBG",
        "method": "noisy1.png -o x.png --method unknown",
        "sigma": "noisy1.png -o x.png --method malvar --sigma 5",
        "white": "noisy1.png -o x.png --method malvar --white 0",
        "weights": "noisy1.png -o x.png --weights deepgsr-ct",
    }.items():
        yield Case(group, name, f"demosaick {arguments}")
    yield Case(
        group, "eval", "eval demosaick --data clean --method malvar --method bilinear --limit 1 --json"
    )
    group = "eval"
    yield Case(group, "no data", "eval denoise --sigma 25")
    yield Case(group, "missing", "eval denoise --data missing --sigma 25")
    yield Case(group, "method", "eval denoise --data clean --sigma 25 --method unknown")
    yield Case(group, "sigma", "eval denoise --data clean --sigma -1 --method tv")
    yield Case(group, "quality", "eval dejpeg --data clean --quality 0")
    yield Case(group, "no pairs", "eval derain --data clean")
    yield Case(group, "method", "eval derain --data pairs --method unknown")


def _tomography() -> Iterator[Case]:
    scan = "ct-recon slice.dcm --views 24 --photons 1e5 --json"
    for method in ("fbp", "sirt", "cgls", "tv", "deepgsr"):
        group = "deepgsr-ct" if method == "deepgsr" else "ct-recon"
        out = f"ct_{method}.npy"
        steps = " --iterations 20" if method in ("sirt", "tv") else ""
        yield Case(group, method, f"{scan} --method {method}{steps} -o {out}", (out,))
    dose = "denoise slice.dcm -o dose.npy --sigma 15 --json"
    yield Case("deepgsr-ct-denoise", "denoise", dose, ("dose.npy",))
    yield Case("deepgsr-ct-denoise", "little", "denoise slice.dcm -o little.dcm")
    evaluate = "eval ct-denoise --data scan --limit 1 --filter hann --sigma 15 --json"
    yield Case("deepgsr-ct-denoise", "eval", evaluate)
    group = "ct-recon"
    measured = "ct-recon sinogram.npy --geometry scan.toml"
    yield Case(group, "sinogram", f"{measured} --method fbp -o measured.tif --json", ("measured.tif",))
    # The residual of the eighth iteration is that of the noise: rounding would decide on a ninth.
    yield Case(group, "measured series", f"{measured} --method cgls --iterations 8 -o measured")
    yield Case(group, "series", "ct-recon scan -o ct_out --views 24 --method fbp --json")
    yield Case(group, "again", "ct-recon scan -o ct_out --views 24 --method fbp --json")
    yield Case(group, "skip", "ct-recon scan -o ct_out --views 24 --method fbp --json --skip-existing")
    yield Case(group, "dry run", "ct-recon scan -o ct_out2 --views 24 --method fbp --dry-run")
    report = "ct-recon slice.dcm -o report.dcm --views 24 --method cgls --report ct.json"
    yield Case(group, "report", report, ("report.dcm", "ct.json"))
    yield Case(
        group, "noisy", "ct-recon sinogram.npy --geometry scan.toml --method fbp --photons 1e4 -o n.npy"
    )
    for name, arguments in {
        "no input": "",
        "no output": "slice.dcm",
        "missing": "missing.dcm -o x.dcm",
        "no geometry": "sinogram.npy -o x.npy --method fbp",
        "geometry": "sinogram.npy --geometry notes.txt -o x.npy --method fbp",
        "other scan": "sinogram.npy --geometry other.toml -o x.npy --method fbp",
        "picture": "noisy1.png -o x.dcm --method fbp",
        "method": "slice.dcm -o x.dcm --method unknown",
        "filter": "slice.dcm -o x.dcm --method fbp --filter unknown",
        "views": "slice.dcm -o x.dcm --method fbp --views 1",
        "photons": "slice.dcm -o x.dcm --method fbp --photons -5",
        "iterations": "slice.dcm -o x.dcm --method sirt --iterations 0",
        "iterations of none": "slice.dcm -o x.dcm --method fbp --iterations 5",
        "strength of none": "slice.dcm -o x.dcm --method sirt --strength 2",
        "strength": "slice.dcm -o x.dcm --method tv --strength -1",
        "window": "slice.dcm -o x.dcm --method fbp --window 40",
        "format": "slice.dcm -o x.dcm --method fbp --format jpeg",
        "other task": "slice.dcm -o x.dcm --weights deepgsr-gray",
        "exists": "slice.dcm -o report.dcm --method fbp --views 24",
        "precision": "slice.dcm -o x.dcm --precision fp8",
    }.items():
        yield Case(group, name, f"ct-recon {arguments}")
    evaluate = "eval ct-recon --data scan --views 24 --limit 1 --method fbp"
    csv = "eval_ct.csv"
    yield Case(
        "eval", "ct-recon", f"{evaluate} --method cgls --photons 1e5 --photons inf --csv {csv}", (csv,)
    )
    yield Case("deepgsr-ct", "eval", f"{evaluate} --method deepgsr --json")
    yield Case("eval", "ct-denoise", "eval ct-denoise --data scan --limit 1 --method tv")
    yield Case("eval", "method", "eval ct-denoise --data scan --method unknown")
    yield Case("eval", "dose", "eval ct-denoise --data scan --dose 1 --method tv")
    yield Case("eval", "filter", "eval ct-denoise --data scan --filter unknown --method tv")
    yield Case("eval", "method", "eval ct-recon --data scan --method unknown")
    yield Case("eval", "missing", "eval ct-recon --data missing")


def _metal() -> Iterator[Case]:
    for method in ("li", "nmar", "deepgsr"):
        group = "deepgsr-mar" if method == "deepgsr" else "mar"
        out = f"mar_{method}.npy"
        yield Case(group, f"{method} image", f"mar metal.dcm --method {method} -o {out} --json", (out,))
        measured = f"mar metal.npy --geometry scan.toml --method {method} -o sinogram_{out} --json"
        yield Case(group, f"{method} sinogram", measured, (f"sinogram_{out}",))
    group = "mar"
    report = "mar metal.dcm -o mar.dcm --method nmar --no-keep-metal --report mar.json"
    yield Case(group, "report", report, ("mar.dcm", "mar.json"))
    yield Case(group, "mask", "mar metal.dcm -o mask.npy --method li --mask mask.png --json", ("mask.npy",))
    yield Case(group, "series", "mar scan -o mar_out --method nmar --json")
    yield Case(group, "again", "mar scan -o mar_out --method nmar --json")
    yield Case(group, "skip", "mar scan -o mar_out --method nmar --json --skip-existing")
    yield Case(group, "dry run", "mar scan -o mar_out2 --method nmar --dry-run")
    for name, arguments in {
        "no input": "",
        "no output": "metal.dcm",
        "missing": "missing.dcm -o x.dcm",
        "no geometry": "metal.npy -o x.npy --method li",
        "method": "metal.dcm -o x.dcm --method unknown",
        "threshold": "metal.dcm -o x.dcm --method li --metal-threshold nan",
        "mask": "metal.dcm -o x.dcm --method li --mask noisy1.png",
        "other task": "metal.dcm -o x.dcm --weights deepgsr-gray",
        "exists": "metal.dcm -o mar.dcm --method li",
        "format": "metal.dcm -o x.dcm --method li --format jpeg",
    }.items():
        yield Case(group, name, f"mar {arguments}")
    evaluate = "eval mar --data scan --masks metals --limit 1 --method li"
    yield Case(SLOW, "mar", f"{evaluate} --method nmar --csv eval_mar.csv", ("eval_mar.csv",))
    yield Case(SLOW, "mar image", f"{evaluate} --json --image-only")
    yield Case("eval", "method", f"{evaluate} --method unknown")
    yield Case("eval", "metal", f"{evaluate} --metal wood")
    yield Case("eval", "masks", "eval mar --data scan --masks missing")


def _phase() -> Iterator[Case]:
    coded = "phase --simulate square.png --model cdp --alpha 9 --json"
    yield Case("deepgsr-gray", "phase", f"{coded} -o red.tif", ("red.tif",))
    short = f"{coded} --restarts 1 --iterations 10 --num-masks 2 --mask-kind quaternary"
    for method in ("er", "hio", "raar"):
        yield Case("phase", method, f"{short} --method {method} -o {method}.tif", (f"{method}.tif",))
    # Not bm3d, of another package: it comes out otherwise from run to run.
    yield Case("phase", "tv", f"{coded} --prior tv -o tv.tif", ("tv.tif",))
    fourier = "phase --simulate square.png --model fourier --snr 40 --method er --restarts 1 --iterations 5"
    kept = "--keep-measurement measured.npz --report phase.json"
    yield Case("phase", "fourier", f"{fourier} {kept} -o fourier.tif", ("fourier.tif", "phase.json"))
    measured = "phase measured.npz --method er --restarts 1 --iterations 5 --reference square.png"
    yield Case("phase", "measured", f"{measured} -o measured.png --json", ("measured.png",))
    for name, arguments in {
        "no input": "",
        "missing": "missing.npz -o x.png",
        "both": "measured.npz --simulate square.png -o x.png",
        "no model": "sinogram.npy -o x.png",
        "method": "measured.npz -o x.png --method unknown",
        "prior": "measured.npz -o x.png --prior unknown",
        "model": "--simulate square.png -o x.png --model unknown",
        "masks": "--simulate square.png -o x.png --mask-kind unknown",
        "noise": "--simulate square.png -o x.png --noise unknown",
        "alpha": "--simulate square.png -o x.png --alpha -1",
        "alpha or snr": "--simulate square.png -o x.png --alpha 1 --snr 1",
        "oversampling": "measured.npz -o x.png --oversampling 99",
        "reference": "measured.npz -o x.png --method er --reference noisy1.png",
        "unrolled": "measured.npz -o x.png --method unrolled",
        "exists": "measured.npz -o measured.png --method er",
        "restarts": "measured.npz -o x.png --method er --restarts 0",
        "restarts of none": "measured.npz -o x.png --method unrolled --restarts 2",
    }.items():
        yield Case("phase", name, f"phase {arguments}")
    evaluate = "eval phase --data clean --size 32 --alpha 9 --limit 1 --restarts 1 --iterations 5 --method er"
    yield Case("eval", "phase", f"{evaluate} --method hio --csv eval_phase.csv", ("eval_phase.csv",))
    yield Case("eval", "phase json", f"{evaluate} --json --model cdp1")
    yield Case("eval", "method", f"{evaluate} --method unknown")
    yield Case("eval", "model", f"{evaluate} --model unknown")


def _training() -> Iterator[Case]:
    group = "train"
    tiny = "--steps 2 --held-out 1 --batch 1 --validate-every 2 --json"
    pictures = f"--preset small {tiny} --patch 16"
    yield Case(group, "denoise", f"train denoise --data clean -o runs/denoise {pictures}")
    log = ("runs/derain/log.csv",)
    yield Case(group, "derain", f"train derain --data clean --pairs pairs -o runs/derain {pictures}", log)
    yield Case(group, "restore", f"train restore --data clean -o runs/restore {pictures}")
    yield Case(group, "ct-recon", f"train ct-recon --data scan -o runs/ct {tiny} --patch 32")
    yield Case(group, "ct-denoise", f"train ct-denoise --data scan -o runs/dose {tiny} --patch 32")
    use = "denoise scan -o dose_out --weights runs/dose/model.safetensors"
    yield Case(group, "ct slices", f"{use} --sigma 25 --json")
    yield Case(group, "ct dry run", "denoise scan -o dose_out --dry-run")
    yield Case(group, "ct no output", "denoise scan")
    yield Case(group, "ct and picture", "denoise scan noisy1.png -o dose_out")
    yield Case(group, "ct noise", "denoise scan -o dose_out --noise camera")
    yield Case(group, "ct sigma", "denoise scan -o dose_out --sigma 300")
    yield Case(group, "mar", f"train mar --data scan -o runs/mar {tiny} --patch 32")
    yield Case(group, "phase", f"train phase --data clean -o runs/phase {tiny} --patch 16")
    unrolled = "--method unrolled --weights runs/phase/model.safetensors -o unrolled.tif --json"
    retrieve = f"phase --simulate square.png --alpha 9 {unrolled}"
    yield Case(group, "unrolled", retrieve, ("unrolled.tif",))
    use = "denoise noisy1.png -o trained.png --weights runs/denoise/model.safetensors --sigma 25 --json"
    yield Case(group, "trained", use, ("trained.png",))
    yield Case(group, "again", f"train denoise --data clean -o runs/denoise {pictures}")
    yield Case(group, "other", f"train denoise --data clean -o runs/denoise {pictures} --resume --seed 1")
    for task in ("denoise", "derain", "restore", "dejpeg", "ct-recon", "ct-denoise", "mar", "phase"):
        yield Case(group, "no data", f"train {task} -o runs/x")
        yield Case(group, "missing", f"train {task} --data missing -o runs/x")
        yield Case(group, "patch", f"train {task} --data clean -o runs/x --patch 0")
        yield Case(group, "steps", f"train {task} --data clean -o runs/x --steps 0")
        yield Case(group, "loss", f"train {task} --data clean -o runs/x --loss unknown")
        yield Case(group, "optimizer", f"train {task} --data clean -o runs/x --optimizer unknown")
        yield Case(group, "precision", f"train {task} --data clean -o runs/x --precision fp8")
    yield Case(group, "pairs", "train denoise --data clean --pairs pairs -o runs/x")
    yield Case(group, "preset", "train denoise --data clean -o runs/x --preset unknown")
    yield Case(group, "channels", "train derain --data clean -o runs/x --channels 2")
    yield Case(group, "dejpeg", f"train dejpeg --data clean -o runs/dejpeg {pictures}")


def _installation() -> Iterator[Case]:
    group = "weights"
    yield Case(group, "version", "--version")
    yield Case(group, "nothing", "")
    yield Case(group, "unknown", "unknown")
    for command in ("train", "eval", "weights"):
        yield Case(group, "nothing", command)
    yield Case(group, "list", "weights list")
    yield Case(group, "list json", "weights list --json")
    yield Case(group, "path", "weights path deepgsr-ct")
    yield Case(group, "path", "weights path unknown")
    yield Case(group, "pull", "weights pull deepgsr-mar")
    yield Case(group, "pull", "weights pull unknown")
    yield Case(group, "pull", "weights pull")
    yield Case(group, "verify", "weights verify")
    yield Case(group, "verify", "weights verify unknown")
    yield Case(group, "doctor", "doctor --json")


# The inputs


def _scene(channels: int, height: int, width: int, seed: int) -> np.ndarray:
    """A picture with edges, slopes and texture, (H, W, C), float32 in [0.05, 0.95]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = []
    for _ in range(channels):
        a, b, c, d = generator.uniform(2, 9, 4)
        edges = np.sign(np.sin(c * x) * np.cos(d * y))
        planes.append(0.5 + 0.15 * np.sin(a * x + b * y) + 0.15 * edges + 0.05 * np.sin(90 * x))
    return np.stack(planes, -1).clip(0.05, 0.95).astype(np.float32)


def _write_pictures(folder: Path) -> None:
    generator = np.random.default_rng(1)
    clean = _scene(3, H, W, 0)
    noise = generator.normal(0, 25 / 255, clean.shape)
    rain = clean + 0.3 * (generator.random((H, W, 1)) > 0.97)
    rain[1:] = np.maximum(rain[1:], rain[:-1] - 0.05)
    files = {"clean3": clean, "noisy3": clean + noise, "rain": rain, "clean1": clean[..., 0]}
    # Large enough to look for rain.
    dry, wet = (np.tile(x, (2, 2, 1)) for x in (clean, rain))
    files |= {"dry": dry, "wet": wet}
    files["noisy1"] = clean[..., 0] + noise[..., 0]
    for name, pixels in files.items():
        kind = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(folder / f"{name}.tif", pixels.astype(np.float32), photometric=kind)
        _write_png(folder / f"{name}.png", pixels)
    deep = np.rint(files["noisy1"].clip(0, 1) * 65535).astype(np.uint16)
    PIL.Image.fromarray(deep).save(folder / "noisy16.png")
    for name in ("photos", "clean", "pairs/rain", "pairs/clean", "storm/rain", "storm/clean"):
        (folder / name).mkdir(parents=True)
    for k in range(2):
        _write_png(folder / f"photos/{k}.png", _scene(1, 24 + k, 32, k)[..., 0])
    (folder / "photos/notes.txt").write_text("not a picture")
    for k in range(3):
        _write_png(folder / f"clean/{k}.png", _scene(3, 32, 32, k))
    for k in range(2):
        _write_png(folder / f"pairs/rain/{k}.png", rain[:, ::-1] if k else rain)
        _write_png(folder / f"pairs/clean/{k}.png", clean[:, ::-1] if k else clean)
        _write_png(folder / f"storm/rain/{k}.png", wet[:, ::-1] if k else wet)
        _write_png(folder / f"storm/clean/{k}.png", dry[:, ::-1] if k else dry)
    _write_png(folder / "square.png", _scene(1, SIDE, SIDE, 5)[..., 0])
    (folder / "damaged.png").write_bytes((folder / "noisy1.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("not a picture")


def _write_png(path: Path, pixels: np.ndarray) -> None:
    PIL.Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)).save(path)


# Row, column and radius in pixels from the middle, and what it adds to the attenuation, in water's.
_BODY = ((0, 0, 17, 1.0), (-6, 5, 5, 0.06), (5, -8, 3, 0.9), (8, 7, 4, -0.8))
_RODS = ((-2, -9, 1.6, 5.0), (2, 10, 1.6, 5.0))


def _slice_hu(discs: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """CT numbers of discs, (SIDE, SIDE), whole HU."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    total = sum(share * (np.hypot(y - row, x - column) < radius) for row, column, radius, share in discs)
    texture = 15 * np.sin(x) * np.cos(1.3 * y)
    return np.rint((1000 * (total - 1) + texture * (total > 0.5)).clip(-1024, 3071))


def _sinogram(discs: tuple[tuple[float, ...], ...], angles: np.ndarray, num_bins: int) -> np.ndarray:
    """Line integrals of discs by parallel rays, (views, bins), float32, with beam hardening where dense."""
    bins = (np.arange(num_bins) - (num_bins - 1) / 2) * PIXEL_MM
    y = np.zeros((len(angles), num_bins))
    for row, column, radius, share in discs:
        middle = PIXEL_MM * (column * np.cos(angles) - row * np.sin(angles))
        half = (radius * PIXEL_MM) ** 2 - (bins - middle[:, None]) ** 2
        y += 2 * WATER * share * np.sqrt(half.clip(min=0))
    return (y - 0.02 * y**2).astype(np.float32)


def _write_slice(path: Path, hu: np.ndarray, instance: int) -> None:
    slice = Dataset()
    slice.SOPClassUID, slice.SOPInstanceUID = (
        uids.CTImageStorage,
        f"1.2.3.4.{path.stem == 'metal':d}.{instance}",
    )
    slice.StudyInstanceUID, slice.SeriesInstanceUID, slice.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
    slice.ImageType, slice.Modality, slice.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "Works"
    slice.PatientName, slice.PatientID, slice.SeriesDescription = "Doe^Jane", "17", "Thorax"
    slice.SeriesNumber, slice.InstanceNumber = 4, instance
    slice.PixelSpacing = [str(PIXEL_MM)] * 2
    slice.ImagePositionPatient = ["0", "0", str(2 * instance)]
    slice.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    slice.RescaleSlope, slice.RescaleIntercept = "1", "-1024"
    slice.WindowCenter, slice.WindowWidth = "40", "400"
    slice.Rows, slice.Columns = hu.shape
    slice.SamplesPerPixel, slice.PhotometricInterpretation, slice.PixelRepresentation = 1, "MONOCHROME2", 1
    slice.BitsAllocated, slice.BitsStored, slice.HighBit = 16, 16, 15
    slice.add_new("PixelData", "OW", (hu + 1024).astype("<i2").tobytes())
    slice.file_meta = FileMetaDataset()
    slice.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    slice.save_as(path, enforce_file_format=True)


def _write_scans(folder: Path) -> None:
    num_views, num_bins = 60, 57
    degrees = np.arange(num_views) * 180 / num_views
    geometry = {"kind": "parallel", "shape": [SIDE, SIDE], "pixel_mm": [PIXEL_MM, PIXEL_MM]}
    geometry |= {"num_bins": num_bins, "bin_mm": PIXEL_MM, "angles_deg": degrees.tolist()}
    for name, table in (("scan", geometry), ("other", geometry | {"num_bins": 50})):
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        (folder / f"{name}.toml").write_text(text)
    np.save(folder / "sinogram.npy", _sinogram(_BODY, np.deg2rad(degrees), num_bins))
    np.save(folder / "metal.npy", _sinogram(_BODY + _RODS, np.deg2rad(degrees), num_bins))
    _write_slice(folder / "slice.dcm", _slice_hu(_BODY), 1)
    _write_slice(folder / "metal.dcm", _slice_hu(_BODY + _RODS), 1)
    metal = _slice_hu(_BODY + _RODS) > 2500
    PIL.Image.fromarray((255 * metal).astype(np.uint8)).save(folder / "mask.png")
    for name in ("scan", "metals"):
        (folder / name).mkdir()
    _write_slice(folder / "scan/1.dcm", _slice_hu(_BODY), 1)
    _write_slice(folder / "scan/2.dcm", _slice_hu(_BODY[:3]), 2)
    for k, side in enumerate((2, 5)):
        shape = np.zeros((SIDE, SIDE), np.uint8)
        shape[20 : 20 + side, 26 : 26 + side] = 255
        PIL.Image.fromarray(shape).save(folder / f"metals/{k}.png")


def write_inputs(folder: Path) -> None:
    """Write what the cases read into an empty folder."""
    _write_pictures(folder)
    _write_scans(folder)


# The runs


def run_cases(folder: Path, group: str) -> dict[str, Outcome]:
    """Run the cases of a group in a folder.

    Args:
        folder: With the inputs; gets the outputs, and is the working folder meanwhile.
        group: Of the cases.

    Returns:
        The outcome of each case, by its number and name.
    """
    outcomes: dict[str, Outcome] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for case in cases():
            if case.group == group:
                outcomes[f"{len(outcomes) + 1:02} {case.name}"] = _run(case, folder)
    finally:
        os.chdir(before)
    return outcomes


@functools.cache
def _command() -> Any:
    """The command of the app; to make it takes longer than most refusals."""
    return typer.main.get_command(app)


def _invoke(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run in this process."""
    with (
        CliRunner().isolation(env=_ENVIRONMENT) as (stdout, stderr, _),
        patch("sys.argv", ["deepgsr", *arguments]),
        patch("deepgsr_cli.compute.precision.has_bf16_units", return_value=False),
    ):
        try:
            _command().main(args=arguments, prog_name="deepgsr")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        return code, stdout.getvalue().decode(), stderr.getvalue().decode()


def _run(case: Case, folder: Path) -> Outcome:
    arguments = case.arguments.split()
    if arguments and arguments[0] not in ("weights", "doctor", "--version", "unknown") and len(arguments) > 1:
        arguments += [] if "--device" in arguments else ["--device", "cpu"]
    code, stdout, stderr = _invoke(arguments)
    text = f"$ deepgsr {case.arguments}\nexit {code}\n"
    for name, printed in (("stdout", stdout), ("stderr", stderr)):
        if printed.strip():
            text += f"-- {name}\n{printed.rstrip()}\n"
    arrays = {}
    for name in case.keep:
        if not Path(name).exists():
            text += f"-- {name} is not there\n"
            continue
        kind = Path(name).suffix
        if kind in _READERS:
            arrays[name] = _READERS[kind](name)
            text += f"-- {name}: {arrays[name].dtype} {arrays[name].shape}\n"
        if kind == ".dcm":
            text += _elements(name)
        elif kind not in _READERS:
            text += f"-- {name}\n{_shortened(name)}\n"
    return Outcome(_without_chance(text, folder), arrays)


_READERS = {
    ".tif": tifffile.imread,
    ".npy": np.load,
    ".png": lambda name: np.asarray(PIL.Image.open(name)),
    ".dcm": lambda name: pydicom.dcmread(name).pixel_array,
}


def _elements(name: str) -> str:
    """Elements of a DICOM file, one a line, but for the pixels and for what is new in each file."""
    lines = []
    for element in pydicom.dcmread(name):
        if element.VR not in ("UI", "DA", "TM", "DT", "OW", "SQ"):
            lines.append(f"{element.keyword}: {element.value}")
    return "\n".join(lines) + "\n"


def _shortened(name: str) -> str:
    """Text of a file; of a report, without its pictures."""
    text = Path(name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        text = json.dumps(json.loads(text), indent=0)
        text = re.sub(r'"[^"\n]{2000,}"', '"<picture>"', text)
    return text.rstrip()


_CHANCE = (
    (r"\x1b\[[0-9;]*m", ""),
    (r'("[^"]*(?:seconds?|minutes)[^"]*": )[0-9.e+-]+', r"\1<time>"),
    (r"\b[0-9.]+ s\b", "<time> s"),
    (r"\b[0-9a-f]{64}\b", "<sha256>"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([.\d]*)?([+-]\d\d:\d\d|Z| UTC)?", "<date>"),
    (r"[^\s\"']*[/\\](?=deepgsr-[a-z-]+\.safetensors)", "<bundled>/"),
    (r"─{2,}", "──"),
    (r"(?m)[ \t]+│?[ \t]*$", ""),
)


def _without_chance(text: str, folder: Path) -> str:
    """The text without times, checksums, versions, the places of files, and the right side of boxes."""
    for place in (str(folder), str(folder.resolve())):
        text = text.replace(place, "<folder>")
    text = re.sub(rf"\b{re.escape(importlib.metadata.version('deepgsr'))}\b", "<version>", text)
    for pattern, instead in _CHANCE:
        text = re.sub(pattern, instead, text)
    text = _without_seconds(text)
    if text.startswith("$ deepgsr doctor"):
        text = re.sub(r'"((?!weights)[^":]+)": "[^"]*"', r'"\1": <value>', text)
        text = re.sub(r'"device (?!cpu)[^"]+": <value>, ', "", text)
    return text


def _without_seconds(text: str) -> str:
    """The text without the times in the column seconds of CSV, and those that end the rows of tables."""
    lines, column, width, length = [], -1, 0, 0
    for line in text.split("\n"):
        cells = line.split(",")
        if "seconds" in cells:
            column, width = cells.index("seconds"), len(cells)
        elif column >= 0 and len(cells) == width:
            cells[column] = "<time>"
        else:
            column = -1
        if line.endswith(("  seconds", " Mpx/s", "     s")):
            length = len(line)
        elif not line:
            length = 0
        elif len(line) == length:
            cells = [re.sub(r"(?<= )[0-9][0-9.]*$", "<time>", line)]
        lines.append(",".join(cells))
    return "\n".join(lines)


def read_helps() -> dict[str, str]:
    """Help of every command, by its words with a dash between."""

    def walk(command: Any, words: list[str]) -> Iterator[list[str]]:
        yield words
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, [*words, name])

    helps = {}
    for words in walk(_command(), []):
        _, stdout, _ = _invoke([*words, "--help"])
        helps["-".join(["deepgsr", *words])] = _without_chance(stdout, Path("/nowhere"))
    return helps


# What is kept


def texts_of(outcomes: dict[str, Outcome]) -> str:
    """The text of a group."""
    return "\n".join(outcome.text for outcome in outcomes.values())


def arrays_of(outcomes: dict[str, Outcome]) -> dict[str, np.ndarray]:
    """The pixels of a group, by case and file, as the files have them."""
    return {
        f"{case} {name}": array
        for case, outcome in outcomes.items()
        for name, array in outcome.arrays.items()
    }


def pack(array: np.ndarray) -> dict[str, np.ndarray]:
    """Values in 16 bits between their least and their greatest: a third of the bytes of float32."""
    low, high = float(array.min()), float(array.max())
    codes = np.rint((array.astype(np.float64) - low) * (65535 / max(high - low, 1e-12)))
    return {"codes": codes.astype(np.uint16), "range": np.array([low, high])}


def unpack(packed: dict[str, np.ndarray]) -> np.ndarray:
    """What was packed, float64, within half of 1/65535 of its range."""
    low, high = packed["range"]
    return low + packed["codes"] * ((high - low) / 65535)


def read_pixels(group: str) -> dict[str, np.ndarray]:
    """Golden pixels of a group, by case and file."""
    path = GOLDEN / "pixels" / f"{group}.npz"
    if not path.exists():
        return {}
    with np.load(path) as stored:
        names = sorted({key.rpartition("|")[0] for key in stored.files})
        return {
            name: unpack({part: stored[f"{name}|{part}"] for part in ("codes", "range")}) for name in names
        }


def update(groups: set[str] | None) -> None:
    """Write the golden files of some groups, or all, anew."""
    if groups is None:
        shutil.rmtree(GOLDEN, ignore_errors=True)
    for name in ("help", "texts", "pixels"):
        (GOLDEN / name).mkdir(parents=True, exist_ok=True)
    if groups is None or "help" in groups:
        for old in (GOLDEN / "help").glob("*.txt"):
            old.unlink()
        for name, text in read_helps().items():
            (GOLDEN / "help" / f"{name}.txt").write_text(text, encoding="utf-8")
        (GOLDEN / "layout.json").write_text(json.dumps(LAYOUT) + "\n")
    kept = ({case.group for case in cases()} if groups is None else groups) - {SLOW}
    for group, outcomes in _outcomes(kept).items():
        (GOLDEN / "texts" / f"{group}.txt").write_text(texts_of(outcomes), encoding="utf-8")
        arrays = arrays_of(outcomes)
        if arrays:
            parts = {f"{name}|{part}": a for name, x in arrays.items() for part, a in pack(x).items()}
            np.savez_compressed(GOLDEN / "pixels" / f"{group}.npz", **parts)


def write_hashes(path: Path) -> None:
    """Write the SHA-256 of every text and every array as it is, one a line."""
    lines = [f"{_sha256(text.encode())}  help {name}" for name, text in read_helps().items()]
    for group, outcomes in _outcomes(None).items():
        for case, outcome in outcomes.items():
            lines.append(f"{_sha256(outcome.text.encode())}  {group}: {case}")
            for name, array in outcome.arrays.items():
                whole = f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
                lines.append(f"{_sha256(whole)}  {group}: {case}: {name}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _outcomes(groups: set[str] | None) -> dict[str, dict[str, Outcome]]:
    """By group; each in a folder of its own, where no other has left a file."""
    outcomes, known = {}, {case.group for case in cases()}
    for group in sorted(known if groups is None else known & groups):
        with tempfile.TemporaryDirectory() as name:
            write_inputs(Path(name))
            outcomes[group] = run_cases(Path(name), group)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep golden files anew, or write hashes.")
    parser.add_argument("--update", nargs="*", metavar="GROUP", help="Groups; all if none is named.")
    parser.add_argument(
        "--hashes", type=Path, metavar="FILE", help="Write the SHA-256 of all that comes out."
    )
    arguments = parser.parse_args()
    if arguments.hashes:
        write_hashes(arguments.hashes)
    elif arguments.update is None:
        parser.error("give --update or --hashes")
    else:
        update(set(arguments.update) or None)


if __name__ == "__main__":
    main()
