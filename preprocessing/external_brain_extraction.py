"""Brain masks from programs that a user may have installed: HD-BET and SynthStrip. Nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from data.errors import PreprocessingError
from data.image_file import read_volume, write_volume
from data.label_map import above_half
from data.volume import Volume
from preprocessing.interruption import ask

_ASK_EVERY = 0.5
"""Seconds between two checks whether a running program is still wanted."""


def run_hd_bet(volume: Volume, weights: Path | None = None) -> Volume:
    """Runs `hd-bet` (Isensee et al., Human Brain Mapping 40 (2019) 4952) on the CPU and returns its mask.

    The folder of weights is passed on as `HD_BET_PARAMS`.

    Raises:
        PreprocessingError: the program is not installed, the weights are missing, or it fails.
    """
    _require_weights(weights)
    environment = dict(os.environ) | ({} if weights is None else {"HD_BET_PARAMS": os.fspath(weights)})
    with tempfile.TemporaryDirectory() as folder:
        image, output = Path(folder, "image.nii.gz"), Path(folder, "brain.nii.gz")
        write_volume(volume, image)
        options = ["-device", "cpu", "--disable_tta", "--save_bet_mask", "--no_bet_image"]
        _run("hd-bet", ["-i", os.fspath(image), "-o", os.fspath(output), *options], environment)
        masks = sorted(Path(folder).glob("*mask*.nii.gz")) + sorted(Path(folder).glob("*_bet.nii.gz"))
        return _read("hd-bet", masks, volume)


def run_synthstrip(volume: Volume, weights: Path | None = None) -> Volume:
    """Runs `mri_synthstrip` (Hoopes et al., NeuroImage 260 (2022) 119474) on the CPU and returns its mask.

    The file of weights is passed on as `--model`.

    Raises:
        PreprocessingError: the program is not installed, the weights are missing, or it fails.
    """
    _require_weights(weights)
    with tempfile.TemporaryDirectory() as folder:
        image, mask = Path(folder, "image.nii.gz"), Path(folder, "mask.nii.gz")
        write_volume(volume, image)
        model = [] if weights is None else ["--model", os.fspath(weights)]
        _run("mri_synthstrip", ["-i", os.fspath(image), "-m", os.fspath(mask), *model], dict(os.environ))
        return _read("mri_synthstrip", [mask] if mask.exists() else [], volume)


def _require_weights(weights: Path | None) -> None:
    if weights is not None and not weights.exists():
        raise PreprocessingError(
            f"there are no weights at {weights}", expected="a file or folder", fix="correct skull_strip.weights"
        )


def _run(program: str, arguments: list[str], environment: dict[str, str]) -> None:
    path = shutil.which(program)
    if path is None:
        raise PreprocessingError(
            f"the program {program} is not installed",
            expected=f"{program} on the PATH",
            fix="install it, or set skull_strip.method to combined",
        )
    pipe = subprocess.PIPE
    with subprocess.Popen([path, *arguments], env=environment, text=True, stdout=pipe, stderr=pipe) as running:
        output, errors = _waited(running)
    if running.returncode:
        last = (errors or output).strip().splitlines()[-1:] or ["no message"]
        raise PreprocessingError(f"{program} failed with exit code {running.returncode}: {last[0]}")


def _waited(running: subprocess.Popen[str]) -> tuple[str, str]:
    """Waits for a program, which takes minutes, and kills it if the chain is to stop."""
    try:
        while True:
            ask()
            with suppress(subprocess.TimeoutExpired):
                return running.communicate(timeout=_ASK_EVERY)
    except BaseException:
        running.kill()
        raise


def _read(program: str, masks: list[Path], volume: Volume) -> Volume:
    if not masks:
        raise PreprocessingError(f"{program} wrote no mask", fix="run it by hand on this scan")
    # An empty mask is not an error here: the step that judges masks reports it as suspect.
    return volume.with_array(above_half(read_volume(masks[0])))
