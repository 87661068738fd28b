"""What is done to a picture: by which networks, in turn, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deepgsr_cli.compute.levels import average

if TYPE_CHECKING:
    from deepgsr_cli.jobs.work import Progress
    from deepgsr_cli.pictures.compression import Compression
    from deepgsr_cli.pictures.findings import NoiseFinding, RainFinding

# What weights for a task remove, in words.
KINDS = {"denoise": "white noise", "photo": "photographs", "derain": "rain", "dejpeg": "JPEG"}


class Remover(Protocol):
    """Restoration by the network of a task; a `restorer.Restorer`."""

    task: str

    def sigma_limit(self, channels: int) -> float: ...

    def restore_pixels(
        self,
        pixels: np.ndarray,
        sigma: float | None = None,
        *,
        clipped: bool = False,
        strength: float = 1.0,
        in_place: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray: ...

    def restore_compressed(
        self,
        pixels: np.ndarray,
        compression: Compression,
        *,
        strength: float = 1.0,
        in_place: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class Second:
    """Another restoration of a picture, to take the mean with.

    Attributes:
        restorer: Restoration, for another kind of noise or the same.
        sigma: Noise level that it is told, on the 0-255 scale.
        mirrored: Whether it sees the picture mirrored at its diagonal.
    """

    restorer: Remover
    sigma: float
    mirrored: bool = False


@dataclass(frozen=True)
class Choice:
    """What one network does to a picture, or the mean of what two do.

    Attributes:
        restorer: Restoration for what is wrong with it; None where there is nothing to do.
        sigma: Noise level that the network is told, on the 0-255 scale; None if it is told none.
        found: What noise was found in the picture; None if nobody looked.
        rain: What rain was found; None if nobody looked.
        compression: What was found of JPEG, that the network is told; None for none.
        restored: The pixels restored, where looking at them has done that; None elsewhere.
        second: Another restoration, to take the mean with; None for none.
    """

    restorer: Remover | None
    sigma: float | None = None
    found: NoiseFinding | None = None
    rain: RainFinding | None = None
    compression: Compression | None = None
    restored: np.ndarray | None = None
    second: Second | None = None

    @property
    def words(self) -> str:
        """What was found, and by what it is removed if it is, in words; empty if nobody looked."""
        if self.compression is not None:
            finding = f"JPEG of quality {self.compression.quality} found"
        elif (seen := self.found or self.rain) is not None:
            finding = seen.words
        else:
            return ""
        if self.restorer is None:
            return finding
        if self.found is not None and self.found.kind in ("none", "unknown"):
            return f"{finding}; a level of {self.sigma:.1f} removed by the weights for photographs, as asked"
        kinds = KINDS[self.restorer.task]
        if self.second is not None and self.second.restorer is not self.restorer:
            kinds = f"{kinds} and for {KINDS[self.second.restorer.task]}"
        return f"{finding}, removed by the weights for {kinds}"

    @property
    def advice(self) -> str:
        """What to do where a picture is left as it is for want of certainty, in words; empty elsewhere."""
        if self.restorer is None and self.rain is not None and not self.rain.told:
            return "give --weights deepgsr-derain to have it removed"
        if self.restorer is not None or self.found is None or self.found.kind != "unknown":
            return ""
        # Of a picture that is too small nothing is known that could be told.
        return f"give {'--noise camera, or --sigma,' if self.found.sigmas else '--sigma'} to have it removed"

    @property
    def facts(self) -> dict[str, Any]:
        """What was found and what is told, by the names of docs/json.md."""
        facts: dict[str, Any] = {}
        if self.rain is not None:
            facts["rain"] = self.rain.there
        if self.found is not None:
            facts["noise"] = self.found.kind
            facts["sigma_estimated"] = [round(level, 2) for level in self.found.sigmas]
        if self.sigma is not None:
            facts["sigma"] = round(self.sigma, 2)
        if self.compression is not None:
            facts["quality"] = self.compression.quality
        return facts

    def run(
        self,
        pixels: np.ndarray,
        *,
        clipped: bool = False,
        strength: float = 1.0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Restore the pixels, (C, H, W), of the picture, in place where that saves memory.

        Arguments and errors as of `Restorer.restore_pixels`.
        """
        if self.restorer is None:
            return pixels
        if self.restored is not None:
            return pixels + np.float32(strength) * (self.restored - pixels)
        if self.compression is not None:
            return self.restorer.restore_compressed(
                pixels, self.compression, strength=strength, in_place=True, progress=progress
            )

        def by(
            restorer: Remover, sigma: float | None, pixels: np.ndarray, told: Progress | None
        ) -> np.ndarray:
            return restorer.restore_pixels(
                pixels, sigma, clipped=clipped, strength=strength, in_place=True, progress=told
            )

        if self.second is None:
            return by(self.restorer, self.sigma, pixels, progress)
        axes = (0, 2, 1) if self.second.mirrored else (0, 1, 2)
        given = pixels.transpose(axes).copy()
        others = by(self.second.restorer, self.second.sigma, given, part(progress, 0, 2)).transpose(axes)
        restored = by(self.restorer, self.sigma, pixels, part(progress, 1, 2))
        average(restored, others)
        return restored


@dataclass(frozen=True)
class Route:
    """What is done to a picture in turn, by one network or several.

    Attributes:
        choices: What each looks for and does, in their order.
    """

    choices: tuple[Choice, ...]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._active

    @property
    def words(self) -> str:
        """What was found, and by what it is removed, in one line; empty if nobody looked."""
        if self.idle and len(self.choices) > 1:
            return "nothing found to remove" if not self.advice else self.choices[-1].words
        said = self._active if len(self.choices) > 1 else self.choices
        return "; ".join(filter(None, (choice.words for choice in said)))

    @property
    def advice(self) -> str:
        """As of `Choice`."""
        return self.choices[-1].advice if self.idle else ""

    @property
    def facts(self) -> dict[str, Any]:
        """As of `Choice`, of all of them."""
        return {name: value for choice in self.choices for name, value in choice.facts.items()}

    @property
    def _active(self) -> tuple[Choice, ...]:
        return tuple(choice for choice in self.choices if choice.restorer is not None)

    def run(
        self,
        pixels: np.ndarray,
        *,
        clipped: bool = False,
        strength: float = 1.0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Restore the pixels as `Choice.run` does; `strength` is the share of the whole correction."""
        if len(self._active) == 1:
            return self._active[0].run(pixels, clipped=clipped, strength=strength, progress=progress)
        given = pixels.copy() if strength < 1 else pixels
        for number, choice in enumerate(self._active):
            told = part(progress, number, len(self._active))
            pixels = choice.run(pixels, clipped=clipped, progress=told).clip(0, 1)
        return pixels if strength == 1 else given + np.float32(strength) * (pixels - given)


def part(progress: Progress | None, number: int, count: int) -> Progress | None:
    """What is told the progress of one of several networks, and tells it as that of all."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)
