"""What the machine refuses is one sentence and exit code 2, whatever command it meets."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from joblib.externals.loky.process_executor import TerminatedWorkerError
from safetensors import SafetensorError

from data.errors import DataError
from pipeline.cli import main
from pipeline.storage.machine_faults import machine_fault

WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "may not be read or written",
    errno.EIO: "the disk does not respond",
    errno.EMFILE: "too many files are open",
}


@pytest.mark.parametrize(("number", "words"), WORDS.items(), ids=errno.errorcode.get)
def test_every_fault_is_told_with_its_place(number: int, words: str, tmp_path: Path) -> None:
    plain = machine_fault(OSError(number, os.strerror(number)), tmp_path)
    assert str(plain).startswith(f"{tmp_path}: {words}")
    assert "to fix it" in str(plain)
    named = machine_fault(OSError(number, os.strerror(number), "/there/file"), tmp_path)
    assert str(named).startswith(f"/there/file: {words}")
    hidden = machine_fault(OSError(number, os.strerror(number), "/there/.graft-tmp-1-0123abcd-abcdefgh/x/y"), tmp_path)
    assert str(hidden).startswith(f"/there: {words}")


def test_a_fault_in_the_clothes_of_a_library_is_found(tmp_path: Path) -> None:
    def raised(start: Exception, error: Exception) -> Exception:
        try:
            try:
                raise start
            except type(start):
                raise error  # noqa: B904 (as libraries do)
        except type(error) as caught:
            return caught

    full = OSError(errno.ENOSPC, "full")
    assert "the disk is full" in str(machine_fault(raised(full, RuntimeError("cannot write the image")), tmp_path))
    rust = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "the disk is full" in str(machine_fault(rust, tmp_path))
    assert "a worker process was killed" in str(machine_fault(TerminatedWorkerError("..."), tmp_path))


def test_bugs_and_told_errors_are_none() -> None:
    assert machine_fault(KeyError("a bug")) is None
    assert machine_fault(FileNotFoundError(errno.ENOENT, "no such file")) is None
    told = DataError("/x: is wrong")
    told.__cause__ = OSError(errno.EACCES, "no right")
    assert machine_fault(told) is None


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[str]]:
    """A call of each command that writes; only the stages need a study."""
    raw = {
        "name": "tiny",
        "datasets": {"a": {"path": str(tmp_path / "scans"), "modality": "mr", "foreground": [1]}},
        "source": {"dataset": "a", "patients": 2},
        "target": {"dataset": "a", "pool": 2, "test": 1},
        "target_training": {"sizes": [1]},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    stage = [str(tmp_path / "study.yaml"), "--workspace", str(tmp_path / "out")]
    return {
        "pipeline.stages.sequence.run_stages": ["report", *stage],
        "pipeline.commands.dataset_check.check_folder": ["check", str(tmp_path / "out")],
        "pipeline.commands.synthesis.synthesize_cohort": ["synthesize", str(tmp_path / "out"), "--cohort", "ms"],
        "pipeline.deployment.predict_command.predict": ["predict", "model", "scan", "--output", str(tmp_path / "out")],
        "pipeline.deployment.export_command.export": ["export", "model", "--output", str(tmp_path / "out")],
    }


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "full"), TerminatedWorkerError("killed")], ids=["full", "kill"]
)
def test_every_command_tells_it_in_one_sentence(
    commands: dict[str, list[str]],
    fault: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise fault

    for function, arguments in commands.items():
        monkeypatch.setattr(function, fail)
        assert main(arguments) == 2, function
        error = capsys.readouterr().err
        assert "Traceback" not in error
        [sentence] = [line for line in error.splitlines() if line.startswith("graft: ")]
        assert re.search(r"the disk is full|a worker process was killed", sentence)
        assert "run the same command again; what is finished is kept" in sentence
        assert isinstance(fault, TerminatedWorkerError) or f"{tmp_path / 'out'}: " in sentence


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[str], Path]:
    """Mounts a disk of a given size, where that is allowed."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "graft-test", str(disk)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount")
        if done.returncode:
            pytest.skip("no right to mount")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.slow
def test_a_cohort_that_does_not_fit_on_the_disk_can_go_on(
    small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    disk = small_disk("60k")
    arguments = ["synthesize", str(disk), "--cohort", "abdomen", "--cases", "2", "--jobs", "1"]
    arguments += [
        "--set",
        "scanner.sample_mm=6",
        "--set",
        "scanner.in_plane_spacing=[5, 5]",
        "--set",
        "scanner.through_plane_spacing=[6, 6]",
    ]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "the disk is full" in error
    assert "Traceback" not in error
    assert not list(disk.rglob(".partial*"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    assert main(arguments) == 0
    assert len(list((disk / "labelsTr").iterdir())) == 2
