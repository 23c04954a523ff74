"""The resources of a command: jobs, device, and the workers and threads that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.study import StudyConfig
from pipeline.execution.device import chosen_device
from pipeline.execution.processes import available_cores
from pipeline.execution.units import Execution

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
        """How units that only need the processor are run."""
        threads = config.execution.threads
        return Execution(self._units(threads), threads, config.execution.backend)

    def workers(self, config: StudyConfig, trainings: int) -> int:
        """Background processes of each training: as configured, else the rest of its share of the cores."""
        if config.execution.workers is not None:
            return config.execution.workers
        execution, _ = self.training(config)
        units = min(execution.jobs, trainings)
        return min(max(available_cores() // units - execution.threads, 0), _MOST_WORKERS)

    def training(self, config: StudyConfig) -> tuple[Execution, str]:
        """How units that train are run, and on which device; one at a time on a GPU unless `jobs` says otherwise.

        Raises:
            ConfigError: `cuda` is requested but not available.
        """
        jobs, device = self.trainings_at_a_time(config.execution.threads)
        return Execution(jobs, config.execution.threads, config.execution.backend), device

    def trainings_at_a_time(self, threads: int) -> tuple[int, str]:
        """How many units of so many threads train at a time, and on which device.

        Raises:
            ConfigError: `cuda` is asked for and not there.
        """
        device = chosen_device(self.device)
        return 1 if device == "cuda" and self.jobs is None else self._units(threads), device

    def _units(self, threads: int) -> int:
        return self.jobs or max(available_cores() // threads, 1)
