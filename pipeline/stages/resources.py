"""The resources of a command: jobs, device, and the workers and threads that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.study import StudyConfig
from pipeline.execution.device import chosen_device, visible_gpus
from pipeline.execution.processes import available_cores
from pipeline.execution.units import Execution
from pipeline.stages.chosen_backend import chosen_backend, device_elsewhere, runs_elsewhere, workers_elsewhere

_MOST_WORKERS = 4


@dataclass(frozen=True)
class Resources:
    """How a command may use the machine.

    Attributes:
        jobs: units at a time; `None` for as many as there are cores for their threads.
        device: `auto`, `cpu` or `cuda`.
        strict: whether a source that differs from the target in modality or spacing is refused, not only reported.
    """

    jobs: int | None = None
    device: str = "auto"
    strict: bool = False

    def execution(self, config: StudyConfig) -> Execution:
        """How units that only need the processor are run.

        Raises:
            ConfigError: the packages or the commands that the backend needs are missing.
        """
        options = config.execution
        return Execution(self._units(options.threads), options.threads, chosen_backend(options))

    def workers(self, config: StudyConfig, kind: str, trainings: int) -> int:
        """Background processes of each training of a kind: as configured, else the rest of its share of the cores."""
        if runs_elsewhere(config.execution):
            return workers_elsewhere(config.execution, kind)
        if config.execution.workers is not None:
            return config.execution.workers
        execution, _ = self.training(config)
        units = min(execution.jobs, trainings)
        return min(max(available_cores() // units - execution.threads, 0), _MOST_WORKERS)

    def training(self, config: StudyConfig) -> tuple[Execution, str]:
        """How units that train are run, and on which device; on GPUs as many at a time as they take, or `jobs`.

        Raises:
            ConfigError: `cuda` is requested but not available, or the backend is not.
        """
        options = config.execution
        if runs_elsewhere(options):
            return self.execution(config), device_elsewhere(options, self.device)
        jobs, device = self.trainings_at_a_time(options.threads, options.units_per_gpu)
        gpus = tuple(visible_gpus()) if device == "cuda" else ()
        return Execution(jobs, options.threads, chosen_backend(options, gpus)), device

    def trainings_at_a_time(self, threads: int, units_per_gpu: int = 1) -> tuple[int, str]:
        """How many units of so many threads train at a time, and on which device; each GPU takes `units_per_gpu`.

        Raises:
            ConfigError: `cuda` is asked for and not there.
        """
        device = chosen_device(self.device)
        on_gpus = device == "cuda" and self.jobs is None
        return max(len(visible_gpus()), 1) * units_per_gpu if on_gpus else self._units(threads), device

    def _units(self, threads: int) -> int:
        return self.jobs or max(available_cores() // threads, 1)
