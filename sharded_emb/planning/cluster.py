"""What a plan is made for: ranks on hosts, their memory, and how fast bytes move."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from sharded_emb.component import Frozen
from sharded_emb.planning.units import Bytes, Rate, Seconds, shown_bytes


class ClusterConfig(Frozen):
    """The key `cluster`. Null is what the present machine has: its ranks, devices and memory, and for rates what is
    usual of such a device.

    gpus_per_host: ranks on each host, also where device is cpu. gpu_memory: of each rank. reserved: the share of it
    that is not for tables but for dense weights, activations and the libraries. host_memory: of each host, likewise,
    for tables of the kernels uvm and uvm_caching. memory_bandwidth: of a rank's memory.
    update_bandwidth: of the rows that an update reads and writes, null for that of the memory.
    intra_bandwidth, inter_bandwidth: from one rank to those of its host, and of others. latency: of one exchange
    between all ranks. lookup_latency: of one lookup, forward and backward, however little it reads.
    `doctor calibrate=true` measures them all.
    """

    device: Literal["cpu", "cuda"] | None = None
    hosts: PositiveInt | None = None
    gpus_per_host: PositiveInt | None = None
    gpu_memory: Bytes | None = None
    reserved: Annotated[float, Field(ge=0, lt=1)] = 0.15
    host_memory: Bytes | None = None
    memory_bandwidth: Rate | None = None
    update_bandwidth: Rate | None = None
    intra_bandwidth: Rate | None = None
    inter_bandwidth: Rate | None = None
    latency: Seconds | None = None
    lookup_latency: Seconds | None = None


@dataclass(frozen=True)
class Rates:
    """Bytes a second of a rank's memory, to ranks of its host, and to those of other hosts; seconds of an exchange, and
    of a lookup, that has nothing to do; bytes a second of rows that are updated, 0 for those of the memory.
    """

    memory: float
    intra: float
    inter: float
    latency: float
    lookup_latency: float = 0.0
    update: float = 0.0

    @property
    def updates(self) -> float:
        """Bytes a second of rows that are updated."""
        return self.update or self.memory


# what is taken for a device of which nothing is said: an A100's memory and NVLink with a NIC of 200 Gb/s a GPU; busy
# cores with gloo
USUAL = {"cuda": Rates(1.5e12, 250e9, 20e9, 30e-6, 100e-6), "cpu": Rates(5e9, 0.8e9, 0.1e9, 300e-6, 300e-6, 0.6e9)}


@dataclass(frozen=True)
class Present:
    """The machine a command runs on. memory: bytes that each rank has. host_memory: that each host has."""

    device: Literal["cpu", "cuda"]
    hosts: int
    per_host: int
    memory: int
    host_memory: int


@dataclass(frozen=True)
class Cluster:
    """A cluster with every question answered. memory: bytes of each rank, of which `cap` may be tables. host_memory: of
    each host, likewise; None where nobody knows, as of hosts with GPUs on a machine without.
    """

    device: Literal["cpu", "cuda"]
    hosts: int
    per_host: int
    memory: int
    reserved: float
    rates: Rates
    host_memory: int | None

    @property
    def world_size(self) -> int:
        """All ranks."""
        return self.hosts * self.per_host

    @property
    def cap(self) -> int:
        """Bytes of tables that fit a rank."""
        return int(self.memory * (1 - self.reserved))

    @property
    def host_cap(self) -> int | None:
        """Bytes of tables that fit the own memory of a host."""
        return None if self.host_memory is None else int(self.host_memory * (1 - self.reserved))

    @property
    def seconds_a_byte(self) -> float:
        """Of what a rank sends to all ranks alike, itself included."""
        same, other = self.per_host - 1, self.world_size - self.per_host
        return (same / self.rates.intra + other / self.rates.inter) / self.world_size

    @property
    def seconds_a_summed_byte(self) -> float:
        """Of what is summed over the ranks of a host first, of which each rank then sends its part to other hosts."""
        intra = (self.per_host - 1) / self.per_host / self.rates.intra
        return intra + (self.hosts - 1) / self.hosts / self.per_host / self.rates.inter

    def told(self) -> str:
        """In a line."""
        host = f"{self.per_host} {'GPU' if self.device == 'cuda' else 'CPU rank'}{'s' * (self.per_host > 1)}"
        return f"{self.hosts} host{'s' * (self.hosts > 1)} x {host}"


def described(config: ClusterConfig, present: Present) -> Cluster:
    """The cluster that a config describes, with what it leaves out taken from the present machine."""
    device = config.device or present.device
    usual = USUAL[device]
    rates = Rates(
        config.memory_bandwidth or usual.memory,
        config.intra_bandwidth or usual.intra,
        config.inter_bandwidth or usual.inter,
        config.latency or usual.latency,
        config.lookup_latency or usual.lookup_latency,
        config.update_bandwidth or (usual.update if config.memory_bandwidth is None else 0.0),
    )
    return Cluster(
        device=device,
        hosts=config.hosts or present.hosts,
        per_host=config.gpus_per_host or present.per_host,
        memory=config.gpu_memory or present.memory,
        reserved=config.reserved,
        rates=rates,
        host_memory=config.host_memory or (present.host_memory if device == present.device else None),
    )


def unlike_the_device(config: ClusterConfig, present: Present) -> str | None:
    """What to say of a described memory that the present device has less than half or more than twice of, if it is of
    this kind of device; None where there is nothing to say.
    """
    if config.gpu_memory is None or (config.device or present.device) != present.device:
        return None
    ratio = config.gpu_memory / present.memory
    if 0.5 <= ratio <= 2:
        return None
    return (
        f"cluster.gpu_memory: {shown_bytes(config.gpu_memory)} are described, but a rank of this machine has "
        f"{shown_bytes(present.memory)}; the plan is for what is described"
    )
