"""RecBole's SASRec, in an environment of its own: what other benchmarks set us beside.

    RECBOLE benchmarks/recbole_sasrec.py Beauty.txt FOLDER [--batch 256] [--epochs 1] [--seconds 3600] [--rank]

Its own settings but for the length of histories (50), cross-entropy over all items, and the split by leaving one out.
The log is written to FOLDER as its atomic file: places in the sequence stand for times. Prints a JSON line an epoch:
CPU seconds of training so far, and with --rank filtered NDCG@10 and HR@10 on test. One thread.

B  rows    N  items    L  events of a history
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

NO_SCORE = float("-inf")


def atomic(raw: Path, folder: Path) -> None:
    """Writes the log as RecBole reads it."""
    (folder / "beauty").mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for line in raw.read_text().splitlines():
        user, *items = line.split()
        lines += [f"{user}\t{item}\t{place}" for place, item in enumerate(items)]
    (folder / "beauty" / "beauty.inter").write_text("\n".join(lines) + "\n")


@torch.no_grad()
def ranked(model: Any, test: Any) -> tuple[float, float]:
    """NDCG@10 and HR@10 of the test item among all items, without those in the history that the model is given (144 of
    Beauty's users have more events), ties counting half.
    """
    model.eval()
    gain, hits, rows = 0.0, 0, 0
    for interaction, *_ in test:
        score_BN = model.full_sort_predict(interaction).view(len(interaction), -1)
        target_B, seen_BL = interaction["item_id"], interaction["item_id_list"]
        of_target_B = score_BN.gather(1, target_B[:, None])
        score_BN.scatter_(1, seen_BL, NO_SCORE)
        score_BN[:, 0] = NO_SCORE  # padding
        score_BN.scatter_(1, target_B[:, None], of_target_B)
        rank_B = (score_BN > of_target_B).sum(1) + ((score_BN == of_target_B).sum(1) - 1) / 2
        listed_B = rank_B < 10
        gain += float((1 / torch.log2(rank_B[listed_B] + 2)).sum())
        hits, rows = hits + int(listed_B.sum()), rows + len(rank_B)
    return gain / rows, hits / rows


def main() -> None:
    """Prints a line an epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=2048, help="rows; RecBole's own is 2048")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of training, after which no epoch begins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rank", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    atomic(options.raw, options.folder)
    os.chdir(options.folder)  # where RecBole writes logs
    settings = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": options.batch,
        "MAX_ITEM_LIST_LENGTH": 50,
        "worker": 0,
        "device": "cpu",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
    }
    config = Config(model="SASRec", dataset="beauty", config_dict=settings)
    init_seed(options.seed, True)
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model("SASRec")(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    seconds = 0.0
    for number in range(options.epochs):
        if seconds > options.seconds:
            break
        start = time.process_time()
        trainer._train_epoch(train, number)
        seconds += time.process_time() - start
        found = dict(zip(("ndcg@10", "hit_rate@10"), ranked(model, test), strict=True)) if options.rank else {}
        print(json.dumps({"epoch": number + 1, "seconds": seconds, **found}), flush=True)


if __name__ == "__main__":
    main()
