"""The commands of the documentation run, in the order of the pages, on a miniature study.

Data and studies are replaced by small ones of the same names (noise with two bright structures), and options that only
take time or a GPU are overruled by `_CHEAPER`, which is put behind the command as the page has it. Of the commands of a
stage with the same options, and of the same commands, the first is run. These blocks are not run here:
targets of developers, and the launcher of several processes, which `tests/integration/test_several_processes.py` runs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from data.image_file import write_volume
from data.volume import Volume
from pipeline.cli import app, main
from pipeline.storage.stage_names import Stage

pytestmark = pytest.mark.slow

_STAGES = (*(stage.value for stage in Stage), "run")
_CHEAPER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_STAGES, ("--jobs", "1", "--device", "cpu", "--set", "target_training.steps=4")),
    "predict": ("--jobs", "1", "--device", "cpu", "--samples", "2", "--set", "pictures=false"),
    "export": ("--set", "onnx=false"),
    "init": ("--jobs", "1", "--device", "cpu", "--steps-per-second", "5"),
    "adapt": (
        *("--jobs", "1", "--device", "cpu", "--steps-per-second", "5", "--set", "target_training.steps=4"),
        *(
            "--set",
            "report={overlay_arms: 1, case_arms: 1, case_pages: 1, quality_cases: 1, audited_cases: 1, dpi: 50, "
            "vector_figures: false}",
        ),
        *("--set", "target.folds=2", "--set", "target_training.inner_folds=0"),
    ),
    "synthesize": (
        *("--cohort", "abdomen", "--cases", "1", "--set", "scanner.sample_mm=6"),
        *("--set", "scanner.in_plane_spacing=[5, 5]", "--set", "scanner.through_plane_spacing=[6, 6]"),
    ),
}
_OF_DEVELOPERS = {
    *("setup", "test", "test-fast", "test-lowest", "coverage", "faults"),
    *("lint", "wheel", "docs", "bench", "configs", "clean", "help"),
}
"""Targets of the Makefile that call no command of Graft."""
_PATIENTS = 10
_AFFINE = np.array([[-2.0, 0, 0, 14], [0, 2.0, 0, -16], [0, 0, 2.0, -13], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        page: where it stands.
        words: as the page has it.
        name: of the subcommand.
        code: its exit code.
        error: the end of what it wrote on standard error.
    """

    page: str
    words: list[str]
    name: str
    code: int
    error: str


def _scan(number: int) -> tuple[Volume, Volume]:
    generator = np.random.default_rng(number)
    label = np.zeros((14, 16, 13), np.uint8)
    label[2:6, 3:7, 4:8], label[8:12, 9:13, 4:9] = 1, 2
    label = np.roll(label, number % 2, axis=2)
    image = (100 + 200.0 * (label > 0) + generator.normal(0, 25, label.shape)).astype(np.int16)
    return Volume(image, _AFFINE), Volume(label, _AFFINE)


def _write_dataset(root: Path) -> None:
    names = [f"case_{number}" for number in range(_PATIENTS)]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        image, label = _scan(number)
        write_volume(image, root / "imagesTr" / f"{name}.nii.gz")
        write_volume(label, root / "labelsTr" / f"{name}.nii.gz")
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    labels = {"0": "background", "1": "left", "2": "right"}
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "T1"}, "labels": labels, "training": training}))
    (root / "patients.csv").write_text("case,patient\n" + "".join(f"{name},{name}\n" for name in names))


def _study(name: str, dataset: Path) -> dict[str, Any]:
    """A study with the arms and the size that the pages name."""
    return {
        "name": name,
        "datasets": {
            role: {"path": str(dataset), "modality": "mr", "foreground": [role]} for role in ("left", "right")
        },
        "source": {"dataset": "left", "patients": 3},
        "target": {"dataset": "right", "pool": 5, "test": 2},
        "preprocessing": {"resampling": {"spacing": [2, 2, 2]}},
        "network": {"name": "residual_unet", "channels": [4, 6], "encoder_blocks": [0, 1]},
        "patches": {"size": [8, 8, 8], "batch": 1},
        "source_training": {"networks": 2, "cycles": 1, "steps_per_cycle": 3, "warm_up": 1, "validation_cases": 1},
        "priors": {
            "densities": {"vae": {"max_steps": 10, "hidden": [8], "latent": 2, "batch": 64}},
            "score_samples": 2,
        },
        "target_training": {"arms": ["random", "dwp", "swag_calibrated"], "sizes": [5], "repeats": 1, "steps": 4},
        "evaluation": {"resamples": 100, "lesions": {}},
        "report": {
            "overlay_arms": 1, "case_arms": 1, "case_pages": 1, "filter_groups": 1,
            "filters_shown": 2, "filter_vaes": 1, "quality_cases": 1, "audited_cases": 1, "dpi": 50,
            "vector_figures": False,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks to the commands like the project with the user's files in it."""
    folder = tmp_path_factory.mktemp("project")
    _write_dataset(folder / "data")
    for path in ("configs", "new-scans", "scans"):
        (folder / path).mkdir()
    for name in [path.stem for path in (root / "configs").glob("*.yaml")]:
        (folder / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(_study(name, folder / "data")))
    (folder / "my-study.yaml").write_text(yaml.safe_dump(_study("my-study", folder / "data")))
    for number, name in enumerate(("new-scans/x", "scans/a", "scans/b")):
        write_volume(_scan(100 + number)[0], folder / f"{name}.nii.gz")
    (folder / "cases.csv").write_text("case,T1\nanna,scans/a.nii.gz\n")
    return folder


def _of_make(words: list[str], root: Path) -> list[str]:
    """The words of the `graft` command that `make` would call."""
    # Nothing of a `make test ARGS=…` that these tests may run under.
    environment = {"PATH": os.environ["PATH"]}
    make = ["make", "--dry-run", *words]
    printed = subprocess.run(make, cwd=root, capture_output=True, text=True, check=True, env=environment).stdout
    [line] = [line for line in printed.splitlines() if re.match(r"\S+/bin/graft ", line)]
    return shlex.split(line)[1:]


def _in_place(words: list[str], place: Path, pack: Path) -> list[str]:
    """The command on the small data, with the cheaper options; a new workspace starts with what is done already."""
    replaced = [re.sub(r"^/data/[\w-]+", str(place / "data"), word) for word in words]
    name = replaced[0]
    if name == "adapt":
        # Where a page begins with what somebody else has given.
        given = {"my-scans": str(place / "data"), "ms-flair.pack": str(pack)}
        replaced = [given.get(word, word) for word in replaced]
    if name == "predict":
        # The cohort made here is a CT, which is made quicker than a head; the model is one for MR.
        replaced = ["scans" if word == "my-cohort" else word for word in replaced]
    if name in _STAGES:
        option = replaced.index("--workspace") + 1 if "--workspace" in replaced else None
        workspace = Path(replaced[option] if option else f"workspaces/{Path(replaced[1]).stem}")
        done = Path("workspaces/demo")
        if (done / "report").exists() and not workspace.exists():
            shutil.copytree(done, workspace)
    extra = _CHEAPER.get(name, ()) if name != "check" or replaced[1].endswith(".yaml") else ()
    return [*replaced, *extra]


def _form(ours: list[str]) -> tuple[str, ...]:
    """What two commands have in common that the test does not run twice."""
    if ours[0] not in _STAGES or not ours[1].endswith(".yaml"):
        return tuple(ours)
    overruled = {word for word in _CHEAPER[ours[0]] if word.startswith("--")} - {"--set"}
    return ours[0], *sorted({word for word in ours if word.startswith("--")} - overruled)


def _distinct(pages: dict[str, Any], root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Page, words, and the words of the `graft` command, each form of a command once."""
    seen = set()
    for page in pages.values():
        for words in page.commands:
            if words[0] not in {"graft", "make"} or set(words[1:]) <= _OF_DEVELOPERS:
                continue
            ours = _of_make(words[1:], root) if words[0] == "make" else words[1:]
            if _form(ours) not in seen:
                seen.add(_form(ours))
                yield page.name, words, ours


@pytest.fixture(scope="module")
def outcomes(
    pages: dict[str, Any], root: Path, place: Path, tiny_pack: Path, module_without_drawing: None
) -> list[Outcome]:
    """Every command of the pages, run."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for page, words, ours in _distinct(pages, root):
            error = StringIO()
            with redirect_stderr(error), redirect_stdout(StringIO()):
                code = main(_in_place(ours, place, tiny_pack))
            done.append(Outcome(page, words, ours[0], code, error.getvalue()[-500:]))
    return done


def test_every_command_of_the_pages_succeeds(outcomes: list[Outcome]) -> None:
    failed = [f"{o.page}: {shlex.join(o.words)}: exit code {o.code}: {o.error}" for o in outcomes if o.code]
    assert not failed, "\n".join(failed)


def test_every_subcommand_was_carried_out(outcomes: list[Outcome]) -> None:
    # That no page names any other is seen by `test_commands_named_in_the_text_exist`.
    assert {outcome.name for outcome in outcomes} == set(typer.main.get_command(app).commands)


def _run_python(source: str, name: str) -> str:
    """Carries out Python of a page or notebook and returns what it prints."""
    with redirect_stdout(StringIO()) as printed:
        exec(compile(source, name, "exec"), {"__name__": name})
    return printed.getvalue().strip()


def test_the_python_of_the_pages_runs(
    outcomes: list[Outcome],
    pages: dict[str, Any],
    reader_files: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert outcomes
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(reader_files))
    sources = {name: page.python for name, page in pages.items() if page.python}
    assert len([name for name in sources if name.endswith("-in-python.md")]) == 6
    for name, source in sources.items():
        assert _run_python(source, name), name


def test_the_notebooks_run_and_are_kept_without_output(
    outcomes: list[Outcome], notebooks: dict[str, dict[str, Any]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcomes
    monkeypatch.chdir(place)
    assert notebooks
    for name, notebook in notebooks.items():
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None], name
        # One namespace, as a kernel has it.
        assert len(_run_python("\n".join("".join(cell["source"]) for cell in cells), name).splitlines()) >= len(cells)


def _layout(text: str) -> dict[str, bool]:
    """Regular expression of each path of the workspace page → whether it is a folder whose files are not listed."""
    block = text.split("```")[1]
    found: dict[str, bool] = {}
    parents: dict[int, str] = {}
    for line in block.strip("\n").splitlines():
        indent, names = re.match(r"( *)([^\s,]+(?:, [^\s,]+)*)", line).groups()
        parent = parents.get(len(indent) - 2, "")
        found.pop(parent, None)
        for name in names.split(", "):
            path = parent + re.sub(r"[A-Z]{2,}|(?<=-)R\b", "[^/]+", name.replace(".", r"\."))
            parents[len(indent)] = path
            found[path] = path.endswith("/")
    return found


def test_every_file_of_a_workspace_is_documented_and_every_documented_one_is_there(
    outcomes: list[Outcome], place: Path, pages: dict[str, Any]
) -> None:
    assert outcomes
    workspace = place / "workspaces" / "demo"
    files = [path.relative_to(workspace).as_posix() for path in workspace.rglob("*") if path.is_file()]
    files = [name for name in files if not name.endswith("/done.json")]
    layout = _layout(pages["docs/reference/workspace.md"].text)
    patterns = [re.compile(path + (".+" if folder else "")) for path, folder in layout.items()]
    assert not [name for name in files if not any(pattern.fullmatch(name) for pattern in patterns)]
    # Its data are not synthetic, its rates not tuned, its networks have no trunk, and it has no unlabelled scans no
    # image models and no translation.
    absent = ("predict-unlabelled", "keep-rounds", "synth", "tune-rates", "train-trunk", "collect-starts")
    absent += ("translate-source", "train-image-model", "report/latents", "fit-gates")
    listed = [p for p in patterns if not p.pattern.startswith(absent) and "gate-image" not in p.pattern]
    assert not [p.pattern for p in listed if not any(p.fullmatch(name) for name in files)]
    assert len(listed) > 30
