"""What `doctor calibrate=true` measures, on ranks of one host and of two."""

from sharded_emb.distributed.calibrate import Effort, calibrated
from sharded_emb.distributed.process_group import Place
from sharded_emb.planning.cluster import ClusterConfig
from tests.distributed.ranks import run_ranks

SOME = Effort(rows=8000, dim=8, batch=64, ids=8, steps=3)


def measured(place: Place) -> tuple[ClusterConfig, float]:
    return calibrated(place, SOME)


def test_every_rank_has_the_same_rates_and_those_between_hosts_are_of_their_own() -> None:
    answers = run_ranks(measured, 4, per_host=2)
    assert len({*map(str, answers)}) == 1
    found, spreads = zip(*answers, strict=True)
    assert min(spreads) >= 1
    (hosts, per_host, device) = (found[0].hosts, found[0].gpus_per_host, found[0].device)
    assert (hosts, per_host, device) == (2, 2, "cpu")
    assert found[0].intra_bandwidth > 0
    assert found[0].inter_bandwidth > 0
    assert found[0].intra_bandwidth != found[0].inter_bandwidth
    assert min(found[0].memory_bandwidth, found[0].update_bandwidth, found[0].latency, found[0].lookup_latency) > 0
    (one_host, _), _ = run_ranks(measured, 2)
    assert one_host.inter_bandwidth is None
    assert one_host.intra_bandwidth > 0
