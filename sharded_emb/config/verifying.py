"""`train verify=true`: some steps sharded and unsharded, compared."""

from collections.abc import Sequence

from sharded_emb.config.build import Built
from sharded_emb.config.run import RunConfig
from sharded_emb.config.session import joined
from sharded_emb.distributed.agree import from_first_rank, patience
from sharded_emb.training.step import Learner, Stepping
from sharded_emb.training.verify import Difference, Start, differences, loss_difference, without_dropout
from sharded_emb.training.verify import train as train_some

VERIFIED_STEPS = 20


def verify(config: RunConfig) -> list[Difference]:
    """Trains some steps sharded, and in the first rank unsharded, from the same weights on the same batches, and prints
    how far the results are apart. Writes nothing.
    """
    with joined(config) as place:
        built = Built(config, place)
        stepping = Stepping(config.accumulation, config.clip_norm)
        ids_ahead = config.prefetch.sends_ids(built.sharded.embeddings.knows_ids)
        sharded = Learner(built.sharded, built.dense, config.schedule, stepping, ids_ahead=ids_ahead)
        dropped = without_dropout(built.sharded.plain)
        reference: Learner | None = None
        start: Start | None = None
        others: list[float] = []
        if place.rank == 0:
            whole = built.unsharded()
            without_dropout(whole.plain)
            dense = config.dense_optimizer.build(whole.dense_parameters())
            reference = Learner(whole, dense, config.schedule, stepping)
            start = Start(reference)
        losses = train_some(sharded, built.source(), built.collate(), VERIFIED_STEPS)
        with patience(place):
            if reference is not None:
                others = train_some(reference, built.source(), built.collate(), VERIFIED_STEPS)
        tolerances = built.tolerances()
        found = differences(sharded, reference, start, tolerances)
        far = from_first_rank(lambda: loss_difference(losses, others), place)
        found.append(Difference("losses", far, tolerances.widest))
        if place.rank == 0:
            _show_differences(found, built)
            if dropped:
                print("dropout was off: ranks draw its masks, so other numbers of ranks train to other weights with it")
    return found


def _show_differences(found: Sequence[Difference], built: Built) -> None:
    print(f"{VERIFIED_STEPS} steps on {built.place.world_size} ranks and in one unsharded process, largest difference:")
    width = max(len(each.what) for each in found)
    for each in found:
        kind = built.plan.types.get(each.what, "")
        said = f"more than {each.tolerance:.0e}: FAILED" if not each.passes else f"at most {each.tolerance:.0e}"
        print(f"  {each.what:<{width}}  {kind:<18} {each.largest:.1e}  {said}")
