"""What the tests of streams run on every rank: SASRec on parts of the tiny dataset, which come one after the other."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.config.build import Built
from sharded_emb.config.run import RunConfig
from sharded_emb.config.session import make_trainer
from sharded_emb.config.warm_starting import warm_started
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.training.loop import Trainer
from sharded_emb.training.run_folder import RunFolder
from tests.distributed import resume_cases
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import sequences

SIZES = (10, 0, 16, 9)  # of parts; batches are of 7 samples
NAMES = [f"part-{number}.parquet" for number in range(len(SIZES))]
STEPS = 2 + 0 + 3 + 2
Act = Callable[[], None]


def part(number: int, **columns: pa.Array | None) -> pa.Table:
    """The rows of a part, with other columns in place of its own if they are given, or none."""
    start = sum(SIZES[:number])
    rows = [sequence[:-2] for sequence in sequences()][start : start + SIZES[number]]
    table = {"items": pa.array(rows, pa.list_(pa.int64())), "unread": pa.array(["x"] * len(rows)), **columns}
    return pa.table({name: column for name, column in table.items() if column is not None})


def put(folder: Path, number: int, name: str | None = None, **columns: pa.Array | None) -> None:
    """Adds a part as a writer should: aside, then renamed."""
    folder.mkdir(exist_ok=True)
    aside = folder / ".aside.parquet"
    pq.write_table(part(number, **columns), aside)
    aside.rename(folder / (name or NAMES[number]))


@contextmanager
def on_first_rank(place: Place) -> Iterator[bool]:
    """Whether this is the first rank, whose block all wait for."""
    yield place.rank == 0
    all_values(None, place)


def put_all(folder: Path) -> None:
    """All parts, and that there are no more."""
    for number in range(len(SIZES)):
        put(folder, number)
    (folder / "END").touch()


def stream_config(data: Path, folder: Path, **more: Any) -> RunConfig:
    """Of a run on a stream that does not wait for long."""
    stream = {"folder": str(folder), "poll_seconds": 0.02, **more.pop("stream", {})}
    saving = {"every_steps": more.pop("save_every", 1), "every_minutes": None}
    tree = {"stream": stream, "checkpoint": saving, "log_every_steps": 1, "early_stopping": None, **more}
    return config(data, **tree)


def train(place: Place, run_config: RunConfig, run: Path, cut: int | None = None) -> Trainer | None:
    """As the command does, to the end or to where it is cut off before a step; None then."""
    tree = run_config.model_dump(mode="json", exclude={"resume"})
    folder = RunFolder.reopen(run, tree, place)
    built = Built(run_config, place)
    folder = folder or RunFolder.create(run, "stream", tree, place)
    try:
        trainer = make_trainer(built, folder, warm_started(built))
        whole_step = trainer.learner.step

        def step(pieces: Any, weight: float, number: int, following: Any) -> float:
            if number == cut:
                raise resume_cases.CutOffError
            return whole_step(pieces, weight, number, following)

        trainer.learner = SimpleNamespace(step=step)  # type: ignore[assignment]
        folder.write_result("finished", trainer.result(trainer.train()))
    except resume_cases.CutOffError:
        return None
    finally:
        folder.close()
    return trainer


def everything(trainer: Trainer | None) -> dict[str, Any]:
    """All numbers of a run that has ended."""
    assert trainer is not None
    return resume_cases.everything(trainer)


def losses(found: dict[str, Any]) -> list[float]:
    """Of its steps."""
    return [line["loss"] for line in found["lines"] if line["split"] == "train"]


def beside(place: Place, acts: list[Act]) -> threading.Thread:
    """On the first rank each act some time after the one before, while the run trains or waits."""

    def work() -> None:
        for act in acts if place.rank == 0 else []:
            time.sleep(0.1)
            act()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def same_numbers(place: Place, data: Path, folder: Path) -> dict[str, Any]:
    """The losses of a straight run on a whole stream, and by case what differs from it."""
    whole = folder / "whole"
    with on_first_rank(place) as first:
        if first:
            put_all(whole)
    straight = everything(train(place, stream_config(data, whole), folder / "straight"))
    differing: dict[str, list[str]] = {}

    growing = folder / "growing"
    growing.mkdir(exist_ok=True)
    acts: list[Act] = [lambda n=n: put(growing, n) for n in range(len(SIZES))]  # type: ignore[misc]
    decoys = [lambda: (growing / "_part-9.parquet").write_text("half"), lambda: (growing / "notes.txt").touch()]
    acts = [*acts[:2], *decoys, *acts[2:], (growing / "END").touch]  # type: ignore[list-item]
    adding = beside(place, acts)
    grown = everything(train(place, stream_config(data, growing), folder / "grown"))
    adding.join()
    differing["grown"] = resume_cases.differing(straight, grown)

    for name, cuts, save_every in (("every step", (3, 7), 1), ("now and then", (6,), 2)):
        run, parts = folder / name, folder / f"parts of {name}"
        with on_first_rank(place) as first:
            if first:
                put_all(parts)
        for cut in cuts:
            assert train(place, stream_config(data, parts, save_every=save_every), run, cut) is None
        with on_first_rank(place) as first:
            if first:
                (parts / NAMES[0]).unlink()  # whatever was trained on may go
        ended = everything(train(place, stream_config(data, parts, save_every=save_every), run))
        differing[name] = resume_cases.differing(straight, ended)

    parts, run = folder / "parts that come later", folder / "later"
    with on_first_rank(place) as first:
        if first:
            put(parts, 0)
    waiting = {"idle_seconds": 0.1}
    assert train(place, stream_config(data, parts, stream=waiting), run) is not None
    with on_first_rank(place) as first:
        if first:
            for number in range(1, len(SIZES)):
                put(parts, number)
    later = everything(train(place, stream_config(data, parts, stream=waiting), run))
    differing["later"] = [what for what in resume_cases.differing(straight, later) if what not in ("lines", "links")]
    stream = {name: later["result"][name] for name in ("steps", "epochs")}
    return {"losses": losses(straight), "differing": differing, "later": (losses(later), stream)}


def problem(place: Place, data: Path, parts: Path, run: Path, **more: Any) -> str:
    """The error of a run, as this rank raises it."""
    try:
        train(place, stream_config(data, parts, **more), run)
    except InputError as error:
        return str(error)
    return "none"


def wrong_parts(place: Place, data: Path, folder: Path) -> dict[str, Any]:
    """By what is wrong: the error on this rank, or what the result says."""
    found: dict[str, Any] = {}
    bad = folder / "a bad id"
    with on_first_rank(place) as first:
        if first:
            put(bad, 0)
            put(bad, 2, items=pa.array([*[[2, 3]] * (SIZES[2] - 1), [2, 99]], pa.list_(pa.int64())))
    found["a bad id"] = problem(place, data, bad, folder / "run of a bad id")
    cut_off = folder / "cut off"
    with on_first_rank(place) as first:
        if first:
            put_all(cut_off)
            whole = (cut_off / NAMES[2]).read_bytes()
            (cut_off / NAMES[2]).write_bytes(whole[: len(whole) // 2])
    found["cut off"] = problem(place, data, cut_off, folder / "run of cut off")
    trainer = train(place, stream_config(data, cut_off, stream={"bad_parts": "skip"}), folder / "skipping")
    assert trainer is not None
    found["skipped"] = trainer.result({})["stream"], trainer.progress.samples
    found |= {"late": _late(place, data, folder), "changed": _changed(place, data, folder)}
    return found


def _late(place: Place, data: Path, folder: Path) -> str:
    parts = folder / "late"
    with on_first_rank(place) as first:
        if first:
            put(parts, 0, "b.parquet")
    parts.mkdir(exist_ok=True)
    adding = beside(place, [*[lambda: None] * 10, lambda: put(parts, 2, "a.parquet")])
    found = problem(place, data, parts, folder / "run of late", stream={"idle_seconds": 20})
    adding.join()
    return found


def _changed(place: Place, data: Path, folder: Path) -> list[str]:
    """A part of which the run has had some rows, with fewer in its place, with the same in another order, and gone."""
    parts, run = folder / "changed", folder / "run of changed"
    with on_first_rank(place) as first:
        if first:
            put_all(parts)
    assert train(place, stream_config(data, parts), run, 4) is None
    with on_first_rank(place) as first:
        if first:
            put(parts, 3, NAMES[2])
    found = [problem(place, data, parts, run)]
    with on_first_rank(place) as first:
        if first:
            put(parts, 2, NAMES[2], items=part(2)["items"].take(pa.array([*range(SIZES[2])][::-1])))
    found.append(problem(place, data, parts, run))
    with on_first_rank(place) as first:
        if first:
            (parts / NAMES[2]).unlink()
    return [*found, problem(place, data, parts, run)]


def _stopped_waiting(place: Place, tree: RunConfig, run: Path) -> tuple[Trainer, list[str]]:
    """A new run that ends by a signal, which the last rank alone hears while all wait, and what it was at."""
    dumped = tree.model_dump(mode="json", exclude={"resume"})
    trainer = make_trainer(Built(tree, place), RunFolder.create(run, "stream", dumped, place))
    phases: list[str] = []

    def tell(step: int, phase: str) -> None:  # noqa: ARG001
        phases.append(phase)
        if phase == "waiting for samples" and place.rank == place.world_size - 1:
            trainer.signals.heard = 15

    trainer.tell = tell
    trainer.train()
    trainer.parts.folder.close()
    return trainer, phases


def stopped(place: Place, data: Path, folder: Path) -> tuple[int | None, int, int, str]:
    """A signal while all wait; then the run goes on."""
    parts, run = folder / "waiting", folder / "stopped"
    with on_first_rank(place) as first:
        if first:
            put(parts, 0)
    tree = stream_config(data, parts, save_every=100)
    trainer, phases = _stopped_waiting(place, tree, run)
    with on_first_rank(place) as first:
        if first:
            (parts / "END").touch()
    again = train(place, tree, run)
    assert again is not None
    return trainer.stop_signal, trainer.progress.step, again.progress.step, phases[-2]


def _cut_off(folder: Path, number: int) -> None:
    put(folder, number, ".whole.parquet")
    whole = (folder / ".whole.parquet").read_bytes()
    (folder / NAMES[number]).write_bytes(whole[: len(whole) // 2])


def evaluated(place: Place, data: Path, folder: Path) -> dict[str, tuple[list[int], list[int], list[str]]]:
    """After which steps a straight run is evaluated, and one that was stopped while it waited, and what differs; by
    what both had had besides a part with rows.
    """
    acts = {"no rows": lambda parts: put(parts, 1), "cut off": lambda parts: _cut_off(parts, 2)}
    found: dict[str, tuple[list[int], list[int], list[str]]] = {}
    for name, act in acts.items():
        runs = [folder / f"{name} {of}" for of in ("straight", "waited")]
        straight, waited = (run.with_name(f"parts of {run.name}") for run in runs)
        with on_first_rank(place) as first:
            for parts in (straight, waited) if first else ():
                put(parts, 0)
                act(parts)
        more = {"bad_parts": "skip", "evaluate_every_parts": 2}
        trees = [stream_config(data, parts, stream=more) for parts in (straight, waited)]
        _stopped_waiting(place, trees[1], runs[1])
        with on_first_rank(place) as first:
            for parts in (straight, waited) if first else ():
                put(parts, 3)
                put(parts, 0, "part-4.parquet")
                (parts / "END").touch()
        ended = [everything(train(place, tree, run)) for tree, run in zip(trees, runs, strict=True)]
        steps = [[line["step"] for line in each["lines"] if line["split"] == "valid"] for each in ended]
        found[name] = (steps[0], steps[1], resume_cases.differing(*ended))
    return found


def begun_from(place: Place, data: Path, folder: Path) -> tuple[list[float], list[float]]:
    """The losses of a run that goes on from another one's weights and states, and of one run over both."""
    whole, earlier, later = (folder / name for name in ("of one", "earlier", "later parts"))
    with on_first_rank(place) as first:
        if first:
            for parts in (whole, earlier, later):
                parts.mkdir()
                (parts / "END").touch()
            for number, parts in ((0, earlier), (2, later)):
                put(parts, number)
                put(whole, number)
    constant = {"schedule": {"_target_": "sharded_emb.optim.schedule.Warmup", "warmup_steps": 0}}
    alike = {**constant, "batches": {"shuffle": False}, "loss": "full"}
    one = losses(everything(train(place, stream_config(data, whole, **alike), folder / "one")))
    train(place, stream_config(data, earlier, **alike), folder / "base")
    more = {**alike, "warm_start": {"run": str(folder / "base")}}
    return one, losses(everything(train(place, stream_config(data, later, **more), folder / "online")))
