"""A disk that fills up in a stage: one sentence, finished work is kept, and the same command resumes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main

pytestmark = pytest.mark.slow

_STAGES = ("check", "preprocess", "train-source", "collect-filters", "fit-priors", "infer", "evaluate", "report")
_FOLDERS = {
    "collect-filters": ("collect-filters", "measure-filters"),
    "fit-priors": ("fit-priors", "score-priors", "compare-priors"),
    "infer": ("train-target", "predict-test", "infer"),
    "evaluate": ("evaluate", "results"),
}
_PAGE = 4096


class SmallDisk:
    """A file system in memory whose size is changed while it is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=512m", "tmpfs")

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.folder)], check=True, capture_output=True)

    def leave(self, free: int) -> None:
        """Leaves this many bytes free, to a page."""
        used = shutil.disk_usage(self.folder).used
        self._mount("-o", f"remount,size={used + max(free, _PAGE)}")

    def enlarge(self) -> None:
        """Makes room again."""
        self._mount("-o", "remount,size=512m")

    def close(self) -> None:
        """Gives it back."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        own = SmallDisk(tmp_path / "disk")
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this needs the right to mount a small file system")
    yield own
    own.close()


def _size(folder: Path) -> int:
    return sum(-(-p.stat().st_size // _PAGE) * _PAGE for p in folder.rglob("*") if p.is_file())


def _says_so(code: int, error: str) -> None:
    assert code == 2, error
    assert "Traceback" not in error
    sentences = [line for line in error.splitlines() if line.startswith("graft: ")]
    assert len(sentences) == 1, error
    assert "full" in sentences[0] or "No space left" in sentences[0], sentences[0]


def _workspace_before(stage: str, whole: Path, target: Path) -> None:
    """Copies a finished study without the results of a stage and of those after it."""
    shutil.copytree(whole, target)
    for later in _STAGES[_STAGES.index(stage) :]:
        for folder in _FOLDERS.get(later, (later,)):
            shutil.rmtree(target / folder, ignore_errors=True)


@pytest.mark.parametrize("stage", _STAGES)
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_stage_on_a_full_disk(
    stage: str,
    share: float,
    finished_study: Any,
    commands: Any,
    disk: SmallDisk,
    contents: Callable[[Path], dict[str, str]],
    leftovers: Callable[[Path], list[str]],
    thorough: bool,
) -> None:
    if not thorough:
        pytest.skip("only with `make faults`")
    workspace = disk.folder / "workspace"
    _workspace_before(stage, finished_study.workspace, workspace)
    before = {p: p.read_bytes() for p in workspace.rglob("done.json")}
    written = sum(_size(finished_study.workspace / folder) for folder in _FOLDERS.get(stage, (stage,)))
    disk.leave(int(share * written))
    command = ("run" if stage == "check" else stage, finished_study.config, "--workspace", workspace, "--jobs", "1")
    _says_so(*commands.run(*command))
    assert {p: p.read_bytes() for p in before} == before
    disk.enlarge()
    assert main(["run", str(finished_study.config), "--workspace", str(workspace), "--jobs", "1"]) == 0
    assert contents(workspace) == contents(finished_study.workspace)
    assert leftovers(workspace) == []
    assert commands.shared_memory() == []


@pytest.mark.parametrize("share", [0.1, 0.6])
@pytest.mark.parametrize("command", ["predict", "export", "synthesize"])
def test_a_command_on_a_full_disk(
    command: str,
    share: float,
    finished_study: Any,
    commands: Any,
    disk: SmallDisk,
    contents: Callable[[Path], dict[str, str]],
    leftovers: Callable[[Path], list[str]],
    thorough: bool,
    tmp_path: Path,
) -> None:
    if not thorough and (command, share) != ("predict", 0.6):
        pytest.skip("only with `make faults`")
    model = finished_study.workspace / "infer" / "dwp" / "n02" / "repeat-0" / "model"
    scans = [finished_study.cohort / "imagesTr" / f"case_{number}.nii.gz" for number in range(3)]
    words: dict[str, tuple[str | Path, ...]] = {
        "predict": ("predict", model, *scans, "--samples", "2", "--set", "pictures=false", "--output"),
        "export": ("export", model, "--set", "onnx=false", "--output"),
        "synthesize": ("synthesize", "--cohort", "abdomen", "--cases", "1", "--set", "scanner.sample_mm=6"),
    }

    def asked(output: Path) -> tuple[str | Path, ...]:
        return (*words[command], output)

    assert main([str(word) for word in asked(tmp_path / "whole")]) == 0
    disk.leave(int(share * _size(tmp_path / "whole")))
    output = disk.folder / "output"
    _says_so(*commands.run(*asked(output)))
    disk.enlarge()
    assert main([str(word) for word in asked(output)]) == 0
    assert contents(output) == contents(tmp_path / "whole")
    assert leftovers(output) == []
