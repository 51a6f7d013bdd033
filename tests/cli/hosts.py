"""Hosts for tests: network namespaces with addresses of their own, and a cable between two of them that can be cut."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORT = 29511


def why_not() -> str | None:
    """Why there can be no such hosts here; None if there can."""
    if shutil.which("ip") is None:
        return "no ip here: apt-get install iproute2"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return None if done.returncode == 0 else "network namespaces cannot be made here"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Host:
    """One of two. address: of its end of the cable. running: what it was asked to run."""

    name: str
    address: str
    interface: str
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def launch(self, out: Path, at: str, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """Starts `launch/multi_node.sh` with two ranks in a session of its own; what it prints goes to a file."""
        known = {"HOSTS": "2", "RANKS": "2", "RESTARTS": "0", "RENDEZVOUS": f"{at}:{PORT}", "INTERFACE": self.interface}
        command = ["ip", "netns", "exec", self.name, "bash", str(ROOT / "launch" / "multi_node.sh"), *words]
        with out.open("ab") as file:
            started = subprocess.Popen(
                command, env={**os.environ, **known, **variables}, stdout=file, stderr=file, start_new_session=True
            )
        self.running.append(started)
        return started

    def ranks(self) -> list[int]:
        """The processes of ranks that live on it."""
        return [
            pid for pid in self._pids() if "sharded_emb.train" in _words(pid) and "torch.distributed" not in _words(pid)
        ]

    def _pids(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False).stdout
        return [*map(int, listed.split())]

    def end(self) -> None:
        """Ends all that runs on it."""
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Nothing leaves or reaches it any more, and nobody is told."""
        _ip("-n", self.name, "link", "set", self.interface, "down")

    def mend(self) -> None:
        """It is as before."""
        _ip("-n", self.name, "link", "set", self.interface, "up")

    def kill(self) -> None:
        """Everything on it ends at once, without a word: the cable goes first, or the kernel would say goodbye."""
        self.cut()
        self.end()


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it has just ended
        return ""


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Joined by a cable; at the end everything on them is ended."""
    mark = os.getpid()
    found = [Host(f"se-{mark}-{i}", f"10.77.0.{i + 1}", f"se{mark % 100_000}.{i}") for i in range(2)]
    try:
        for host in found:
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        first, second = found
        _ip("link", "add", first.interface, "type", "veth", "peer", "name", second.interface)
        for host in found:
            _ip("link", "set", host.interface, "netns", host.name)
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
            host.mend()
        yield first, second
    finally:
        for host in found:
            host.end()
            for started in host.running:
                started.wait(timeout=10)
            subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> float:
    """Seconds until it ended. Raises AssertionError if it did not."""
    started = time.monotonic()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"want an end within {seconds} s") from error
    return time.monotonic() - started
