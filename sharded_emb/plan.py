"""Command `plan`: where tables would go on this machine or a described cluster, and what that comes to.

python -m sharded_emb.plan experiment=sasrec_beauty data=FOLDER cluster=h100_8x8 out=FOLDER
python -m sharded_emb.plan tables.item.rows=100000000 cluster.hosts=2 cluster.gpus_per_host=8 cluster.gpu_memory=80GB
"""

import sys

from sharded_emb import cli


def main() -> None:
    """Plans what the command line describes."""
    cli.run("plan", plan)


def plan(composed: cli.Composed) -> None:
    """Prints tables, ranks and their predicted bytes and times; writes plan.json and plan.svg where `out` is given."""
    with cli.importing():
        from sharded_emb.config.planned import plan as planned
        from sharded_emb.config.run import PlanConfig

    config = composed.validated(PlanConfig)
    found = planned(config)
    if found.warning is not None:
        print(found.warning, file=sys.stderr)
    print(found.text)
    if config.out is not None:
        print(f"{config.out}: plan.json, which sharding.plan= takes, and plan.svg")


if __name__ == "__main__":
    main()
