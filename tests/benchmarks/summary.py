"""The README's one table: every method beside its best peer, and where a peer wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.benchmarks.active_learning.table import DEVIATIONS, OURS
from tests.benchmarks.adversarial.detection_table import PEERS as DETECTORS
from tests.benchmarks.cells import DIFFERENCE, MINUS, Row, markdown, number
from tests.benchmarks.networks.trained import TITLES, NetworkName
from tests.benchmarks.records import load
from tests.benchmarks.representative.table import REPRESENTATIVE
from tests.benchmarks.saliency.rows import MAIN_ROW, ROWS


class Side(NamedTuple):
    """A measure of ours and of the peers.

    Args:
        what: The measure and its data.
        ours: Ours.
        peers: Those of the peers, by name.
        high: Whether high is good.
        digits: Decimal places shown.
    """

    what: str
    ours: float
    peers: Mapping[str, float]
    high: bool
    digits: int

    def best(self) -> tuple[str, float]:
        """The best peer."""
        pick = max if self.high else min
        name = pick(self.peers, key=lambda peer: self.peers[peer])
        return name, self.peers[name]

    def lost(self) -> bool:
        """Whether the best peer is better."""
        best = self.best()[1]
        return best > self.ours if self.high else best < self.ours


def summary() -> str:
    """One row a method; the last column is a measure by which a peer is better."""
    rows: list[Row] = []
    for name, wins, loses in _sides():
        peer, value = wins.best()
        better, lost = loses.best()
        arrow = "↑" if wins.high else "↓"
        rows.append(
            [
                f"`{name}`",
                f"{wins.what} {arrow}",
                f"**{number(wins.ours, wins.digits).text}**",
                f"{number(value, wins.digits).text} ({peer})",
                f"{loses.what}: {number(loses.ours, loses.digits).text} against "
                f"{number(lost, loses.digits).text} ({better})",
            ]
        )
    header = ["", "measure", "ours", "best peer", "where a peer is better"]
    return markdown(header, rows)


def _sides() -> list[tuple[str, Side, Side]]:
    return [
        *(("MarginSaliency", *_saliency(network)) for network in _networks()),
        ("RepresentativeInterpretation", *_representative()),
        ("CoalitionPerturbation", *_coalition()),
        ("LabelNoise", *_label_noise()),
        ("Prototypes", *_prototypes()),
        ("DecisionBoundary", *_decision_boundary()),
        ("AdversarialStatistics", *_adversarial()),
        ("AttackDetector", *_attack_detector()),
        ("select_nodes", *_select_nodes()),
    ]


def _plain(label: str) -> str:
    return label.replace("*", "").removeprefix("Captum ")


def _image_side(
    methods: Mapping[str, Any],
    labels: Mapping[str, str],
    ours: str,
    key: str,
    what: str,
    high: bool,
) -> Side:
    """Means over the photographs; our other methods and forms are no peers."""
    means = {name: methods[name]["metrics"][key]["mean"] for name in labels}
    peers = {
        _plain(labels[name]): mean
        for name, mean in means.items()
        if not name.startswith(("Margin", "Coalition", "keeping"))
    }
    return Side(what, means[ours], peers, high, 3)


def _networks() -> list[NetworkName]:
    """Those on which pictures were explained."""
    found = load("saliency")["networks"]
    return [name for name in TITLES if name in found]


def _saliency(network: NetworkName) -> tuple[Side, Side]:
    record = load("saliency_many")["networks"][network]
    labels = {  # a peer may have several budgets
        name: f"{ROWS[name].name}, {row['metrics']['n_forward']['mean']:.0f} passes"
        for name, row in record["methods"].items()
    }
    n, title = len(record["photographs"]), TITLES[network]

    def side(key: str, what: str, high: bool) -> Side:
        return _image_side(record["methods"], labels, MAIN_ROW, key, what, high)

    what = f"insertion {MINUS} deletion, {n} photographs, {title}"
    wins = side(DIFFERENCE, what, True)
    others = (
        side("deletion", "deletion", False),
        side("drop_keep20", "average drop, 20% kept", False),
        side("insertion", "insertion", True),
    )
    return wins, next((other for other in others if other.lost()), others[0])


def _representative() -> tuple[Side, Side]:
    tasks = load("representative")["tasks"]

    def side(task: str, what: str) -> Side:
        drop = {
            name: tasks[task]["methods"][name]["average_drop"]["mean"]
            for name in REPRESENTATIVE
        }
        ours = drop["representative linear Q=50, reused bank"]
        peers = {
            REPRESENTATIVE[name]: value
            for name, value in drop.items()
            if "reused" in name and not name.startswith("representative")
        }
        return Side(what, ours, peers, False, 1)

    return (
        side("cats_dogs_deep", "average drop on unseen photographs, deep head, %"),
        side("cats_dogs_conv", "convolutional head"),
    )


def _coalition() -> tuple[Side, Side]:
    """The average drop beside maps that keep as little, since it rewards the others."""
    record = load("saliency")["networks"]["squeezenet"]["methods"]
    ours = "CoalitionPerturbation"
    kept = record[ours]["metrics"]["mask_mean_soft"]["mean"]
    titles = {name: ROWS[name].name for name in record}
    little = {
        name: title
        for name, title in titles.items()
        if record[name]["metrics"]["mask_mean_soft"]["mean"] <= kept
    }
    n = record[ours]["photographs"]
    what = f"average drop of maps that keep as little, {n} photographs"
    return (
        _image_side(record, little, ours, "drop_soft", what, False),
        _image_side(
            record, titles, ours, DIFFERENCE, f"insertion {MINUS} deletion", True
        ),
    )


def _label_noise() -> tuple[Side, Side]:
    """People's mistakes, the report half; all methods see the same features."""
    report = load("label_noise_human")["results"]["report"]

    def side(network: str, level: str, key: str, what: str, digits: int) -> Side:
        methods = report[network][level]["methods"]
        found = {name: row[key] for name, row in methods.items() if key in row}
        ours = found.pop("LabelNoise")
        return Side(what, ours, found, True, digits)

    return (
        side(
            "efficientnet",
            "aggregate",
            "AP",
            "average precision, mistakes that people made in CIFAR-10, 9% wrong",
            3,
        ),
        side(
            "squeezenet",
            "worst",
            "flagged_precision",
            "right among what is called wrong, 40% wrong",
            2,
        ),
    )


def _prototypes() -> tuple[Side, Side]:
    local = load("prototypes")["prototypes"]["local"]
    names = {
        "k-means medoids by class": "k-means medoids",
        "k-medoids by class": "k-medoids",
        "MMD-critic, running sums": "MMD-critic",
        "ProtoDash": "ProtoDash",
    }

    def side(size: str, key: str, what: str, digits: int) -> Side:
        peers = {label: local[name][size][key] for name, label in names.items()}
        return Side(what, local["ours"][size][key], peers, False, digits)

    return (
        side("110", "mean", "1-NN error with 110 digits of USPS, %", 1),
        side("410", "seconds", "CPU seconds for 410", 2),
    )


def _decision_boundary() -> tuple[Side, Side]:
    tables = load("decision_boundary")["tables"]

    def side(data: str, layer: str, what: str) -> Side:
        methods = tables[data]["methods"]
        ours = methods[f"DecisionBoundary, {layer}, default"]["mean"][0]
        peers = {"entropy": 100 * methods["entropy"]["mean"][0]}
        return Side(what, 100 * ours, peers, True, 0)

    return (
        side("MNIST 0/6, trained on 100", "conv", "mistakes in the first 1%, MNIST, %"),
        side("cats and dogs", "features", "cats and dogs"),
    )


def _adversarial() -> tuple[Side, Side]:
    statistics = load("adversarial")["tables"]["FGSM 0.1"]["statistics"]
    ours = statistics["kde: filtered, neighbours by maps"]["auroc"]
    peers = {
        "kernel density": statistics["kde: f"]["auroc"],
        "MMD without a graph, low is suspicious": statistics["mmd: f"]["auroc"],
    }
    rows = load("attack_detection")["networks"]["MNIST"]["rows"]
    means = {label: rows[name]["mean"] for name, label in DETECTORS.items()}
    attacks = rows["AdversarialStatistics"]["mean"]
    return (
        Side("AUROC of attacked digits, FGSM 0.1", ours, peers, True, 3),
        Side("mean of six attacks on another net of digits", attacks, means, True, 3),
    )


def _attack_detector() -> tuple[Side, Side]:
    rows = load("attack_detection")["networks"]["CIFAR-10"]["rows"]

    def side(values: Mapping[str, float], what: str) -> Side:
        peers = {label: values[name] for name, label in DETECTORS.items()}
        return Side(what, values["AttackDetector"], peers, True, 3)

    means = {name: row["mean"] for name, row in rows.items()}
    large = {name: row["auroc"]["FGSM large"] for name, row in rows.items()}
    return (
        side(means, "AUROC of attacked CIFAR-10 images, mean of six attacks"),
        side(large, "large FGSM alone"),
    )


def _select_nodes() -> tuple[Side, Side]:
    methods = load("active_learning")["results"]["Cora, open"]["methods"]
    ours = methods[OURS]["20"]["mean"]
    peers = {
        name: row["20"]["mean"]
        for name, row in methods.items()
        if not name.startswith((OURS, *DEVIATIONS))
    }
    graphs = load("active_learning_splits")["graphs"]
    mixed = {
        name: row["140"]["mean"] for name, row in graphs["mixed"]["splits"].items()
    }
    return (
        Side("accuracy with 20 labels of Cora, any nodes, %", ours, peers, True, 1),
        Side(
            "140 labels where edges join unlike nodes",
            mixed.pop(OURS),
            mixed,
            True,
            1,
        ),
    )
