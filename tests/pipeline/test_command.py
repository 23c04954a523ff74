"""The `graft` command: its options, exit codes and sentences."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import DataError
from pipeline import cli
from pipeline.cli import main
from pipeline.storage.stage_names import Stage

COMMANDS = (
    "check",
    "synthesize",
    "preprocess",
    "train-source",
    "collect-filters",
    "fit-priors",
    "infer",
    "evaluate",
    "report",
    "run",
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose folder does not exist."""
    raw = {
        "name": "tiny",
        "datasets": {"a": {"path": str(tmp_path / "scans"), "modality": "mr", "foreground": [1]}},
        "source": {"dataset": "a", "patients": 2},
        "target": {"dataset": "a", "pool": 2, "test": 1},
        "target_training": {"sizes": [1]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been run: stages, configuration and resources."""
    seen: list[dict[str, Any]] = []

    def run_stages(stages, config, resources):
        from pipeline.storage.workspace import Workspace

        seen.append({"stages": [s.value for s in stages], "config": config, "resources": resources})
        return Workspace(config.workspace_folder)

    monkeypatch.setattr("pipeline.stages.sequence.run_stages", run_stages)
    return seen


def test_help_lists_all_commands_and_global_options(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in COMMANDS)
    # No sentence is cut off, and the stages stand in the order in which they run.
    assert "..." not in text.split("Commands:")[1]
    stages = [stage.value for stage in Stage]
    assert sorted(stages, key=lambda stage: text.index(f"\n  {stage} ")) == stages
    assert all(option in text for option in ("--set", "--workspace", "--jobs", "--device", "--debug"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_takes_the_global_options(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--set", "--workspace", "--jobs", "--device", "--debug"))


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from pipeline.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'numpy', 'monai', 'nibabel', 'SimpleITK', 'scipy', 'pydantic', 'matplotlib', 'joblib'};"
        "sys.exit(code or ', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in {"synthesize", "run", "check"}])
def test_a_stage_command_runs_that_stage(command: str, study: Path, calls: list) -> None:
    assert main([command, str(study)]) == 0
    assert [call["stages"] for call in calls] == [[command]]


def test_run_runs_all_stages_in_order(study: Path, calls: list, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", str(study)]) == 0
    assert calls[0]["stages"] == [c for c in COMMANDS if c not in {"synthesize", "run"}]
    assert "report/index.html" in capsys.readouterr().out


def test_options_count_before_the_command_and_after_it(study: Path, calls: list, tmp_path: Path) -> None:
    before = [
        "--set",
        "seed=1",
        "--set",
        "title=x",
        "--workspace",
        str(tmp_path / "a"),
        "--jobs",
        "3",
        "--device",
        "cpu",
    ]
    assert main([*before, "run", str(study)]) == 0
    assert main(["run", str(study), *before]) == 0
    assert main([*before[:2], "run", *before[2:], str(study)]) == 0
    for call in calls:
        assert (call["config"].seed, call["config"].title) == (1, "x")
        assert call["config"].workspace_folder == tmp_path / "a"
        assert (call["resources"].jobs, call["resources"].device) == (3, "cpu")
    # Those that come later win, and nothing is left over for the next command.
    assert main(["--set", "seed=1", "--jobs", "3", "run", str(study), "--set", "seed=2", "--jobs", "1"]) == 0
    assert (calls[-1]["config"].seed, calls[-1]["resources"].jobs) == (2, 1)
    assert main(["run", str(study)]) == 0
    assert (calls[-1]["config"].seed, calls[-1]["resources"].jobs, calls[-1]["resources"].device) == (0, None, "auto")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["run"],
        ["run", "--jobs", "0", "x.yaml"],
        ["run", "--device", "tpu", "x.yaml"],
        ["--nothing", "run", "x.yaml"],
    ],
)
def test_a_command_that_is_none_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_an_error_of_the_user_is_one_sentence_and_2(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", str(study), "--workspace", str(tmp_path / "w")]) == 2
    captured = capsys.readouterr()
    [line] = [line for line in captured.err.splitlines() if line.startswith("graft:")]
    assert str(tmp_path / "scans") in line
    assert "to fix it" in line
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback(
    study: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise DataError("/x: is wrong")

    monkeypatch.setattr("pipeline.stages.sequence.run_stages", fail)
    assert main(["run", str(study)]) == 2
    assert "Traceback" not in caplog.text
    assert main(["run", str(study), "--debug"]) == 2
    assert "Traceback" in caplog.text
    caplog.clear()
    monkeypatch.setenv("GRAFT_DEBUG", "1")
    assert main(["run", str(study)]) == 2
    assert "Traceback" in caplog.text


def test_a_bug_is_not_hidden(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("pipeline.stages.sequence.run_stages", fail)
    with pytest.raises(KeyError):
        main(["run", str(study)])


def test_an_interruption_says_how_to_go_on(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.sequence.run_stages", interrupt)
    assert main(["run", str(study)]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_workspace_in_use_is_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from pipeline.storage.workspace import Workspace

    with Workspace(tmp_path / "w").lock():
        assert main(["run", str(study), "--workspace", str(tmp_path / "w")]) == 2
    assert "another graft command is working in this folder" in capsys.readouterr().err


def test_cuda_that_is_not_there_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from data.errors import ConfigError
    from pipeline.config.reading import read_config
    from pipeline.stages.resources import Resources

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = read_config(study)
    with pytest.raises(ConfigError, match=r"--device cuda.*--device cpu"):
        Resources(None, "cuda").training(config)
    assert Resources(3, "auto").training(config)[1] == "cpu"
    assert Resources(3, "auto").training(config)[0].jobs == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # One training at a time on a GPU, unless asked for more.
    assert [Resources(jobs, "auto").training(config)[0].jobs for jobs in (None, 2)] == [1, 2]
    assert Resources(None, "cpu").training(config)[1] == "cpu"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cohort", "brain"], ["cohort", "'ms'"]),
        (["--cohort", "ms", "--channel", "PET"], ["FLAIR", "PET"]),
        (["--cohort", "ms", "--set", "scanner.nois=1"], ["scanner.nois"]),
    ],
)
def test_a_cohort_that_cannot_be_made_is_refused(
    options: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["synthesize", str(tmp_path / "out"), "--cases", "1", *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (tmp_path / "out").exists()


def test_a_cohort_is_made_with_the_options_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def synthesize(options, out, jobs, progress):
        seen.append((options, out, jobs))
        for _ in range(options.cases):
            progress()

    monkeypatch.setattr("pipeline.commands.synthesis.synthesize", synthesize)
    arguments = ["synthesize", str(tmp_path / "out"), "--cohort", "tumour", "--cases", "3", "--seed", "5"]
    assert main([*arguments, "--channel", "T1", "--channel", "FLAIR", "--set", "scanner.noise=0.1", "--jobs", "2"]) == 0
    [(options, out, jobs)] = seen
    assert (options.cohort, options.cases, options.seed, options.channel_names) == ("tumour", 3, 5, ("T1", "FLAIR"))
    assert options.scanner.noise == 0.1
    assert (out, jobs) == (tmp_path / "out", 2)


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture) -> None:
    import importlib.metadata

    assert main(["version"]) == 0
    assert capsys.readouterr().out.strip() == importlib.metadata.version("graft-seg")
    assert cli.app.info.name == "graft"


def test_control_characters_of_a_path_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["check", str(tmp_path / "a\x1b[31m\nb")]) == 2
    error = capsys.readouterr().err
    assert "a\\x1b[31m\\nb: there is no such folder" in error
    assert "\x1b" not in error
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s\nsecond line", ("\x1b[31m",), None)
    assert all(handler.filter(record) for handler in logging.getLogger().handlers)
    assert record.getMessage() == "\\x1b[31m\nsecond line"
