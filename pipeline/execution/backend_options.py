"""Where units run, and the options of each place."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from data.options import Options


class BackendName(StrEnum):
    """Where units run."""

    LOCAL = "local"
    """Processes on this machine."""
    SUBMITIT = "submitit"
    """Jobs of a SLURM cluster; needs the extra `cluster`."""
    DASK = "dask"
    """Workers of a dask cluster that is running already; needs the extra `cluster`."""
    IN_PROCESS = "in_process"
    """The command's own process, one unit after another, for debuggers."""


FORMER_BACKENDS = {"loky": BackendName.LOCAL, "threading": BackendName.IN_PROCESS}
"""Former names, in configurations of an earlier version."""


class Cluster(StrEnum):
    """What submitit hands jobs to."""

    SLURM = "slurm"
    """SLURM, whose commands are found on this machine."""
    LOCAL = "local"
    """Processes of this machine that outlive the command, to try a study out without SLURM."""


class JobResources(Options):
    """What a job asks for; what is not given is as for the other kinds of units."""

    partition: str | None = None
    """Partition."""
    minutes: float | None = Field(default=None, gt=0)
    """Longest duration of a job."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory, in GB."""
    cpus: int | None = Field(default=None, ge=1)
    """Cores."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs; each takes a unit at a time, or `units_per_gpu`."""


class SubmititOptions(Options):
    """Jobs of a SLURM cluster."""

    cluster: Cluster = Cluster.SLURM
    """What takes the jobs."""
    partition: str | None = None
    """Partition; by default the cluster's own."""
    account: str | None = None
    """Account that the jobs are charged to."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that a node must have."""
    minutes: float = Field(default=240, gt=0)
    """Longest duration of a job. A training that needs longer saves its work, and the job is queued again."""
    memory_gb: float = Field(default=16, gt=0)
    """Memory of a job, in GB."""
    cpus: int | None = Field(default=None, ge=1)
    """Cores of a job; by default one for each thread and each of `workers`."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a job; each takes a unit at a time, or `units_per_gpu`."""
    stages: dict[str, JobResources] = Field(default_factory=dict)
    """What jobs of one kind of units ask for instead, by the kind's folder in the workspace, such as `train-target`."""
    concurrent_jobs: int = Field(default=100, ge=1)
    """Jobs that are pending or running at a time."""
    array_size: int = Field(default=1000, ge=1)
    """Most jobs of one array; the cluster's own limit is respected in any case."""
    chunk_minutes: float = Field(default=15, ge=0)
    """Units that take less are put together into jobs of about this duration; 0 for a job for each unit."""
    attempts: int = Field(default=3, ge=1)
    """How often a unit may lose its process before it counts as failed."""
    signal_seconds: int = Field(default=120, ge=1)
    """Seconds before its time limit at which a job is told to save."""
    poll_seconds: float = Field(default=5, gt=0)
    """Seconds between looks at the jobs."""
    probe_minutes: float = Field(default=60, gt=0)
    """How long to wait for the first job, which only looks whether the node sees the workspace and has this Graft."""
    setup: tuple[str, ...] = ()
    """Shell commands that a job starts with, such as `module load cuda`."""
    python: str | None = None
    """Command that starts Python on a node; by default the Python of this command."""
    additional: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further options of `sbatch` by their long names, such as `reservation`."""

    def of_stage(self, stage: str) -> SubmititOptions:
        """The options with what jobs of this kind of units ask for."""
        own = self.stages.get(stage, JobResources()).model_dump(exclude_none=True)
        return self.model_copy(update=own)

    @property
    def any_gpus(self) -> bool:
        """Whether jobs of any kind get GPUs."""
        return self.gpus > 0 or any(own.gpus for own in self.stages.values())


def units_together(options: SubmititOptions, units_per_gpu: int) -> int:
    """Units that a job with these options runs at a time."""
    return options.gpus * units_per_gpu or 1


class DaskOptions(Options):
    """Workers of a dask cluster."""

    scheduler: str | None = None
    """Address of the scheduler, such as `tcp://10.0.0.1:8786`."""
    scheduler_file: str | None = None
    """File with the address, as `dask scheduler --scheduler-file` writes it."""
    resources: dict[str, float] = Field(default_factory=dict)
    """What each unit takes of the resources that the workers were started with, such as `{GPU: 1}`."""
    wait_seconds: float = Field(default=300, gt=0)
    """How long to wait for the first worker."""
