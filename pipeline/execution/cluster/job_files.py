"""The folder `.jobs` of a workspace: which jobs were submitted for which units, and what happened in them.

`book.jsonl` has a line for each submission, written before it is made, and one with the numbers of its jobs, written
after it. A command that takes over from a killed one finds running jobs by it and submits nothing twice. Each job has a
file of its own, to which it alone writes: a line when it begins and one for each unit that ends.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.execution.backend_options import Cluster
from pipeline.execution.unit import Outcome, Unit
from pipeline.storage.line_file import append_line, read_lines

JOBS = ".jobs"
"""Folder of the workspace."""
_BOOK = "book.jsonl"
_EVENTS = ".events.jsonl"


@dataclass
class SubmittedJob:
    """A job in the book.

    Attributes:
        token: of its submission; jobs of one array share it.
        number: of the job in its submission.
        stage: folder of the kind of its units.
        units: key → digest of each of its units.
        job: the scheduler's number; empty if the command was killed before it was told.
        cluster: what took it.
    """

    token: str
    number: int
    stage: str
    units: dict[str, str]
    job: str = ""
    cluster: Cluster = Cluster.SLURM

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.token}-{self.number}"


@dataclass
class JobBook:
    """The book of a workspace.

    Attributes:
        folder: `.jobs` of the workspace.
    """

    folder: Path

    def events(self, job: SubmittedJob) -> JobEvents:
        """What happens in a job."""
        return JobEvents(self.folder / job.stage / (job.name + _EVENTS))

    def plan(
        self, stage: str, chunks: Sequence[Sequence[Unit]], cluster: Cluster = Cluster.SLURM
    ) -> list[SubmittedJob]:
        """Notes that jobs are about to be submitted, one for each chunk."""
        token = f"graft-{stage}-{secrets.token_hex(4)}"
        jobs = [
            SubmittedJob(token, number, stage, {unit.key: unit.digest for unit in chunk}, cluster=cluster)
            for number, chunk in enumerate(chunks)
        ]
        line = {"submit": token, "stage": stage, "cluster": cluster.value, "units": [job.units for job in jobs]}
        append_line(self._path, line)
        return jobs

    def submitted(self, jobs: Sequence[SubmittedJob]) -> None:
        """Notes the numbers of jobs of one submission."""
        append_line(self._path, {"submitted": jobs[0].token, "jobs": {str(job.number): job.job for job in jobs}})

    def ended(self, job: SubmittedJob) -> None:
        """Notes that nothing more is to be expected of a job."""
        append_line(self._path, {"ended": job.token, "number": job.number})

    def open_jobs(self, stage: str | None = None) -> list[SubmittedJob]:
        """The jobs that have not ended as far as the book knows, of one kind of units or all."""
        return [job for job, ended in self._all(stage) if not ended]

    def jobs(self, stage: str | None = None) -> list[SubmittedJob]:
        """All jobs in the order of their submission."""
        return [job for job, _ in self._all(stage)]

    def _all(self, stage: str | None) -> list[tuple[SubmittedJob, bool]]:
        found: dict[tuple[str, int], SubmittedJob] = {}
        ended: set[tuple[str, int]] = set()
        for line in read_lines(self._path):
            if "submit" in line:
                cluster = Cluster(line.get("cluster", Cluster.SLURM))
                for number, units in enumerate(line["units"]):
                    found[line["submit"], number] = SubmittedJob(
                        line["submit"], number, line["stage"], dict(units), cluster=cluster
                    )
            elif "submitted" in line:
                for number, job in line["jobs"].items():
                    if (own := found.get((line["submitted"], int(number)))) is not None:
                        own.job = str(job)
            elif "ended" in line:
                ended.add((line["ended"], int(line["number"])))
        return [(job, name in ended) for name, job in found.items() if stage is None or job.stage == stage]

    @property
    def is_mine(self) -> bool:
        """Whether the user of this process submitted the jobs."""
        try:
            return self._path.stat().st_uid == os.getuid()
        except OSError:
            return True

    @property
    def _path(self) -> Path:
        return self.folder / _BOOK


@dataclass
class JobEvents:
    """What happens in a job, as the job writes it and the command reads it.

    Attributes:
        path: the file.
    """

    path: Path
    _told: int = field(default=0, repr=False)

    def begin(self, job: str, host: str) -> None:
        """Notes that the job has begun, or begun again."""
        append_line(self.path, {"begin": job, "host": host, "process": os.getpid()})

    def end_unit(self, outcome: Outcome) -> None:
        """Notes how a unit ended."""
        append_line(self.path, {"unit": asdict(outcome)})

    def interrupted(self, queued_again: bool) -> None:
        """Notes that the job saved its work because it was told to, and whether it queues itself again."""
        append_line(self.path, {"interrupted": queued_again})

    def new_outcomes(self) -> list[Outcome]:
        """The outcomes since the last call."""
        outcomes = [Outcome(**line["unit"]) for line in read_lines(self.path) if "unit" in line]
        fresh, self._told = outcomes[self._told :], len(outcomes)
        return fresh

    @property
    def started_as(self) -> str:
        """The scheduler's number of the job; empty before it begins."""
        return next((str(line["begin"]) for line in read_lines(self.path) if "begin" in line), "")

    @property
    def was_interrupted(self) -> bool:
        """Whether the last thing that the job did was to save its work."""
        lines = list(read_lines(self.path))
        return bool(lines) and "interrupted" in lines[-1]
