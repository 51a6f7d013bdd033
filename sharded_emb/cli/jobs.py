"""The jobs of a sweep: each a process of its own, with a run folder of its own."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from sharded_emb.cli.keeper import Keeper
from sharded_emb.cli.words import path_word
from sharded_emb.errors import RunFailedError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class JobFailedError(RunFailedError):
    """A job of a sweep did not end with 0."""


class SweepStoppedError(Exception):
    """A signal has ended the sweep and its jobs."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


@dataclass(frozen=True)
class Objective:
    """The validation metric that jobs are compared by. sign: 1 where higher is better, -1 where lower is."""

    metric: str
    sign: int


@dataclass(frozen=True)
class Checked:
    """Jobs that can begin. objective: what they are compared by, None for nothing that all have. words: what each is
    started with, those of all jobs first. results: whether it leaves a result.json, as all do but those of verify=true.
    """

    objective: Objective | None
    words: Sequence[Sequence[str]]
    results: Sequence[bool]


@dataclass
class Job:
    """words: what is tried. run: its folder. code: of its process, None until it ends. metrics: of the validation
    split, with the weights that the run keeps; empty unless it ended with 0. lost: it ended with 0, and there is no
    result.json.
    """

    number: int
    words: tuple[str, ...]
    run: Path
    code: int | None = None
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    lost: bool = False

    @property
    def ended(self) -> str:
        """For people, how."""
        if self.code is None:
            return "not started"
        return f"ended with {self.code}{' and no result' * self.lost}" if self.code or self.lost else "done"

    def told(self) -> str:
        """For people."""
        return f"job {self.number} ({shlex.join(self.words)})" if self.words else f"job {self.number}"

    def value(self, objective: Objective | None) -> float | None:
        """Of the metric; None where there is none."""
        return None if objective is None else self.metrics.get(objective.metric)

    def returned(self, objective: Objective | None) -> JobReturn:
        """What a sweeper learns of it."""
        failed = self.code != 0 or self.lost
        found = JobFailedError(f"{self.told()} {self.ended}") if failed else self.value(objective)
        status = JobStatus.FAILED if failed else JobStatus.COMPLETED
        return JobReturn(overrides=list(self.words), status=status, _return_value=found)


class Jobs(Launcher):
    """Starts what a sweeper asks for, `at_once` jobs at a time, and remembers all of them in `done`.

    line: what stands before the words of a job. check: is given what is tried in each, and its run=; raises InputError
    for jobs that could not begin. Without others beside it, a job writes to this console; else to FOLDER/N.log.
    """

    def __init__(
        self,
        line: Sequence[str],
        folder: Path,
        at_once: int,
        check: Callable[[Sequence[Sequence[str]]], Checked],
    ) -> None:
        self._line, self._folder, self._at_once, self._check = list(line), folder, at_once, check
        self.done: list[Job] = []
        self.objective: Objective | None = None
        self._running: deque[subprocess.Popen[bytes]] = deque()
        self._keeper = Keeper()
        self._stopped = 0

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Nothing more is needed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """What became of jobs, which are numbered from here on. Raises SweepStoppedError after a signal."""
        numbered = enumerate(job_overrides, initial_job_idx)
        jobs = [Job(number, tuple(words), self._folder / str(number)) for number, words in numbered]
        checked = self._check([[*job.words, path_word("run", job.run)] for job in jobs])
        self.objective = checked.objective
        if not initial_job_idx:
            (self._folder / "jobs.jsonl").write_text("", encoding="utf-8")
        with self._keeper, self._signals_handed_on(), ThreadPoolExecutor(self._at_once) as pool:
            self.done += pool.map(self._run, jobs, checked.words, checked.results)
        if self._stopped:
            raise SweepStoppedError(self._stopped)
        return [job.returned(self.objective) for job in jobs]

    def _run(self, job: Job, words: Sequence[str], leaves_result: bool) -> Job:
        if self._stopped:
            return job
        print(f"sweep: {job.told()}: {job.run}", flush=True)
        started = time.monotonic()
        job.code = self._code([*self._line, *words], job)
        job.seconds = round(time.monotonic() - started, 3)
        if job.code == 0 and leaves_result:
            self._read_result(job)
        line = {"job": job.number, "words": job.words, "run": str(job.run), "code": job.code, "seconds": job.seconds}
        with (self._folder / "jobs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "valid": job.metrics}) + "\n")
        return job

    def _read_result(self, job: Job) -> None:
        file = job.run / "result.json"
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            job.lost = True
            want = f"want {file} of a job that ended with 0, got none"
            print(
                f"sweep: {job.told()}: {want}; see what started it, and where that wrote", file=sys.stderr, flush=True
            )
        else:
            job.metrics = result.get("metrics", {}).get("valid", {})

    def _code(self, line: list[str], job: Job) -> int:
        log = None if self._at_once == 1 else (self._folder / f"{job.number}.log").open("ab")
        try:
            # a session of its own: a signal of the terminal is handed on from here, once
            process = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
            self._keeper.began(process.pid)
            self._running.append(process)
            if self._stopped:  # between the question above and now
                process.send_signal(self._stopped)
            code = process.wait()
            self._running.remove(process)
            self._keeper.ended(process.pid)
            return code
        finally:
            if log is not None:
                log.close()

    @contextmanager
    def _signals_handed_on(self) -> Iterator[None]:
        def hand_on(number: int, frame: object) -> None:  # noqa: ARG001
            # jobs are not of the terminal that is gone, and save before they end
            self._stopped = signal.SIGTERM if number == signal.SIGHUP else number
            for process in list(self._running):
                process.send_signal(self._stopped)

        asked = [number for number in STOPPING if number != signal.SIGHUP or not _ignored(number)]
        before = {number: signal.signal(number, hand_on) for number in asked}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ignored(number: signal.Signals) -> bool:
    """As nohup has it."""
    return signal.getsignal(number) == signal.SIG_IGN
