"""GRU4Rec and SASRec beside RecBole's: whether what MMM4Rec is measured against is as good as people know it.

Two independent programs learn the same sequences, with the same split, sizes, dropout, learning rate, batches and
epochs: per model and program NDCG@10 and HR@10 on test, of the epoch that is best on validation, as means over the
seeds. A ratio below 1 means that ours would make MMM4Rec look better than it is. `same_weights` is how far scores lie
apart if ours has RecBole's weights, in shares of the largest score.

RecBole 1.2.1 is not among the dependencies: `make recbole` makes .venv-recbole, an environment of its own laid over
.venv, and runs the quick form in it. --data is a data folder of the pipeline, --domain one of its domains that is
built. Without a folder (and with --quick) the domain is a random one: that shows that both run and compute the same,
and nothing about how well they learn.
"""

import os
import statistics
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
from torch import Tensor, nn

from benchmarks.measure import arguments, show
from benchmarks.training import make_domain
from benchmarks.transfer import load
from mmm4rec.baselines.config import GRU4RecConfig, SASRecConfig
from mmm4rec.checkpoint import load_model
from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.data import DomainData
from mmm4rec.evaluation import rank_labels
from mmm4rec.registry import make
from mmm4rec.training import fit
from pipelines.settings import House, data_folder

SIZES = {
    "GRU4Rec": {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "dropout_prob": 0.3},
    "SASRec": {
        **{"n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, "hidden_act": "gelu"},
        **{"hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "layer_norm_eps": 1e-12, "initializer_range": 0.02},
    },
}
"""RecBole's own defaults, which are those of `mmm4rec.baselines.config`."""


@dataclass(frozen=True)
class Learnt:
    """What a training came to."""

    ndcg: float
    hr: float
    seconds: float


def recbole_config(model: str, domain: DomainData, training: TrainConfig, length: int, folder: Path) -> Any:
    """RecBole's settings, with the domain's sequences as its file; leave-one-out, ranked over all items."""
    _with_old_names()
    from recbole.config import Config

    place = folder / "data"
    place.mkdir()
    with (place / "data.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(domain.user_count):
            bought = domain.items[domain.offsets[user] : domain.offsets[user + 1]].tolist()
            # The place in the sequence for a time, so that both have the same order.
            file.writelines(f"u{user}\ti{item}\t{moment}\n" for moment, item in enumerate(bought))
    return Config(
        model=model,
        dataset="data",
        config_dict={
            **SIZES[model],
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


def _with_old_names() -> None:
    """What RecBole 1.2.1 needs of numpy 1 and of torch before 2.6; the only pickle it reads is the one it wrote."""
    for old, new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, old, new)
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"


def theirs(model: str, domain: DomainData, training: TrainConfig, length: int) -> tuple[Learnt, float]:
    """RecBole's training; and how far ours with its weights is from its scores."""
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        config = recbole_config(model, domain, training, length, Path(folder))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, validation, test = data_preparation(config, dataset)
        network = get_model(config["model"])(config, train.dataset)
        trainer = Trainer(config, network)
        start = time.perf_counter()
        trainer.fit(train, validation, verbose=False, show_progress=False)
        seconds = time.perf_counter() - start
        found = trainer.evaluate(test, show_progress=False)
        ids = torch.tensor([0, *(dataset.token2id("item_id", f"i{item + 1}") for item in range(domain.item_count))])
        return Learnt(found["ndcg@10"], found["hit@10"], seconds), _apart(model, network, ids, domain, length)


def ours(config: RecommenderConfig, domain: DomainData, training: TrainConfig) -> Learnt:
    """Our training."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fit(domain, config, training, Path(folder))
        seconds = time.perf_counter() - start
        found = rank_labels(load_model(Path(folder), domain), domain, "test").metrics().flat()
        return Learnt(found["ndcg_10"], found["hr_10"], seconds)


def _apart(model: str, network: nn.Module, ids: Tensor, domain: DomainData, length: int) -> float:
    """The largest difference of scores of all test users and items, over the largest score."""
    mine = make(configs(length)[model], domain).eval()
    mine.load_state_dict(renamed(model, network.state_dict(), ids), strict=False)
    network.eval()
    examples = domain.examples("test", length)
    batch = examples.batch(torch.arange(len(examples)), length)
    with torch.no_grad():
        vectors = mine.item_vectors()
        users = mine.user_vectors(batch, vectors, batch.items)
        scores = users @ mine.score_vectors(vectors).T
        expected = network.full_sort_predict({network.ITEM_SEQ: ids[batch.items], network.ITEM_SEQ_LEN: batch.lengths})[
            :, ids
        ]
    return float((scores - expected)[:, 1:].abs().max() / expected.abs().max())


def renamed(model: str, weights: Mapping[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """RecBole's weights under our names, its items in our order."""
    found = {"item": weights["item_embedding.weight"][ids]}
    if model == "GRU4Rec":
        found |= {name.replace("gru_layers", "gru"): value for name, value in weights.items() if "gru" in name}
        return found | {f"out.{kind}": weights[f"dense.{kind}"] for kind in ("weight", "bias")}
    found["positions"] = weights["position_embedding.weight"]
    for kind in ("weight", "bias"):
        found[f"norm.{kind}"] = weights[f"LayerNorm.{kind}"]
        for layer in range(SIZES[model]["n_layers"]):
            attention, wide = (f"trm_encoder.layer.{layer}.{part}" for part in ("multi_head_attention", "feed_forward"))
            inputs = [weights[f"{attention}.{part}.{kind}"] for part in ("query", "key", "value")]
            found |= {
                f"layers.{layer}.0.inputs.{kind}": torch.cat(inputs),
                f"layers.{layer}.0.out.{kind}": weights[f"{attention}.dense.{kind}"],
                f"layers.{layer}.0.norm.{kind}": weights[f"{attention}.LayerNorm.{kind}"],
                f"layers.{layer}.1.widen.{kind}": weights[f"{wide}.dense_1.{kind}"],
                f"layers.{layer}.1.narrow.{kind}": weights[f"{wide}.dense_2.{kind}"],
                f"layers.{layer}.1.norm.{kind}": weights[f"{wide}.LayerNorm.{kind}"],
            }
    return found


def configs(length: int) -> dict[str, RecommenderConfig]:
    """Our models, by RecBole's names."""
    return {"GRU4Rec": GRU4RecConfig(length=length), "SASRec": SASRecConfig(length=length)}


def main() -> None:
    """Train, compare, print."""
    given = arguments(__doc__ or "", data="", domain="", seeds=3, epochs=20, batch_size=256, learning_rate="1e-3")
    warnings.filterwarnings("ignore", module="recbole|pandas|torch")
    small = given.quick or not given.data
    domain = make_domain(50, 30, 1) if small else load(House(data_folder(Path(given.data))), given.domain)
    length = min(50, int((domain.offsets[1:] - domain.offsets[:-1]).max()))
    rows, figures = [], {}
    for model, config in configs(length).items():
        found: dict[str, list[Learnt]] = {"ours": [], "RecBole": []}
        apart = 0.0
        for seed in range(1 if small else given.seeds):
            training = TrainConfig(
                epochs=2 if small else given.epochs, patience=None, loss="full", accumulate=1, weight_decay=0.0,
                batch_size=given.batch_size, learning_rate=float(given.learning_rate), seed=2020 + seed,
            )  # fmt: skip
            learnt, distance = theirs(model, domain, training, length)
            found["RecBole"].append(learnt)
            found["ours"].append(ours(config, domain, training))
            apart = max(apart, distance)
        for program, seeds in found.items():
            ndcg = [one.ndcg for one in seeds]
            spread = statistics.stdev(ndcg) if len(ndcg) > 1 else 0.0
            hr, seconds = (statistics.mean(getattr(one, name) for one in seeds) for name in ("hr", "seconds"))
            rows.append((model, program, hr, statistics.mean(ndcg), spread, seconds))
        mine, other = (statistics.mean(one.ndcg for one in found[program]) for program in ("ours", "RecBole"))
        figures |= {f"{model}_ratio": mine / max(other, 1e-9), f"{model}_same_weights": apart}
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
