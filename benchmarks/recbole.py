"""GRU4Rec and SASRec compared with RecBole's, to check that the baselines of MMM4Rec are as good as the known ones.

Two independent programs learn the same sequences. Each uses its own defaults for the model. The split, learning rate,
batch size and number of epochs are the same. The table shows test NDCG@10 and HR@10 per model and program, from the
epoch that is best on validation, as means over the seeds. A ratio below 1 means that our baseline is too weak, so that
it would make MMM4Rec look better than it is. `same_weights` is the largest difference of scores if our model has
RecBole's weights, divided by the largest score.

RecBole 1.2.1 is not a dependency. `make recbole` creates .venv-recbole, a separate environment on top of .venv, and
runs the tests of this module in it. Run the benchmark with `.venv-recbole/bin/python -m benchmarks.recbole`. --data is
a data folder of the pipeline, and --domain is one of its built domains. Without a folder, or with --quick, the domain
is random: this only shows that both programs run, and nothing about how well they learn.
"""

import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import arguments, measured, show
from benchmarks.training import make_domain
from benchmarks.transfer import load
from mmm4rec.baselines.config import GRU4RecConfig, SASRecConfig
from mmm4rec.checkpoint import load_model
from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.evaluation.ranking import rank_labels
from mmm4rec.registry import make
from mmm4rec.training.fit import fit
from pipelines.data_folder.folder import DataFolder


@dataclass(frozen=True)
class Learnt:
    """The result of a training."""

    ndcg: float
    hr: float
    seconds: float


@dataclass(frozen=True)
class Theirs:
    """A RecBole model before training, with its data."""

    config: Any
    network: Any
    splits: tuple[Any, Any, Any]
    ids: Tensor
    """[N+1] RecBole's number for our item n."""


def open_recbole(model: str, domain: DomainData, training: TrainConfig, length: int, folder: Path) -> Theirs:
    """A domain in RecBole's format, in `folder`, and its untrained model: leave-one-out, ranking over all items."""
    _with_old_names()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    place = folder / "data"
    place.mkdir()
    with (place / "data.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(domain.user_count):
            bought = domain.items[domain.offsets[user] : domain.offsets[user + 1]].tolist()
            # The position in the sequence serves as time, so that both programs use the same order.
            file.writelines(f"u{user}\ti{item}\t{moment}\n" for moment, item in enumerate(bought))
    config = Config(
        model=model,
        dataset="data",
        config_dict={
            **{"data_path": str(folder), "checkpoint_dir": str(folder / "saved"), "use_gpu": False, "state": "ERROR"},
            **{"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp"},
            **{"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": length},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            **{"train_neg_sample_args": None, "loss_type": "CE", "learning_rate": training.learning_rate},
            **{"epochs": training.epochs, "stopping_step": training.epochs, "train_batch_size": training.batch_size},
            **{"eval_batch_size": 4096, "metrics": ["NDCG", "Hit"], "topk": [10], "valid_metric": "NDCG@10"},
            **{"seed": training.seed, "reproducibility": True, "show_progress": False},
        },
    )
    init_seed(training.seed, True)
    dataset = create_dataset(config)
    splits = data_preparation(config, dataset)
    ids = torch.tensor([0, *(dataset.token2id("item_id", f"i{item + 1}") for item in range(domain.item_count))])
    return Theirs(config, get_model(model)(config, dataset), splits, ids)


def _with_old_names() -> None:
    """Restore what RecBole 1.2.1 needs of numpy 1 and of torch before 2.6. It reads only a pickle of its own."""
    for old, new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, old, new)
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    sys.argv[1:] = []  # RecBole reads the command line, too


def theirs(model: str, domain: DomainData, training: TrainConfig, length: int) -> tuple[Learnt, float]:
    """The result of RecBole's training, and `apart` after it."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = open_recbole(model, domain, training, length, Path(folder))
        from recbole.trainer import Trainer

        train, validation, test = opened.splits
        trainer = Trainer(opened.config, opened.network)
        start = time.perf_counter()
        trainer.fit(train, validation, verbose=False, show_progress=False)
        seconds = time.perf_counter() - start
        found = trainer.evaluate(test, show_progress=False)
        learnt = Learnt(float(found["ndcg@10"]), float(found["hit@10"]), seconds)
        return learnt, apart(model, opened, domain, length)


def ours(config: RecommenderConfig, domain: DomainData, training: TrainConfig) -> Learnt:
    """The result of our training."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fit(domain, config, training, Path(folder))
        seconds = time.perf_counter() - start
        found = rank_labels(load_model(Path(folder), domain), domain, "test").metrics().values
        return Learnt(found["ndcg_10"], found["hr_10"], seconds)


def apart(model: str, opened: Theirs, domain: DomainData, length: int) -> float:
    """The largest score difference over all test users and items if ours has its weights, over the largest score."""
    mine = make(configs(length)[model], domain).eval()
    mine.load_state_dict(renamed(opened.network.state_dict(), opened.ids))
    network = opened.network.eval()
    examples = domain.examples("test", length)
    batch = examples.batch(torch.arange(len(examples)), length)
    with torch.no_grad():
        vectors = mine.item_vectors()
        users = mine.user_vectors(batch, vectors, batch.items)
        scores = users @ mine.score_vectors(vectors).T
        asked = {network.ITEM_SEQ: opened.ids[batch.items], network.ITEM_SEQ_LEN: batch.lengths}
        expected = network.full_sort_predict(asked)[:, opened.ids]
    return float((scores - expected)[:, 1:].abs().max() / expected.abs().max())


def renamed(weights: Mapping[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """RecBole's weights under our names, with the items in our order."""
    found = {"item": weights["item_embedding.weight"][ids]}
    names = {
        **{"position_embedding.weight": "positions", "gru_layers.": "gru.", "trm_encoder.layer.": "layers."},
        **{".multi_head_attention.LayerNorm.": ".0.norm.", ".multi_head_attention.dense.": ".0.out."},
        **{".feed_forward.dense_1.": ".1.widen.", ".feed_forward.dense_2.": ".1.narrow."},
        **{".feed_forward.LayerNorm.": ".1.norm.", "LayerNorm.": "norm.", "dense.": "out."},
    }
    for theirs_name, value in weights.items():
        name = theirs_name
        for old, new in names.items():
            name = name.replace(old, new)
        if ".multi_head_attention.query." in name:
            parts = [weights[theirs_name.replace("query", part)] for part in ("query", "key", "value")]
            found[name.replace("multi_head_attention.query", "0.inputs")] = torch.cat(parts)
        elif ".multi_head_attention." not in name and theirs_name != "item_embedding.weight":
            found[name] = value
    return found


def configs(length: int) -> dict[str, RecommenderConfig]:
    """Our models with their default settings, by RecBole's names."""
    return {"GRU4Rec": GRU4RecConfig(length=length), "SASRec": SASRecConfig(length=length)}


def main() -> None:
    """Train, compare, print."""
    given = arguments(__doc__ or "", data="", domain="", seeds=3, epochs=20, batch_size=256, learning_rate="1e-3")
    small = given.quick or not given.data
    domain = make_domain(50, 30, 1) if small else load(DataFolder.find(Path(given.data)), given.domain)
    length = min(50, int((domain.offsets[1:] - domain.offsets[:-1]).max()))
    rows, figures = [], {}
    for model, config in configs(length).items():
        found: dict[str, list[Learnt]] = {"ours": [], "RecBole": []}
        furthest = 0.0
        for seed in range(1 if small else given.seeds):
            training = TrainConfig(
                epochs=2 if small else given.epochs, patience=None, loss="full", accumulate=1, weight_decay=0.0,
                batch_size=given.batch_size, learning_rate=float(given.learning_rate), seed=2020 + seed,
            )  # fmt: skip
            # Each in its own process, because RecBole changes global settings of torch.
            learnt, distance = measured(theirs, model, domain, training, length).result
            found["RecBole"].append(learnt)
            found["ours"].append(measured(ours, config, domain, training).result)
            furthest = max(furthest, distance)
        for program, seeds in found.items():
            ndcg = [one.ndcg for one in seeds]
            spread = statistics.stdev(ndcg) if len(ndcg) > 1 else 0.0
            hr, seconds = (statistics.mean(getattr(one, name) for one in seeds) for name in ("hr", "seconds"))
            rows.append((model, program, hr, statistics.mean(ndcg), spread, seconds))
        mine, other = (statistics.mean(one.ndcg for one in found[program]) for program in ("ours", "RecBole"))
        figures |= {f"{model}_ratio": mine / max(other, 1e-9), f"{model}_same_weights": furthest}
    title = f"{domain.name}: {domain.user_count:,} users, {domain.item_count:,} items"
    if given.json:
        named = {f"{row[0]}_{row[1]}_NDCG@10": row[3] for row in rows}
        show(title, {**figures, **named}, as_json=True)
        return
    table = Table("model", "program", "HR@10", "NDCG@10", "between seeds", "seconds", title=title, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else value for value in row))
    Console(width=120).print(table)
    show("ours over RecBole", figures, as_json=False)


if __name__ == "__main__":
    main()
