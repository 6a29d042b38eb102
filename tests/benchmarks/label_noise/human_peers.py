"""Methods that find the mistakes of people: rankings, and what they flag as wrong.

Three groups, by what they are given: features, somebody's out-of-fold probabilities, or
both. Those of ``peers.py`` are as in the benchmark of planted mistakes.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from captum_margin.influence import LabelNoise
from tests.benchmarks.label_noise.peers import K_VALUE, PENALTIES, K, Peers, cleanlab

OURS = "LabelNoise"
SELF = "5-fold self-confidence"
MARGIN = "5-fold normalised margin"
SHARED = ("self-confidence", "normalised margin", "cleanlab", "Datalab")
FEATURES = (
    SELF,
    MARGIN,
    "cleanlab, 5-fold",
    "Datalab, features",
    "AUM",
    f"label disagreement, k = {K}",
    f"cleanlab, k-NN, k = {K_VALUE}",
    f"cleanlab Shapley, k = {K_VALUE}",
    f"k-NN Shapley, k = {K_VALUE}",
    "training loss",
    "influence functions",
    "TracIn",
    "random",
)
BOTH = ("mean rank of both self-confidences",)
AUM_EPOCHS, AUM_BATCH = 20, 100


class Verdict(NamedTuple):
    """Scores (N,), high for suspects; which are called wrong, where it says; seconds.

    ``penalty`` is the C of the logistic regression, for the peers that have one.
    """

    scores: np.ndarray
    flagged: np.ndarray | None = None
    seconds: float = 0.0
    penalty: float | None = None


def of_features(x: Tensor, labels: Tensor, seed: int) -> dict[str, Verdict]:
    """The peers that are given features."""
    y = labels.numpy()
    peers = _peers(x)
    start = time.process_time()
    made = {c: peers.held_out(y, c) for c in PENALTIES}
    # As Peers.penalty, whose predictions are needed here.
    c = max(PENALTIES, key=lambda c: (made[c].argmax(axis=1) == y).mean())
    seconds = time.process_time() - start
    found = of_probabilities(made[c], labels)
    names = zip((SELF, MARGIN, "cleanlab, 5-fold"), SHARED, strict=False)
    verdicts = {
        name: found[shared]._replace(seconds=seconds, penalty=c)
        for name, shared in names
    }
    scores = peers.scores(labels, c, seed, made[c])
    for name, values in scores.items():
        verdicts.setdefault(name, Verdict(values, None))
    verdicts["Datalab, features"] = _timed(_datalab, y, features=x.numpy())
    verdicts["AUM"] = _timed(_aum, torch.from_numpy(peers.features), labels, seed)
    return {name: verdicts[name] for name in FEATURES}


@lru_cache(maxsize=1)
def _peers(x: Tensor) -> Peers:
    """What labels do not change is made once for the levels of a half."""
    return Peers(x)


def of_probabilities(p: np.ndarray, labels: Tensor) -> dict[str, Verdict]:
    """The peers that are given probabilities (N, C)."""
    y, rows = labels.numpy(), np.arange(len(labels))
    others = p.copy()
    others[rows, y] = -np.inf
    margin = p[rows, y] - others.max(axis=1)
    issues = cleanlab().filter.find_label_issues(y, p, n_jobs=1)
    own = 1 - p[rows, y]
    return {
        "self-confidence": Verdict(own),
        "normalised margin": Verdict(-margin, margin < 0),
        "cleanlab": Verdict(issues + own / 2, issues),  # its issues first
        "Datalab": _timed(_datalab, y, pred_probs=p),
    }


def of_both(held_out: np.ndarray, own: np.ndarray) -> dict[str, Verdict]:
    """The simplest use of both: of the scores of two rankings, the mean rank."""
    return {BOTH[0]: Verdict(rankdata(held_out) + rankdata(own))}


def ours(x: Tensor | None, p: np.ndarray | None, labels: Tensor) -> Verdict | None:
    """LabelNoise on features, probabilities or both; None where it cannot take them."""
    start = time.process_time()
    make: Any = LabelNoise.from_features
    if x is None:
        make = getattr(LabelNoise, "from_probabilities", None)
        if make is None:
            return None
        noise = make(p, labels)
    elif p is None:
        noise = make(x, labels)
    elif "pred_probs" in inspect.signature(make).parameters:
        noise = make(x, labels, pred_probs=p)
    else:
        return None
    scores = noise.self_influence().double().numpy()
    flagged = (noise.result().predicted() != labels).numpy()
    return Verdict(scores, flagged, time.process_time() - start)


def _timed(method: Any, *given: Any, **named: Any) -> Verdict:
    start = time.process_time()
    verdict: Verdict = method(*given, **named)
    return verdict._replace(seconds=time.process_time() - start)


def _datalab(y: np.ndarray, **given: np.ndarray) -> Verdict:
    """The label issues of cleanlab's Datalab and its own quality of every label."""
    from cleanlab import Datalab

    lab = Datalab({"label": y}, label_name="label", verbosity=0)
    lab.find_issues(**given, issue_types={"label": {}})
    found = lab.get_issues("label")
    flagged = found["is_label_issue"].to_numpy()
    return Verdict(1 - found["label_score"].to_numpy(), flagged)


def _aum(x: Tensor, labels: Tensor, seed: int) -> Verdict:
    """Area under the margin (Pleiss et al. 2020) by its authors' package.

    Of a linear model trained by SGD with the step of TracIn's; the mean over epochs of
    the logit of the label minus the highest other one, seen before each step.
    """
    try:
        from aum import AUMCalculator
    except ImportError as error:
        raise ImportError("this benchmark needs it: pip install aum") from error
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    rate = 1.0 / float(x.square().sum(dim=1).mean())
    weights = x.new_zeros(x.size(1), int(labels.max()) + 1)
    hot = torch.nn.functional.one_hot(labels).to(x)
    generator = torch.Generator().manual_seed(seed)
    margins = np.zeros(len(x))
    with tempfile.TemporaryDirectory() as folder:
        calculator = AUMCalculator(folder, compressed=True)
        for _ in range(AUM_EPOCHS):
            for batch in torch.randperm(len(x), generator=generator).split(AUM_BATCH):
                logits = x[batch] @ weights
                records = calculator.update(logits, labels[batch], batch.tolist())
                for sample, record in records.items():
                    margins[sample] = record.aum
                residue = logits.softmax(dim=1) - hot[batch]
                weights -= rate * x[batch].T @ residue / len(batch)
    return Verdict(-margins)
