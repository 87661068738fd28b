"""Files on the Hugging Face hub: addresses, the cache, downloads and what can go wrong."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from deepgsr_cli.errors import WeightsError, first_line
from deepgsr_cli.weights.manifest import HubFile


def parse_hub(spec: str) -> HubFile:
    parts = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", spec)
    if parts is None:
        raise WeightsError(f"{spec}: not an address on the hub; give hf://owner/repo[@revision]/file")
    repo, revision, file = parts.groups()
    return HubFile(repo, unquote(revision or "main"), file)


def cached_file(hub: HubFile, cache_dir: Path | None) -> Path | None:
    """Find a file in the hub cache, without the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub.repo, hub.file, cache_dir=cache_dir, revision=hub.revision)
    except HFValidationError as error:
        raise WeightsError(f"{hub.repo}: no repository has this name; give owner/name") from error
    return (
        Path(found) if isinstance(found, str) else None
    )  # else None, or a mark that the hub has no such file


def download(label: str, hub: HubFile, offline: bool, cache_dir: Path | None) -> Path:
    """Fetch a file into the hub cache; return where it is there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        if offline:
            raise OfflineModeIsEnabled
        # Asked first, once: without a network the download itself would retry for half a minute.
        get_hf_file_metadata(hf_hub_url(hub.repo, hub.file, revision=hub.revision))
        return Path(hf_hub_download(hub.repo, hub.file, revision=hub.revision, cache_dir=cache_dir))
    except Exception as error:  # each version of huggingface_hub has another HTTP library's errors
        reason, remedy = _hub_trouble(hub, error)
        remedy = remedy or f"run `deepgsr weights pull {label}` when online"
        raise WeightsError(
            f"{label}: cannot be fetched from {hub.repo}, {reason}; {remedy}, or give --weights FILE"
        ) from error


def _hub_trouble(hub: HubFile, error: Exception) -> tuple[str, str | None]:
    """What went wrong, in a few words, and what to do about it where waiting does not help."""
    from huggingface_hub import errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline mode is on and it is not in the cache", None
    if isinstance(error, errors.GatedRepoError):
        return (
            "its owner asks for consent first",
            f"accept the terms at the hub's page of {hub.repo}, set HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository or it is private", "check the name and HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {hub.revision}", "check the revision"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"revision {hub.revision} has no file {hub.file}", "check the name"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answered {error.response.status_code}", None
    return f"the download failed ({first_line(cause or error)})", None
