"""What runs the units of a study, and what follows for its trainings where that is another machine."""

from __future__ import annotations

from data.errors import ConfigError
from pipeline.config.study import ExecutionOptions
from pipeline.execution.backend import Backend
from pipeline.execution.backend_options import BackendName, units_together
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.local_backend import LocalBackend


def runs_elsewhere(options: ExecutionOptions) -> bool:
    """Whether units run on other machines than the command."""
    return options.backend in (BackendName.SUBMITIT, BackendName.DASK)


def chosen_backend(options: ExecutionOptions, gpus: tuple[str, ...] = ()) -> Backend:
    """Returns what runs the units.

    Args:
        options: of the execution.
        gpus: GPUs of this machine that its units share; none if they only need the processor.

    Raises:
        ConfigError: the packages or the commands that it needs are missing.
    """
    if options.backend is BackendName.SUBMITIT:
        from pipeline.execution.cluster.submitit_backend import SubmititBackend

        return SubmititBackend(options.submitit, options.units_per_gpu, options.workers or 0)
    if options.backend is BackendName.DASK:
        from pipeline.execution.dask_backend import DaskBackend

        return DaskBackend(options.dask)
    if options.backend is BackendName.IN_PROCESS:
        return InProcessBackend()
    return LocalBackend(gpus, options.units_per_gpu)


def device_elsewhere(options: ExecutionOptions, asked: str) -> str:
    """The device of trainings on other machines: this one need not have a GPU.

    Raises:
        ConfigError: `cuda` is asked for, and no job gets a GPU.
    """
    on_dask = options.backend is BackendName.DASK
    gpus = any("gpu" in name.lower() for name in options.dask.resources) if on_dask else options.submitit.any_gpus
    if asked == "cuda" and not gpus and not on_dask:
        raise ConfigError(
            "--device cuda: no job of this study gets a GPU",
            expected="`execution.submitit.gpus` of at least 1, or `gpus` of some of `execution.submitit.stages`",
            fix="set it, or use --device cpu",
        )
    return "cuda" if asked == "cuda" or (asked == "auto" and gpus) else "cpu"


def workers_elsewhere(options: ExecutionOptions, kind: str) -> int:
    """Background processes of each training of a kind on another machine.

    Those of a job have its cores beside its threads; dask's workers can start none.
    """
    if options.backend is BackendName.DASK:
        return 0
    if options.workers is not None:
        return options.workers
    own = options.submitit.of_stage(kind)
    return max((own.cpus or 0) // units_together(own, options.units_per_gpu) - options.threads, 0)


def memory_elsewhere(options: ExecutionOptions, kind: str, device: str) -> int | None:
    """Memory of a job of this kind of units in bytes; `None` where it is not known: of GPUs and dask's workers."""
    if options.backend is BackendName.DASK or device == "cuda":
        return None
    return int(options.submitit.of_stage(kind).memory_gb * 1e9)
