"""`report.html` of a run folder: what its other files say, as one page for people."""

import html
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharded_emb.data.page import page, section, small, table
from sharded_emb.planning.units import shown_bytes, shown_seconds
from sharded_emb.replacing import replacing
from sharded_emb.training.run_charts import curves, stacks

log = logging.getLogger("sharded_emb")

REPORT = "report.html"
PICTURE = "plan.svg"
_MOST_RANKS = 32  # that are drawn
_SHOWN_METRICS = ("ndcg@10", "hit_rate@10", "mrr", "auc", "group_auc", "log_loss", "accuracy", "mean_squared_error")


def write_page(run: Path) -> None:
    """Writes the page, whole or not at all, from what is in the folder by now."""
    result = _read(run / "result.json")
    plan = _read(run / "plan.json")
    parts = [
        f"<h1>{html.escape(run.name)}</h1>",
        table(list(_facts(result, plan))),
        *_results(run, result),
        section("Curves", *_curves(run / "metrics.jsonl")),
        *_plan(run, plan),
        *_times(result.get("times")),
        *_memory(result.get("memory")),
        _file(run, "run.yaml"),
    ]
    with replacing(run / REPORT) as aside:
        aside.write_text(page(f"Run {run.name}", parts), encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    """A file that is not there, or is no JSON, says nothing."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        log.warning("%s: want JSON in %s, got something else; the page is made without it", REPORT, file)
        return {}
    return found


def _facts(result: Mapping[str, Any], plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "status", str(result.get("status", "under way"))
    if "error" in result:
        yield "error", str(result["error"])
    if plan:
        yield "ranks", f"{plan['world_size']} on {plan['device']}, {plan['ranks_per_host']} a host"
    for name in ("steps", "epochs"):
        if name in result:
            yield name, f"{result[name]:,}"
    if "seconds" in result:
        yield "time", f"{result['seconds']:,.0f} s"
    if "samples_per_second" in result:
        yield "training", f"{result['samples_per_second']:,.0f} samples/s"
    if "peak_memory_bytes" in result:
        yield "peak memory of a rank", shown_bytes(result["peak_memory_bytes"])
    for name, version in result.get("versions", {}).items():
        yield name, version


def _results(run: Path, result: Mapping[str, Any]) -> Iterator[str]:
    """A table for each evaluation of the run, with what `evaluate` has put beside it."""
    for name, said in _evaluations(run, result).items():
        values = said["metrics"][name]
        beside = {**said.get("baselines", {}), "best reachable": said.get("best_reachable", {})}
        rows = {"this run": values} | {label: found[name] for label, found in beside.items() if name in found}
        shown = [metric for metric in values if not metric.startswith("recall")]
        cells = [[label, *(_number(of.get(metric)) for metric in shown)] for label, of in rows.items()]
        protocol = said.get("protocol", {}).get(name, {})
        told = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in protocol.items())
        yield section(f"Result on {name.replace('_', ', ', 1)}", table(cells, ["", *shown]), small(told))


def _evaluations(run: Path, result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By evaluation what was said of it last, by the run or by `evaluate`: what stands side by side is of one time."""
    found = dict.fromkeys(result.get("metrics", {}), result)
    for split in ("train", "valid", "test"):
        file = run / f"evaluation_{split}.json"
        evaluated = _read(file)
        for name in evaluated.get("metrics", {}):
            if name not in found or _written(file) >= _written(run / "result.json"):
                found[name] = evaluated
    return found


def _written(file: Path) -> int:
    """When, in nanoseconds since 1970."""
    return file.stat().st_mtime_ns


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _curves(file: Path) -> Iterator[str]:
    """Of metrics.jsonl: what is logged of training, then each metric of the validation split."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []

    def series(metric: str, *splits: str) -> dict[str, list[tuple[float, float]]]:
        return {
            split: [
                (line["step"], line[metric])
                for line in lines
                if line["split"] == split and line.get(metric) is not None
            ]
            for split in splits
        }

    for metric in ("loss", "lr_factor", "samples_per_second", "ids_per_second"):
        yield curves(series(metric, "train"), "step", metric.replace("_", " "))
    evaluated = dict.fromkeys(line["split"] for line in lines if line["split"].startswith("valid"))
    scored = dict.fromkeys(line["split"] for line in lines if line["split"].startswith("train") and "auc" in line)
    for metric in _SHOWN_METRICS:
        yield curves(series(metric, *evaluated, *scored), "step", metric)


def _plan(run: Path, plan: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [
            name,
            f"{each['rows']:,}",
            str(each["dim"]),
            each["dtype"],
            each["sharding"],
            each["kernel"] or each["update"],
            str(len({shard["rank"] for shard in each["shards"]})),
            shown_bytes(each["weight_bytes"]),
            shown_bytes(each["optimizer_state_bytes"]),
        ]
        for name, each in plan.get("tables", {}).items()
    ]
    head = ["table", "rows", "dim", "dtype", "sharding", "kernel", "ranks", "weights", "state"]
    picture = run / PICTURE
    drawn = picture.read_text(encoding="utf-8") if picture.is_file() else ""
    drawn = drawn.replace(' xmlns="http://www.w3.org/2000/svg"', "")  # which a page needs not, and nothing is fetched
    yield section("Plan", table(rows, head), small("Predicted memory and time of each rank:") if drawn else "", drawn)


def _times(times: Mapping[str, Any] | None) -> Iterator[str]:
    if times is None:
        return
    measured, predicted = times["measured"], times["predicted"]
    phases = measured["phase_seconds_by_rank"]
    rows = {
        f"rank {rank}": {name.replace("_", " "): seconds for name, seconds in each.items()}
        for rank, each in enumerate(phases[:_MOST_RANKS])
    }
    compared = [
        [name, shown_seconds(max(predicted[key])), shown_seconds(max(measured[key]))]
        for name, key in (("lookup", "lookup_seconds_by_rank"), ("communication", "communication_seconds_by_rank"))
    ]
    steps = f"A step took {shown_seconds(measured['step_seconds'])}, the mean of {measured['steps']} that were watched."
    yield section(
        "Time of a step by phase",
        small(steps),
        stacks(rows, shown_seconds),
        table(compared, ["slowest rank", "predicted", "measured"]),
    )


def _memory(memory: Mapping[str, Any] | None) -> Iterator[str]:
    if memory is None:
        return
    before, filled, peak, predicted = (
        memory[f"{name}_by_rank"]
        for name in ("bytes_before_tables", "bytes_with_tables", "peak_bytes", "predicted_table_bytes")
    )
    ranks = range(min(len(peak), _MOST_RANKS))
    rows = {
        f"rank {rank}": {
            "before there were tables": before[rank],
            "tables filled": filled[rank] - before[rank],
            "while training": peak[rank] - filled[rank],
        }
        for rank in ranks
    }
    tables = f"The plan predicted {shown_bytes(max(predicted))} of tables and their batches on the fullest rank."
    yield section("Memory", stacks(rows, shown_bytes), small(tables))


def _file(run: Path, name: str) -> str:
    file = run / name
    if not file.is_file():
        return ""
    text = html.escape(file.read_text(encoding="utf-8"))
    return section("Configuration", f"<details><summary>{name}</summary><pre>{text}</pre></details>")
