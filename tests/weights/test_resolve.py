"""Weights: names, files, downloads from a hub on loopback, checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deepgsr_cli.errors import WeightsError
from deepgsr_cli.models import PRIORS
from deepgsr_cli.weights import resolve as resolve_module
from deepgsr_cli.weights.checkpoint import build, save_checkpoint
from deepgsr_cli.weights.manifest import WeightsEntry, default_name, load_manifest
from deepgsr_cli.weights.resolve import ResolvedWeights, list_weights, pull, resolve, verify
from tests.forks import FORKS, start
from tests.hub import COMMIT, Hub
from tests.samples import load_checkpoint

ROOT = Path(resolve_module.__file__).parents[2]
CONTENT = bytes(range(256)) * 41
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPO, FILE = "someone/weights", "folder/gray.safetensors"
ENTRY: dict[str, Any] = {
    "name": "gray-hub",
    "model": "deepgsr",
    "task": "denoise",
    "channels": 1,
    "hub": {"repo": REPO, "revision": COMMIT, "file": FILE},
    "sha256": SHA256,
    "bytes": len(CONTENT),
    "licence": "Apache-2.0",
    "training_data": "none",
    "measured": {"BSD68 sigma 25": 29.1},
    "parameters": 3698,
    "description": "For tests.",
}
BUNDLED = {key: value for key, value in ENTRY.items() if key != "hub"} | {
    "name": "gray",
    "file": "gray.safetensors",
    "default": True,
}
CONFIG = {
    "model": "deepgsr",
    "widths": [4, 4],
    "encoder": [1, 1],
    "decoder": [1],
    "encoder_groups": [1, 0],
    "decoder_groups": [0],
    "group_channels": 2,
    "window": 4,
    "matches": 3,
    "embedding": 4,
    "rank": 2,
    "prompts": 2,
}

Ask = Callable[..., list[str]]


@pytest.fixture
def manifest_file(tmp_path: Path) -> Path:
    return write_manifest(tmp_path, ENTRY, BUNDLED)


@pytest.fixture
def manifest(manifest_file: Path) -> dict[str, WeightsEntry]:
    return load_manifest(manifest_file)


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled file of BUNDLED, whole."""
    monkeypatch.setattr(resolve_module, "_BUNDLED", tmp_path / "bundled")
    path = tmp_path / "bundled" / "gray.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def tell_paths(manifest_file: Path, specs: tuple[str, ...], connection: Connection) -> None:
    """Be a user's process: send what `resolve` gives for each spec."""
    assert "huggingface_hub" not in sys.modules
    manifest, told = load_manifest(manifest_file), []
    for spec in specs:
        try:
            told.append(str(resolve(spec, manifest=manifest).path.resolve()))
        except WeightsError as error:
            told.append(f"error: {error}")
    connection.send(told)


@pytest.fixture
def ask(tmp_path: Path, manifest_file: Path) -> Ask:
    """What `resolve` gives for each spec in a process of its own: a path, or "error: " and the sentence.

    huggingface_hub reads its environment when it is imported, so each case needs a new process.
    """

    def ask(url: str, *specs: str, **environment: str) -> list[str]:
        kept = {
            key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HTTP"))
        }
        environment = {
            **kept,
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        }
        found, theirs = FORKS.Pipe(duplex=False)
        process = start(tell_paths, manifest_file, specs, theirs, environment=environment)
        theirs.close()
        told = found.recv()
        process.join()
        return told

    return ask


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    return build(CONFIG, PRIORS)


def write_manifest(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"schema": 1, "weights": entries}), encoding="utf-8")
    return path


def cached_bytes(tmp_path: Path) -> list[bytes]:
    """Every file that the hub cache under `tmp_path` takes for whole."""
    blobs = (tmp_path / "home").glob("hub/models--*/blobs/*")
    return [path.read_bytes() for path in blobs if path.suffix != ".incomplete"]


# Downloads


def test_a_download_is_used_again_without_the_network(ask: Ask) -> None:
    specs = ("gray-hub", f"hf://{REPO}/{FILE}", f"hf://{REPO}@{COMMIT}/{FILE}")
    with Hub({(REPO, FILE): CONTENT}) as hub:
        first = ask(hub.url, *specs)
        assert all(Path(path).read_bytes() == CONTENT for path in first)
        hub.requests.clear()
        assert ask(hub.url, *specs) == first
        assert hub.requests == []
    assert ask(hub.url, *specs) == first
    assert ask(hub.url, *specs, HF_HUB_OFFLINE="1") == first


def test_a_broken_download_leaves_no_file_and_the_next_one_works(ask: Ask, tmp_path: Path) -> None:
    with Hub({(REPO, FILE): CONTENT}) as hub:
        hub.faults = ["cut", "busy"]
        (cut,) = ask(hub.url, "gray-hub")
        assert "gray-hub: cannot be fetched from someone/weights, the " in cut
        assert cached_bytes(tmp_path) == []
        hub.faults = ["short"]
        short, whole = ask(hub.url, "gray-hub", "gray-hub")
        assert "the download failed" in short
        assert Path(whole).read_bytes() == CONTENT


def test_a_download_with_a_wrong_checksum_is_removed(ask: Ask, tmp_path: Path) -> None:
    other = CONTENT[::-1]
    with Hub({(REPO, FILE): other}) as hub:
        (refusal,) = ask(hub.url, "gray-hub")
        assert f"sha256 is {hashlib.sha256(other).hexdigest()[:8]}…" in refusal
        assert f"the manifest says {SHA256[:8]}…; the download was removed" in refusal
        assert cached_bytes(tmp_path) == []
        assert list((tmp_path / "home").glob("hub/models--*/snapshots/*/folder/*")) == []  # no dead link
        hub.files[REPO, FILE] = CONTENT
        assert Path(*ask(hub.url, "gray-hub")).read_bytes() == CONTENT


def test_a_tampered_cached_file_is_refused_until_it_is_deleted_as_told(ask: Ask) -> None:
    with Hub({(REPO, FILE): CONTENT}) as hub:
        (path,) = ask(hub.url, "gray-hub")
        Path(path).write_bytes(CONTENT + b"!")
        (refusal,) = ask(hub.url, "gray-hub")
        told = re.search(r"delete (.+) and run `deepgsr weights pull gray-hub`$", refusal)
        assert told
        assert f"the manifest says {SHA256[:8]}…" in refusal
        Path(told[1]).unlink()
        assert Path(*ask(hub.url, "gray-hub")).read_bytes() == CONTENT


def test_what_the_hub_does_not_have_is_named(ask: Ask) -> None:
    with Hub({(REPO, FILE): CONTENT}) as hub:
        repo, revision, file, name = ask(
            hub.url, "hf://no/body/x", f"hf://{REPO}@v9%2Fa/{FILE}", f"hf://{REPO}/x", "hf://a--b/c d/x"
        )
    assert "fetched from no/body, the hub has no such repository" in repo
    assert "it has no revision v9/a; check the revision, or give weights FILE" in revision
    assert "revision main has no file x; check the name" in file
    assert "a--b/c d: no repository has this name; give owner/name" in name


def test_without_the_network_the_sentence_names_the_way_out(ask: Ask) -> None:
    with socket.socket() as silent:  # bound, so that nobody else listens there
        silent.bind(("127.0.0.1", 0))
        (dead,) = ask(f"http://127.0.0.1:{silent.getsockname()[1]}", "gray-hub")
    assert re.fullmatch(
        r"error: gray-hub: cannot be fetched from someone/weights, the download failed \(.*refused.*\); "
        r"run `deepgsr weights pull gray-hub` when online, or give weights FILE",
        dead,
    )
    with Hub({(REPO, FILE): CONTENT}) as hub:
        (offline,) = ask(hub.url, "gray-hub", HF_HUB_OFFLINE="1")
        assert hub.requests == []
    assert "offline mode is on and it is not in the cache; run `deepgsr weights pull gray-hub`" in offline


def test_offline_as_an_argument_asks_nobody(
    manifest: dict[str, WeightsEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(WeightsError, match="offline mode is on"):
        resolve("gray-hub", offline=True, cache_dir=tmp_path, manifest=manifest)


@pytest.mark.parametrize(
    "spec", ["hf://", "hf://owner/file", "hf://owner/repo@main", "hf://owner/repo@/file"]
)
def test_an_address_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(WeightsError, match="not an address on the hub; give hf://owner/repo"):
        resolve(spec, manifest={})


# Names, files, and where they are


def test_bundled_weights_need_no_network(
    bundled: Path, manifest: dict[str, WeightsEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    found = resolve("gray", manifest=manifest)
    assert found == ResolvedWeights(bundled, manifest["gray"], SHA256)
    assert pull("gray", manifest=manifest) == bundled


@pytest.mark.parametrize(
    ("content", "changes", "sentence"),
    [
        (CONTENT[:-1], {}, r"gray: sha256 is \w{8}…, the manifest says \w{8}…; reinstall deepgsr"),
        (CONTENT, {"bytes": 7}, r"gray: size is 10496 bytes, the manifest says 7; reinstall deepgsr"),
        (None, {}, r".*gray.safetensors: cannot be read \(No such file or directory\); .*"),
    ],
)
def test_bundled_weights_that_are_not_as_listed_are_refused(
    bundled: Path, tmp_path: Path, content: bytes | None, changes: dict[str, Any], sentence: str
) -> None:
    manifest = load_manifest(write_manifest(tmp_path, BUNDLED | changes))
    if content is None:
        bundled.unlink()
    else:
        bundled.write_bytes(content)
    with pytest.raises(WeightsError) as refusal:
        resolve("gray", manifest=manifest)
    assert re.fullmatch(sentence, str(refusal.value))


def test_a_file_comes_before_a_name_but_is_not_pulled(
    bundled: Path,
    manifest: dict[str, WeightsEntry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gray").write_bytes(b"mine")
    found = resolve("gray", manifest=manifest)
    assert found == ResolvedWeights(Path("gray"), None, hashlib.sha256(b"mine").hexdigest())
    assert pull("gray", manifest=manifest) == bundled


def test_a_file_that_is_not_there_is_told_of_a_path_as_of_its_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"mine\.safetensors: neither a file nor weights"):
        resolve(tmp_path / "mine.safetensors", manifest={})


def test_an_unknown_name_brings_up_close_ones_or_all(manifest: dict[str, WeightsEntry]) -> None:
    for call in (resolve, pull, verify):
        with pytest.raises(WeightsError, match=r"grey: neither a file nor .*, did you mean gray"):
            call("grey", manifest=manifest)  # type: ignore[operator]
        with pytest.raises(WeightsError, match=r"qqq.pt: neither a file nor .*, there are gray-hub, gray;"):
            call("qqq.pt", manifest=manifest)  # type: ignore[operator]
    with pytest.raises(WeightsError, match="there are none"):
        resolve("gray", manifest={})


def test_every_entry_is_listed_with_its_place_and_state(
    bundled: Path, manifest: dict[str, WeightsEntry], tmp_path: Path
) -> None:
    def states() -> list[tuple[str, str, Path | None, str]]:
        listed = list_weights(cache_dir=tmp_path, manifest=manifest)
        return [(s.entry.name, s.source, s.path, s.status) for s in listed]

    assert states() == [("gray-hub", "hub", None, "missing"), ("gray", "bundled", bundled, "ok")]
    bundled.write_bytes(CONTENT[:-1] + b"?")
    assert states()[1][3] == "wrong checksum"
    bundled.unlink()
    assert states()[1][2:] == (None, "missing")


def test_the_default_is_of_the_task_and_the_channels(manifest: dict[str, WeightsEntry]) -> None:
    assert default_name("denoise", 1, manifest=manifest) == "gray"
    for task, channels in (("denoise", 3), ("derain", 1)):
        with pytest.raises(
            WeightsError, match=f"{task}: no default .* {channels} .*, there are denoise with 1;"
        ):
            default_name(task, channels, manifest=manifest)


def test_the_names_and_the_start_need_neither_torch_nor_the_hub_library() -> None:
    code = (
        "import sys, deepgsr_cli.weights.manifest as w, deepgsr_cli.weights.resolve;"
        "import deepgsr_cli.compute.device; w.load_manifest();"
        "sys.exit(bool({'torch', 'huggingface_hub', 'safetensors', 'numpy'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# The manifest


def test_the_manifest_we_ship_fits_the_files_we_ship() -> None:
    entries = load_manifest()
    for entry in entries.values():
        if entry.file:
            status = verify(entry.name)
            assert status.status == "ok", entry.name
            assert status.path is not None
            model = load_checkpoint(status.path).model
            assert sum(p.numel() for p in model.parameters()) == entry.parameters
    listed = {entry.file for entry in entries.values()}
    shipped = {path.name for path in (ROOT / "deepgsr_cli" / "bundled").glob("*.safetensors")}
    assert shipped <= listed


def test_an_entry_is_read_field_by_field(manifest: dict[str, WeightsEntry]) -> None:
    entry = dataclasses.asdict(manifest["gray-hub"])
    assert {key: value for key, value in entry.items() if key not in ("file", "default")} == ENTRY
    assert entry["file"] is None
    assert entry["default"] is False
    assert manifest["gray"].default is True


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "Gray 25"}, "name is 'Gray 25', it must be of a-z"),
        ({"name": 5}, "name is 5, it must be some text"),
        ({"sha256": SHA256.upper()}, "sha256 is .* 64 hex digits in lower case"),
        ({"sha256": SHA256[:-1]}, "sha256 is .* 64 hex digits"),
        ({"bytes": 0}, "bytes is 0, it must be a positive whole number"),
        ({"channels": True}, "channels is True, it must be a positive"),
        ({"parameters": 1.5}, "parameters is 1.5"),
        ({"licence": " "}, "licence is ' ', it must be some text"),
        ({"measured": [1]}, "measured is .* an object of numbers and texts"),
        ({"measured": {"psnr": None}}, "measured is .* an object of numbers and texts"),
        ({"default": 1}, "default is 1, it must be true or false"),
        ({"file": "x.safetensors"}, "must have either file or hub"),
        ({"hub": None}, "must have either file or hub"),
        ({"hub": {}}, "hub is {}, it must be an object with repo, revision and file"),
        ({"hub": {"repo": REPO, "revision": "", "file": FILE}}, "hub is .*, it must be an object with"),
        ({"hub": None, "file": "../x"}, "file is '../x', it must be a path inside the bundled folder"),
        ({"hub": None, "file": "/x"}, "file is '/x', it must be a path inside"),
        ({"hub": None, "file": "C:\\x"}, "file is .*, it must be a path inside"),
        ({"colour": "red", "size": 2}, "unknown colour, size"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = write_manifest(tmp_path, BUNDLED, ENTRY | changes)
    with pytest.raises(
        WeightsError, match=rf"entry 2 \(.*\): {complaint}.*; correct it or reinstall deepgsr"
    ):
        load_manifest(path)


def test_a_manifest_is_refused_as_a_whole_with_a_reason(tmp_path: Path) -> None:
    short = {k: v for k, v in BUNDLED.items() if k not in ("bytes", "licence", "sha256", "task")}
    with pytest.raises(WeightsError, match=r"entry 1 \(gray\): no bytes, licence, sha256 and 1 more"):
        load_manifest(write_manifest(tmp_path, short))
    with pytest.raises(WeightsError, match=r"entry 2 \(gray\): the name is there twice"):
        load_manifest(write_manifest(tmp_path, BUNDLED, BUNDLED))
    with pytest.raises(WeightsError, match=r"entry 2 \(b\): gray is the default for denoise with 1 channels"):
        load_manifest(write_manifest(tmp_path, BUNDLED, BUNDLED | {"name": "b"}))
    path = tmp_path / "manifest.json"
    for text, reason in (
        ("{", "cannot be read"),
        ("[]", "not a manifest of schema 1"),
        ('{"schema": 2, "weights": []}', "not a manifest of schema 1"),
        ('{"schema": 1}', "weights are not a list"),
        ('{"schema": 1, "weights": [7]}', r"entry 1 \(None\): not an object"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(WeightsError, match=reason):
            load_manifest(path)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        load_manifest(path)


# Checkpoints


def test_a_checkpoint_comes_back_as_it_was_saved(model: nn.Module, tmp_path: Path) -> None:
    path, info = tmp_path / "größe [1].safetensors", {"task": "denoise", "protocol": "8 × 8\n“quotes”"}
    save_checkpoint(path, model, info=info)
    checkpoint = load_checkpoint(path)
    assert checkpoint.info == info
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.model.config_dict() == model.config_dict()  # type: ignore[operator]
    torch.testing.assert_close(checkpoint.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert not checkpoint.model.training
    # An independent reader of the format agrees about the tensors.
    torch.testing.assert_close(load_file(path), dict(model.state_dict()), rtol=0, atol=0)


def test_the_same_model_gives_the_same_bytes(model: nn.Module, tmp_path: Path) -> None:
    info = {str(i): "x" * i for i in range(9)}
    files = []
    for number in range(6):
        if number == 3:
            model.to(memory_format=torch.channels_last)
            info = dict(reversed(info.items()))
        save_checkpoint(tmp_path / str(number), model, info=info)
        files.append((tmp_path / str(number)).read_bytes())
    assert len(set(files)) == 1
    assert (int.from_bytes(files[0][:8], "little") + 8) % 8 == 0  # the tensors stay aligned


def test_a_checkpoint_with_other_tensors_is_refused(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = {"format": "deepgsr-1", "config": json.dumps(CONFIG)}
    tensors = dict(model.state_dict())
    save_file({k: t for k, t in tensors.items() if k != "head.bias"}, path, header)
    with pytest.raises(WeightsError, match=r"it lacks head\.bias;"):
        load_checkpoint(path)
    save_file(tensors | {f"more.{i}": torch.zeros(1) for i in range(5)}, path, header)
    with pytest.raises(
        WeightsError, match=r"it has more.0, more.1, more.2 and 2 more, which the model has not"
    ):
        load_checkpoint(path)
    # Of as many elements as the model's, which a mere copy would take.
    wrong = tensors["head.bias"].unsqueeze(0)
    save_file(tensors | {"head.bias": wrong}, path, header)
    with pytest.raises(WeightsError, match=r"head.bias has shape \(1, \d+\), the model's has \(\d+,\)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (None, "without a deepgsr header"),
        ({"format": "pt"}, "without a deepgsr header"),
        ({"format": "deepgsr-2"}, "its format is deepgsr-2, this deepgsr reads deepgsr-1; update deepgsr"),
        ({"format": "deepgsr-1"}, "no model has its configuration"),
        ({"format": "deepgsr-1", "config": "{"}, "no model has its configuration"),
        ({"format": "deepgsr-1", "config": "[1]"}, "no model has its configuration"),
        ({"format": "deepgsr-1", "config": '{"model": "other"}'}, "no model has its configuration .*other"),
        ({"format": "deepgsr-1", "config": '{"model": "deepgsr", "x": 1}'}, "no model has its config"),
        ({"format": "deepgsr-1", "config": '{"model": "deepgsr", "widths": "x"}'}, "no model has its config"),
        ({"format": "deepgsr-1", "config": '{"model": "deepgsr", "channels": -1}'}, "no model has its conf"),
    ],
)
def test_a_header_that_is_not_ours_is_refused(
    tmp_path: Path, header: dict[str, str] | None, complaint: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(3)}, path, header)
    with pytest.raises(WeightsError, match=complaint):
        load_checkpoint(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, as_zip: bool) -> None:
    path, sprung = tmp_path / "x.pt", tmp_path / "sprung"
    torch.save({"model": Trap(str(sprung))}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(WeightsError, match="a PyTorch pickle, which could run any code when loaded"):
        load_checkpoint(path)
    assert not sprung.exists()


def test_a_damaged_file_is_refused_in_one_sentence(model: nn.Module, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "x.safetensors"
    save_checkpoint(whole, model, info={})
    data = whole.read_bytes()
    no_such_type = b'{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}   '
    for damaged in (
        b"",
        b"weights",
        b"a picture, say" * 9,
        data[:-1],
        data[:100],
        data + b"!",
        b"\xff" * 8 + data[8:],
        len(no_such_type).to_bytes(8, "little") + no_such_type + b"ab",
    ):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"x.safetensors: not a whole safetensors file \(.*\); give"):
            load_checkpoint(path)
    for unreadable in (tmp_path, tmp_path / "none"):
        with pytest.raises(WeightsError, match=r"cannot be read \(.*directory\); give another"):
            load_checkpoint(unreadable)
