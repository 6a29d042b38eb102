"""1-NN error on USPS with prototypes, and with criticisms, as the training set.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.prototypes.bench

Case study I of MARGIN: 7,291 training and 2,007 test images, Euclidean distances of
pixels. With prototypes a low test error is good, with criticisms a high one. "local"
uses the labels, "global" does not. Means, standard deviations and the worst over the
seeds. Seconds are CPU time on one thread and leave out what is prepared once, the graph
of ours and the kernel matrix of MMD-critic and ProtoDash (printed apart). ProtoDash,
the recomputed form of MMD-critic and criticisms stop at 960. k-medoids are those of
``pip install kmedoids``.

The paper's form is measured as Algorithm 1 and as each listing, and with several
shares of samples that count as of low influence, which the paper does not tell. Beside
the test error stands the one that the training images themselves have, each by the
nearest prototype other than itself: by that a share may be chosen.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shlex
import time
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import captum_margin
from captum_margin.influence import Prototypes
from captum_margin.signal import knn_graph, select_criticisms, select_prototypes
from captum_margin.signal.prototypes import prototypes_of_low_influence
from tests.benchmarks.forms import FORMS
from tests.benchmarks.machine import machine
from tests.benchmarks.prototypes import peers
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "prototypes.json"
SIZES = [10, 50, 110, 200, 410, 500, 960, 2500]
LAST = 960  # of the slow peers, and of criticisms
GAMMA = 0.026  # of MMD-critic's experiment
PROTOTYPES = 410  # given to MMD-critic's criticisms
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "kmedoids")
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def usps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels and labels of the training and of the test set."""
    found = []
    for part in ("train", "test"):
        data = np.load(Path(os.environ["CAPTUM_MARGIN_DATA"]) / f"usps_{part}.npz")
        found.append(torch.from_numpy(data["images"].reshape(-1, 256)).float())
        found.append(torch.from_numpy(data["labels"].astype(np.int64)))
    return found[0], found[1], found[2], found[3]


class Judge:
    """The test error in percent of training sets."""

    def __init__(self) -> None:
        self.x, self.y, self.test, self.truth = usps()

    def __call__(self, chosen) -> float:
        chosen = torch.as_tensor(chosen)
        nearest = torch.cdist(self.test, self.x[chosen]).argmin(dim=1)
        return 100 * (self.y[chosen][nearest] != self.truth).double().mean().item()

    def leave_one_out(self, chosen) -> float:
        """The error of the training images, none of which stands for itself."""
        chosen = torch.as_tensor(chosen)
        distance = torch.cdist(self.x, self.x[chosen])
        distance[chosen, torch.arange(len(chosen))] = torch.inf
        nearest = distance.argmin(dim=1)
        return 100 * (self.y[chosen][nearest] != self.y).double().mean().item()

    def summary(self, runs: list) -> dict[str, float]:
        """Mean, standard deviation and the worst of some selections."""
        errors = [self(chosen) for chosen in runs]
        row = {"mean": round(float(np.mean(errors)), 2)}
        if len(runs) > 1:
            row["sd"] = round(float(np.std(errors, ddof=1)), 2)
            row["worst"] = round(max(errors), 2)
        return row


def repeated(judge: Judge, sizes: list[int], seeds: int, choose):
    """Rows of ``choose(n, seed)`` for each size, with the seconds of one run."""
    rows = {}
    for n in sizes:
        start = time.process_time()
        runs = [choose(n, seed) for seed in range(seeds)]
        seconds = (time.process_time() - start) / seeds
        rows[n] = {**judge.summary(runs), "seconds": round(seconds, 4)}
    return rows


def nested(judge: Judge, sizes: list[int], picks: peers.Picks):
    """Rows of a greedy method, whose first n picks are its n."""
    chosen, seconds = picks
    return {
        n: {**judge.summary([chosen[:n]]), "seconds": round(seconds[n - 1], 4)}
        for n in sizes
    }


def published(judge: Judge, sizes: list[int], given: torch.Tensor | None):
    """The paper's form: rows of prototypes and of criticisms, and of other shares."""
    group = torch.zeros_like(judge.y) if given is None else given
    rows, criticisms, shares = {}, {}, {}
    for form in FORMS:
        start = time.process_time()
        asked = Prototypes.from_features(judge.x, given, paper=form, gamma=GAMMA)
        chosen = asked.select(max(sizes)).tolist()
        seconds = [time.process_time() - start] * len(chosen)
        within = [n for n in sizes if n <= len(chosen)]
        rows[form] = nested(judge, within, (chosen, seconds))
        few = [n for n in sizes if n <= LAST]
        most = asked.criticisms(max(few)).tolist()
        criticisms[form] = {n: judge.summary([most[:n]]) for n in few}
        found = asked.result()
        shares[form] = {}
        for share in SHARES:
            picks = prototypes_of_low_influence(
                found.function, found.scores, group, share
            )
            shares[form][share] = {
                n: {
                    "test": round(judge(picks[:n]), 2),
                    "training": round(judge.leave_one_out(picks[:n]), 2),
                }
                for n in sizes
                if n <= len(picks)
            }
    return rows, criticisms, shares


def prototypes(judge: Judge, sizes: list[int], seeds: int):
    """Tables of errors, local and global, and seconds of the preparations."""
    x, y = judge.x, judge.y
    points, labels = x.numpy(), y.numpy()
    start = time.process_time()
    edges, _ = knn_graph(x, 25)
    prepared = {"graph": round(time.process_time() - start, 2)}
    start = time.process_time()
    kernel = peers.gaussian_kernel(points, GAMMA)
    prepared["kernel"] = round(time.process_time() - start, 2)
    few = [n for n in sizes if n <= LAST]
    tables, criticisms, bounded, shares = {}, {}, {}, {}
    for name, given in (("local", y), ("global", None)):
        table = tables[name] = {}
        table["ours"] = repeated(
            judge,
            sizes,
            seeds,
            lambda n, s, given=given: select_prototypes(
                x, edges, n, labels=given, seed=s
            ),
        )
        show(name, {"ours": table["ours"]})
        paper, paper_criticisms, shares[name] = published(judge, sizes, given)
        table.update({f"paper, {form}": row for form, row in paper.items()})
        if given is not None:
            local = kernel * (labels[:, None] == labels)
        else:
            local = kernel
        greedy = peers.mmd_critic(local, max(sizes))
        table["MMD-critic, running sums"] = nested(judge, sizes, greedy)
        anew = peers.mmd_critic_recomputed(local, max(few))
        same = sum(a == b for a, b in zip(anew[0], greedy[0], strict=False))
        print(f"{same} of {len(anew[0])} picks of the two forms agree in place")
        table["MMD-critic, recomputed"] = nested(judge, few, anew)
        *dash, bounded[name] = peers.protodash(local, max(few))
        table["ProtoDash"] = nested(judge, few, (dash[0], dash[1]))
        if given is not None:
            table["k-means medoids by class"] = repeated(
                judge,
                sizes,
                seeds,
                lambda n, s: peers.k_means_medoids(points, labels, n, s),
            )
            table["k-medoids by class"] = repeated(
                judge, sizes, seeds, lambda n, s: peers.k_medoids(points, labels, n, s)
            )
        else:
            table["random"] = repeated(
                judge,
                sizes,
                seeds,
                lambda n, s: np.random.default_rng(s).choice(len(y), n, replace=False),
            )
        show(name, table)
        own = select_criticisms(x, edges, max(few), labels=given).tolist()
        theirs = peers.mmd_criticisms(local, greedy[0][:PROTOTYPES], max(few))
        criticisms[name] = {
            "ours": {n: judge.summary([own[:n]]) for n in few},
            "MMD-critic": {n: judge.summary([theirs[:n]]) for n in few},
            **{f"paper, {form}": row for form, row in paper_criticisms.items()},
        }
        show(f"{name}, criticisms (high is good)", criticisms[name])
    return tables, criticisms, prepared, bounded, shares


def extra_memory(what: str, n: int, queue) -> None:
    """Puts the peak memory in MiB of one selection beyond that of its inputs."""
    torch.set_num_threads(1)
    x, y, _, _ = usps()
    x[:50] @ x[:50].T  # libraries loaded
    edges, _ = knn_graph(x[:100], 25)
    select_prototypes(x[:100], edges, 20, labels=y[:100])
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    before = status("VmRSS")
    if what == "MMD-critic":
        peers.mmd_critic(peers.gaussian_kernel(x.numpy(), GAMMA), n)
    else:
        edges, _ = knn_graph(x, 25)
        select_prototypes(x, edges, n, labels=y if what == "ours, local" else None)
    queue.put((status("VmHWM") - before) // 1024)


def status(field: str) -> int:
    """Memory of this process in KiB, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def memory(sizes: list[int]) -> dict[str, dict[int, int]]:
    """Peak extra memory, each selection (with its graph or kernel) in a new process."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[int, int]] = {}
    for what in ("ours, local", "ours, global", "MMD-critic"):
        for n in sizes:
            queue = context.Queue()
            process = context.Process(target=extra_memory, args=(what, n, queue))
            process.start()
            found.setdefault(what, {})[n] = queue.get(timeout=600)
            process.join()
    return found


def show(title: str, table) -> None:
    """Prints one table: mean (worst) of the error, then seconds."""
    sizes = next(iter(table.values())).keys()
    print(f"\n{title:30}", *(f"{n:>14}" for n in sizes))
    for name, rows in table.items():
        cells = []
        for row in rows.values():
            worst = f" ({row['worst']:.1f})" if "worst" in row else ""
            cells.append(f"{row['mean']:.1f}{worst}")
        print(f"{name:30}", *(f"{cell:>14}" for cell in cells))
        if all("seconds" in row for row in rows.values()):
            print(
                f"{'  seconds':30}",
                *(f"{row['seconds']:14.3f}" for row in rows.values()),
                flush=True,
            )


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument(
        "--paper",
        action="store_true",
        help="make only what is of the paper's forms anew, in the record there is",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    judge = Judge()
    record = of_paper(judge, args) if args.paper else of_all(judge, args)
    settings = {
        "data": "USPS, 7291 training and 2007 test images",
        "seeds": args.seeds,
        "gamma": GAMMA,
        "paper": str(Prototypes.paper_settings),
        "prototypes_given_to_mmd_criticisms": PROTOTYPES,
        "clock": "CPU time of the process",
    }
    ran = {
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
            "captum_margin": captum_margin.__version__,
        },
        "machine": machine(),
        "seconds": round(time.time() - start),
    }
    command = shlex.join(["python", "-m", "tests.benchmarks.prototypes.bench"])
    if args.paper:
        record["settings"] = settings
        record["paper_run"] = {"command": f"{command} --paper", **ran}
    else:
        record = {"command": command, "settings": settings, **ran, **record}
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {args.out} after {ran['seconds']} s")


def of_all(judge: Judge, args: argparse.Namespace) -> dict:
    """The measurements of all methods."""
    with threadpool_limits(1):
        tables, criticisms, prepared, bounded, shares = prototypes(
            judge, args.sizes, args.seeds
        )
    beyond = memory([n for n in (410, 2500) if n <= max(args.sizes)])
    print(f"\nseconds of the graph and of the kernel matrix: {prepared}")
    print(f"MiB beyond the inputs: {beyond}")
    return {
        "all_samples": round(judge(torch.arange(len(judge.y))), 2),
        "prepared_seconds": prepared,
        "peak_extra_mib": beyond,
        "protodash_steps_with_a_zero_weight": bounded,
        "prototypes": tables,
        "criticisms": criticisms,
        "shares_of_low_influence": shares,
    }


def of_paper(judge: Judge, args: argparse.Namespace) -> dict:
    """The record with the paper's forms measured anew."""
    record = json.loads(args.out.read_text())
    record["shares_of_low_influence"] = {}
    for name, given in (("local", judge.y), ("global", None)):
        rows, criticisms, shares = published(judge, args.sizes, given)
        for table, made in (("prototypes", rows), ("criticisms", criticisms)):
            kept = record[table][name]
            kept.update({f"paper, {form}": row for form, row in made.items()})
        record["shares_of_low_influence"][name] = shares
    return record


if __name__ == "__main__":
    main()
