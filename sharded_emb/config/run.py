"""`RunConfig`: everything that a run depends on, and nothing else does."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, StrictInt, StrictStr

from sharded_emb.component import Frozen, GivenPath, Slot
from sharded_emb.config.where import from_home
from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.prefetch import PrefetchConfig
from sharded_emb.data.source import BatchesConfig
from sharded_emb.data.stream import StreamConfig
from sharded_emb.data.work import EngineConfig
from sharded_emb.distributed.communication import EXACT, Communication
from sharded_emb.losses.base import LossConfig
from sharded_emb.metrics.counts import CountsConfig
from sharded_emb.models.base import ModelConfig
from sharded_emb.optim.base import DenseOptimizer, EmbeddingOptimizer
from sharded_emb.optim.schedule import Schedule
from sharded_emb.planning.cluster import ClusterConfig
from sharded_emb.sharding import KernelChoice, ShardingType, TableSharding
from sharded_emb.tables import Defaults, FeatureConfig, TableConfig
from sharded_emb.training.checkpoint_config import CheckpointConfig
from sharded_emb.training.early_stopping import EarlyStoppingConfig
from sharded_emb.training.profile import ProfileConfig
from sharded_emb.training.tracking import TrackingConfig
from sharded_emb.training.trainee import DenseConfig

UserPath = Annotated[GivenPath, AfterValidator(from_home)]
"""A path as a user types it; ~ is the home folder, which a shell does not put into `data=~/x`."""


class ShardingConfig(KernelChoice):
    """The key `sharding`. type: of every table that names none itself; auto asks the planner. plan: the plan.json of
    the command `plan` or of a run, whose plan is taken as it is. tables: by name or pattern (`user_*`) of tables,
    before `type`. kernel: likewise. replicas: groups of consecutive ranks, each of which has all sharded tables, cut
    among its ranks; vectors travel within them, gradients of touched rows between them. communication: in which dtype
    these travel. distinct_ids: a rank asks tables that are read as sequences for each id once a step, however often its
    samples repeat it, and adds up the gradients of what was repeated before it sends them. A plan counts all ids none
    the less.
    """

    type: ShardingType | Literal["auto"] = "auto"
    plan: UserPath | None = None
    tables: dict[str, TableSharding] = Field(default_factory=dict)
    replicas: PositiveInt = 1
    communication: Communication = EXACT
    distinct_ids: bool = False

    def defaults(self, optimizer: EmbeddingOptimizer) -> Defaults:
        """What tables take that say nothing themselves."""
        return Defaults(optimizer, self.type, self.tables, self)


class EvaluationConfig(Frozen):
    """The key `evaluation`. every_epochs: between evaluations of the validation split while training. every_steps: and
    after each so many steps besides, for epochs that are long; null for none.

    batch_per_rank: rows that are scored at once, which bounds the memory of scores (rows x items). counts: what is
    added to the scores of a next-item model, null for nothing. progressive: whether metrics of labels stand beside each
    loss that is logged, of samples as steps scored them before they trained on them.
    """

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = None
    batch_per_rank: PositiveInt = 256
    counts: CountsConfig | None = None
    progressive: bool = False


class WarmStartConfig(Frozen):
    """The key `warm_start`. run: the folder of a run, with the weights of whose best checkpoint, else its last, a new
    run begins; null for those that the seed gives. It counts its own steps and epochs, and its schedule begins anew.
    What may differ is named in `checkpoint`. states: with the states of optimizers, and how many steps they have seen.
    `verify` and `plan` do without.
    """

    run: UserPath | None = None
    states: bool = True


class RunConfig(Frozen):
    """One run. `run.yaml` in a run folder holds it, and repeats the run.

    name: the first part of a run folder's name. run: the run folder, null for a new one under runs/. resume: go on with
    an unfinished run in that folder, start it where there is none yet, and do nothing with a finished one.
    data: the dataset folder. flat_copy: the folder for a copy of its splits that can be read at any row, of the size of
    their numbers; null for data/flat. steps and epochs: limits, the first one reached ends the run; a stream has no
    epochs. global_batch: samples a step, over all ranks. global_batch_events: a step has fewer samples where they would
    have more events than that: ids of the sequence that is predicted, else of all features, as far as they are read.
    accumulation: pieces that a global batch is computed in, one after the other: less memory, the same numbers.
    clip_norm: the 2-norm that gradients of tables and dense weights are scaled down to, together; null for no limit.
    filter_seen: whether lists of `evaluate predictions=` leave out what a sequence holds; metrics are of both, always.
    verify: in place of a run, train 20 steps sharded and unsharded and compare. verify_tolerance: the largest
    difference of a weight that is taken; null for what rounding in the dtypes of a table accounts for.
    cluster: what the planner takes the machine for. tracking: where numbers go besides TensorBoard. threads_per_rank:
    of the CPU; where cores are busy, waiting threads make a step many times slower. wait_seconds: how long a rank waits
    for the others before it fails. stall_seconds: without a change on any rank, after which the log says what each is
    doing. lost_seconds: after which ranks end that have not heard of one on another host; torchrun then starts those
    that are left.
    """

    in_steps: ClassVar[bool] = True  # it asks for the same memory in each of many

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    run: UserPath | None = None
    resume: bool = False
    data: UserPath | None = None
    flat_copy: UserPath | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads_per_rank: int = Field(default=1, gt=0, le=4096)
    deterministic: bool = False
    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    global_batch: PositiveInt
    global_batch_events: PositiveInt | None = None
    accumulation: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    log_every_steps: PositiveInt = 50
    filter_seen: bool = True
    wait_seconds: int = Field(default=600, gt=0, le=2_000_000)  # in milliseconds an int32, too
    stall_seconds: PositiveFloat = 120.0
    lost_seconds: PositiveFloat = 20.0
    verify: bool = False
    verify_tolerance: PositiveFloat | None = None
    batches: BatchesConfig = BatchesConfig()
    stream: StreamConfig = StreamConfig()
    dense: DenseConfig = DenseConfig()
    prefetch: PrefetchConfig = PrefetchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    early_stopping: EarlyStoppingConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    profile: ProfileConfig = ProfileConfig()
    dataset: Slot[DatasetConfig]
    tables: dict[str, TableConfig]
    features: dict[str, FeatureConfig]
    model: Slot[ModelConfig]
    loss: Slot[LossConfig]
    embedding_optimizer: Slot[EmbeddingOptimizer]
    dense_optimizer: Slot[DenseOptimizer]
    schedule: Slot[Schedule]
    sharding: ShardingConfig = ShardingConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: Slot[TrackingConfig] = TrackingConfig()


class PrepareConfig(RunConfig):
    """What `prepare` adds. overwrite: replace an existing dataset folder. extend: one whose rows keep their numbers.
    prepare: what computes it, and how much it may take.
    """

    overwrite: bool = False
    extend: UserPath | None = None
    prepare: EngineConfig = EngineConfig()


class PlanConfig(RunConfig):
    """What `plan` adds. out: a folder for plan.json and a picture. ids_per_sample: of features, on average."""

    out: UserPath | None = None
    ids_per_sample: dict[str, PositiveFloat] = Field(default_factory=dict)


class OfRunConfig(RunConfig):
    """Of a command that takes a run as it is, and trains nothing."""


class RowsOfRunConfig(OfRunConfig):
    """Of one that reads the rows of tables where they lie, each once. out: a folder."""

    in_steps: ClassVar[bool] = False

    out: UserPath | None = None


class ExportConfig(RowsOfRunConfig):
    """What `export` adds to the run it exports. out: a folder, null for `export` in that of the run. overwrite: replace
    an export that is there. quantize: how numbers of tables and items are written, null for the dtypes of the tables.
    index: of the items of a next-item model, as faiss describes one, to search among part of them; null for none.
    """

    overwrite: bool = False
    quantize: Literal["fp16", "bf16", "int8"] | None = None
    index: str | None = None


class ExploreConfig(RowsOfRunConfig):
    """What `explore` adds to the run it looks at. out: a folder, null for `explore` in that of the run; what an earlier
    one has left there is replaced. table: that is looked at, null for all. ids: raw ids of it whose nearest neighbours
    are wanted, top_k of each. map: how rows are put on a plane. points: how many rows, half of them the most read.
    colour: an attribute of items by which they are coloured there, null for how often they are read. caption: one whose
    value is shown beside the id of an item.
    """

    table: str | None = None
    ids: list[StrictStr | StrictInt] = Field(default_factory=list)
    top_k: PositiveInt = 10
    map: Literal["pca", "tsne"] | None = "pca"
    points: int = Field(default=3000, ge=10, le=100_000)
    colour: str | None = None
    caption: str | None = None


class EvaluateConfig(OfRunConfig):
    """What `evaluate` adds to the run it evaluates.

    split: which part of the data. baselines: counting baselines beside the model. against: a run folder or a baseline,
    to which the difference is said, with an interval by a paired bootstrap over users. predictions: a Parquet file for
    the top_k items of every row, or for the probabilities of the labels of every row. columns: of the dataset, whose
    values stand there, too.
    """

    split: Literal["train", "valid", "test"] = "test"
    baselines: bool = False
    against: str | None = None
    predictions: UserPath | None = None
    columns: list[str] = Field(default_factory=list)
    top_k: PositiveInt = 20
