"""Every worker sees one GPU, and as many workers share one as their command says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.execution.backend_options import Cluster, SubmititOptions
from pipeline.execution.cluster.submitit_backend import SubmititBackend
from pipeline.execution.gpu_slot import GpuSlots
from pipeline.execution.local_backend import LocalBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution, run_units
from pipeline.stages.chosen_backend import device_elsewhere, workers_elsewhere
from pipeline.storage.workspace import Workspace

_TAKE = """
import sys
from pathlib import Path
from pipeline.execution.gpu_slot import GpuSlots
print(GpuSlots(Path(sys.argv[1]), ["0", "3"], 2).take(), flush=True)
sys.stdin.read()
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_places_are_shared_evenly_and_free_again_when_their_worker_is_killed(tmp_path: Path) -> None:
    own = [started(tmp_path) for _ in range(5)]
    try:
        assert [gpu for _, gpu in own] == ["0", "3", "0", "3", "None"]
        own[1][0].kill()
        own[1][0].wait()
        own.append(started(tmp_path))
        assert own[-1][1] == "3"
    finally:
        for process, _ in own:
            process.kill()
            process.communicate()


def say_gpu(folder: Path, progress: ProgressFile, *, others: Path) -> None:
    others.mkdir(exist_ok=True)
    (others / str(os.getpid())).touch()
    while len([*others.iterdir()]) < 2:
        progress(0.1)
    (folder / "gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])


say_gpu.__module__ = "__main__"


def test_units_on_this_machine_see_one_gpu_each(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    units = [Unit("s", str(i), {}, say_gpu, {"others": tmp_path / "others"}) for i in range(2)]
    assert run_units("s", units, workspace, Execution(2, 1, LocalBackend(("5", "7")))).count("done") == 2
    assert Counter((tmp_path / "w/s" / str(i) / "gpu").read_text() for i in range(2)) == {"5": 1, "7": 1}


def test_several_units_share_the_gpu_of_a_job_at_the_same_time(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    workspace = Workspace(tmp_path / "w")
    # Each waits until the other has begun.
    units = [Unit("s", str(i), {}, say_gpu, {"others": tmp_path / "others"}) for i in range(2)]
    backend = SubmititBackend(SubmititOptions(cluster=Cluster.LOCAL, gpus=1, poll_seconds=0.2), units_per_gpu=2)
    assert run_units("s", units, workspace, Execution(1, 1, backend)).count("done") == 2
    assert [(tmp_path / "w/s" / str(i) / "gpu").read_text() for i in range(2)] == ["0", "0"]


def test_one_process_takes_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("pipeline.execution.gpu_slot._held", [])
    assert GpuSlots(tmp_path, ["0", "1"]).take() == "0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_trainings_elsewhere_use_the_gpus_that_their_jobs_get() -> None:
    from data.errors import ConfigError
    from pipeline.config.study import ExecutionOptions

    plain = ExecutionOptions.model_validate({"backend": "submitit"})
    one = ExecutionOptions.model_validate(
        {"backend": "submitit", "submitit": {"stages": {"train-target": {"gpus": 1}}}}
    )
    assert [device_elsewhere(plain, "auto"), device_elsewhere(one, "auto"), device_elsewhere(one, "cpu")] == [
        "cpu", "cuda", "cpu",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="no job of this study gets a GPU"):
        device_elsewhere(plain, "cuda")


def test_what_a_job_has_beside_its_threads_draws_batches() -> None:
    from pipeline.config.study import ExecutionOptions

    jobs = {"cpus": 2, "stages": {"train-target": {"gpus": 1, "cpus": 9}}}
    options = ExecutionOptions.model_validate({"backend": "submitit", "submitit": jobs, "units_per_gpu": 3})
    # Three trainings share nine cores, and each has one thread.
    assert workers_elsewhere(options, "train-target") == 2
    assert workers_elsewhere(options, "train-source") == 1
    assert workers_elsewhere(options.model_copy(update={"workers": 0}), "train-target") == 0
    dask = {"backend": "dask", "dask": {"scheduler": "tcp://x"}, "workers": 4}
    # Its workers can start no processes.
    assert workers_elsewhere(ExecutionOptions.model_validate(dask), "train-target") == 0
