"""Every `graft …` and `make …` in the documentation exists, with these options and, where it is whole, these values."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from pydantic import ValidationError

from data.errors import GraftError
from data.synthetic.cohort import CohortOptions
from pipeline.cli import app
from pipeline.config.reading import read_command_options, read_config
from pipeline.deployment.export_options import ExportOptions
from pipeline.deployment.predict_options import PredictOptions
from pipeline.storage.stage_names import Stage

COMMAND = typer.main.get_command(app)
UsageError = typer.BadParameter.__mro__[1]
"""What a command line that does not parse raises; typer has no public name for it."""
STAGES = [stage.value for stage in Stage]
_PLACEHOLDERS = {"STAGE", "COMMAND", "[OPTIONS]", "..."}
_OTHER_OPTIONS = {"--check"}
"""Options of `docs/generate_reference.py`."""


def _options(command) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def _parse_graft(words: list[str]):
    """Parses a whole command as the program would, without running it; returns the subcommand's name and parameters."""
    top = COMMAND.make_context("graft", list(words))
    rest = [*getattr(top, "_protected_args", []), *top.args]
    if not rest:
        return None, top.params
    name, command, rest = COMMAND.resolve_command(top, rest)
    return name, command.make_context(name, rest, parent=top).params


def _make_words(words: list[str], targets, variables) -> tuple[list[str], dict[str, str]]:
    """Target names and variables of a `make` command, checked against the Makefile."""
    assigned = dict(w.split("=", 1) for w in words if re.match(r"[A-Z_]+=", w))
    called = [w for w in words if not re.match(r"[A-Z_]+=", w)]
    assert set(assigned) <= variables, f"make has no variable {set(assigned) - variables}"
    assert called, "make without a target"
    assert set(called) - _PLACEHOLDERS <= set(targets), f"make has no target {set(called) - set(targets)}"
    return called, assigned


def _check_values(name: str | None, parameters: dict) -> None:
    """Overrides name known keys, and configurations of this project exist and are valid with them."""
    overrides = parameters.get("overrides") or []
    path = parameters.get("config") or parameters.get("path")
    if name == "synthesize":
        chosen = {key: parameters[key] for key in ("cohort", "cases", "seed")}
        CohortOptions.model_validate(chosen | ({"channels": c} if (c := parameters.get("channels")) else {}))
    elif name == "predict":
        read_command_options("predict", PredictOptions, overrides)
    elif name == "export":
        read_command_options("export", ExportOptions, overrides)
    elif path is not None and str(path).startswith("configs/"):
        read_config(Path(path), overrides)
    elif overrides:
        read_config(Path("configs/demo.yaml"), overrides)


def test_whole_commands_of_shell_blocks_parse(pages, root, monkeypatch, make_targets, make_variables):
    monkeypatch.chdir(root)
    parsed = 0
    for page in pages.values():
        for words in page.commands:
            where = f"{page.name}: {shlex.join(words)}"
            program, arguments = words[0], words[1:]
            try:
                if program == "make":
                    called, assigned = _make_words(arguments, make_targets, make_variables)
                    for target in called:
                        config = assigned.get("CONFIG", "configs/demo.yaml")
                        assert config == "configs/NAME.yaml" or (root / config).is_file(), f"no {config}"
                        if target in [*STAGES, "run", "demo"]:
                            stage = "run" if target == "demo" else target
                            _check_values(*_parse_graft([stage, config, *shlex.split(assigned.get("ARGS", ""))]))
                elif program == "graft":
                    _check_values(*_parse_graft(arguments))
                elif program == "python":
                    assert (root / arguments[0]).is_file()
                else:
                    pytest.fail(f"{where}: not a command of this project")
            except (UsageError, GraftError, ValidationError, AssertionError) as error:
                pytest.fail(f"{where}: {error}")
            parsed += 1
    assert parsed > 20


def test_commands_named_in_the_text_exist(pages, make_targets, make_variables):
    named = 0
    for page in pages.values():
        for code in page.inline_code:
            code = code.removeprefix(".venv/bin/").replace("\\|", "|")
            if code.startswith("make "):
                _make_words(shlex.split(code)[1:], make_targets, make_variables)
            elif code.startswith("graft "):
                words = code.split()[1:]
                name = next((w for w in words if not w.startswith(("-", "["))), None)
                known = set(COMMAND.commands) | _PLACEHOLDERS
                assert name is None or name in known, f"{page.name}: {code}"
                flags = {w.split("=")[0] for w in words if w.startswith("-")}
                command = COMMAND.commands.get(name or "")
                allowed = (_options(command) if command else set()) | _options(COMMAND) | {"--help", "-h"}
                assert flags <= allowed, f"{page.name}: {code}"
            else:
                continue
            named += 1
    assert named > 40


def test_options_named_in_the_text_exist(pages):
    known = _options(COMMAND).union(*(_options(c) for c in COMMAND.commands.values())) | _OTHER_OPTIONS | {"--help"}
    named = [(page.name, code) for page in pages.values() for code in page.inline_code if code.startswith("--")]
    assert len(named) > 10
    for name, code in named:
        assert set(code.split()[0].split("=")[0].split("/")) <= known, f"{name}: {code}"


def test_the_readme_lists_every_command_and_with_the_page_for_contributors_every_target(pages, make_targets):
    readme, contributing = (pages[name].inline_code for name in ("README.md", "CONTRIBUTING.md"))
    commands = {words[1] for code in readme if (words := code.split())[0] == "graft" and len(words) > 1}
    assert set(COMMAND.commands) <= commands
    targets = {word for code in readme + contributing if code.startswith("make ") for word in code.split()[1:]}
    assert set(make_targets) <= targets


def test_a_wrong_command_would_be_found():
    with pytest.raises(UsageError, match="--no-such-option"):
        _parse_graft(["run", "configs/demo.yaml", "--no-such-option"])
    with pytest.raises(UsageError, match="no-such-command"):
        _parse_graft(["no-such-command"])
