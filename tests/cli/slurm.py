"""A SLURM of one host, started by a test from the system's own packages."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SchedulerType=sched/builtin
ReturnToService=2
MailProg=/bin/true
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there can be no SLURM here; None if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.geteuid() == 0 else "slurmd wants root"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass(frozen=True)
class Slurm:
    """Commands of a SLURM that runs."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """In which its commands are found, and find it."""
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __call__(self, command: str, *words: str, **more: str) -> str:
        """What a command says. Raises AssertionError with its errors if it fails."""
        environment = {**self.environment, **more}
        done = subprocess.run([command, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job, by key."""
        said = self("scontrol", "--oneliner", "show", "job", job)
        return dict(word.partition("=")[::2] for word in said.split() if "=" in word)

    def wait_for(self, job: str, state: str, seconds: float) -> dict[str, str]:
        """Of the job once it is in this state. Raises AssertionError if it is not, in this time."""
        end = time.monotonic() + seconds
        while (found := self.state(job))["JobState"] != state:
            assert time.monotonic() < end, f"want {state}, got {found}"
            time.sleep(0.5)
        return found


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Starts controller and daemon; ends both with all they have started."""
    folder.mkdir(mode=0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = {"controller_port": _free_port(), "daemon_port": _free_port()}
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(_CONF.format(folder=folder, host=host, **ports))
    munge = [f"--{what}={folder}/munge.{end}" for what, end in _MUNGE_FILES.items()]
    started = []
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        for words in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{words[0]}.out").open("w") as out:
                started.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out))
            time.sleep(1)
        yield Slurm(folder)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


_MUNGE_FILES = {
    "socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed",
}  # fmt: skip
