"""Tables of the data set questions: labels, prototypes, boundaries, attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .table_cells import EMPTY, Cell, Row, load, markdown, number, percent

NOISY = {
    "enron, 10% symmetric": "Enron, tf-idf, 10%",
    "enron-paper, 10% symmetric": "Enron, bag of words, 10%",
    "cats-dogs, 10% symmetric": "cats and dogs, 10%",
    "cifar, 10% symmetric": "CIFAR-10, 10% sym",
    "cifar, 40% symmetric": "CIFAR-10, 40% sym",
    "cifar, 30% pairwise": "CIFAR-10, 30% pair",
    "mnist, 10% symmetric": "MNIST, 10% sym",
    "mnist, 40% symmetric": "MNIST, 40% sym",
    "mnist, 30% pairwise": "MNIST, 30% pair",
}
RANKINGS = {
    "LabelNoise": "**LabelNoise**",
    "neighbours only, one pass": "neighbours' vote alone",
    "label disagreement, k = 20": "disagreement of 20 neighbours",
    "5-fold self-confidence": "self-confidence, five-fold",
    "cleanlab, 5-fold": "cleanlab",
    "influence functions": "influence functions",
}
CHECKED = {
    "LabelNoise": "**LabelNoise**",
    "label disagreement, k = 20": "disagreement of 20 neighbours",
    "5-fold self-confidence": "self-confidence, five-fold logistic regression",
    "k-NN Shapley, k = 10": "k-NN Shapley, exact",
    "influence functions": "influence functions",
    "cleanlab Shapley, k = 10": "k-NN Shapley, cleanlab's",
    "paper=True": "LabelNoise, `paper=True`",
    "TracIn": "TracIn",
}
OURS = "select_nodes"
# How the names of its other forms begin; all other names are of peers.
DEVIATIONS = ("coverage", "norm", "high-pass")
SIZES = ("10", "110", "410", "960", "2500")
# Rows of the page: the case (with labels or without), the record's name, our name.
PROTOTYPES = (
    ("local", "ours", "**Prototypes**, with labels"),
    ("local", "k-means medoids by class", "k-means medoids of each class"),
    ("local", "k-medoids by class", "k-medoids of each class"),
    ("local", "MMD-critic, running sums", "MMD-critic, with labels"),
    ("local", "ProtoDash", "ProtoDash, with labels"),
    ("global", "ours", "**Prototypes**, without labels"),
    ("global", "MMD-critic, running sums", "MMD-critic, without labels"),
    ("local", "ours, paper=True", "`paper=True`, with labels"),
    ("global", "random", "random"),
)
FORMS = (
    ("local", "ours, paper=True", "`paper=True`, with labels"),
    ("local", "MMD-critic, running sums", "MMD-critic, with labels"),
    ("local", "ours", "**Prototypes**, with labels"),
    ("global", "ours, paper=True", "`paper=True`, without labels"),
    ("global", "MMD-critic, running sums", "MMD-critic, without labels"),
    ("global", "ours", "**Prototypes**, without labels"),
)
ATTACKS = {
    "FGSM 0.1": "FGSM 0.1 ↑",
    "FGSM 0.15": "0.15 ↑",
    "FGSM 0.3": "0.3 ↑",
    "Carlini-Wagner L2": "Carlini\N{EN DASH}Wagner ↑",
}
KDE = {
    "kde: f": "kernel density (Feinman et al.)",
    "kde: filtered, class": (
        "**less that of training images of the class** (default with references)"
    ),
    "kde: filtered, neighbours by maps": (
        "**less that of 30 alike in the convolutions** (`graph_features`)"
    ),
    "kde: paper": "the paper's filter",
}
STATISTICS = {
    "kde: f": "kernel density (KDE)",
    "kde: paper": "KDE, `paper=True`",
    "kde: filtered, class": "**KDE, default with references**",
    "kde: filtered, neighbours by maps": "**KDE, `graph_features`**",
    "mmd: f": "MMD, low is suspicious",
    "mmd: paper": "MMD, `paper=True`, low is suspicious",
    "mmd: filtered, 64 hops": '**MMD, `sided="below"`, 64 hops**',
}
BOUNDARY = {
    "cats and dogs": "cats and dogs ↑",
    "MNIST 0/6, trained on 20": "MNIST 0/6, net of 20 images ↑",
    "MNIST 0/6, trained on 100": "of 100 ↑",
    "MNIST 0/6, trained on 2000": "of 2,000 ↑",
}
BOUNDARY_ROWS = (
    ("conv, paper", "`paper=True`, feature maps"),
    ("conv, default", "**DecisionBoundary**, feature maps"),
    ("hidden, paper", "`paper=True`, last hidden layer"),
    ("hidden, default", "**DecisionBoundary**, last hidden layer"),
    ("entropy", "entropy, or margin"),
    ("random", "random"),
)


def label_noise() -> str:
    """Average precision of every data set and kind of noise."""
    record = load("label_noise")
    column = record["settings"]["columns"].index("AP")
    rows: list[Row] = []
    for name, label in NOISY.items():
        methods = record["results"][name]["methods"]
        rows.append([label, *(number(methods[m]["mean"][column]) for m in RANKINGS)])
    return markdown(["data, flips", *RANKINGS.values()], rows, best="row max")


def label_noise_checked() -> str:
    """Share of Enron's flips among the first e-mails checked."""
    record = load("label_noise")
    methods = record["results"]["enron, 10% symmetric"]["methods"]
    rows: list[Row] = [
        [label, *_recall(record, methods[name])] for name, label in CHECKED.items()
    ]
    return markdown(["method", "first 10% ↑", "15% ↑", "30% ↑"], rows)


def _recall(record: Mapping[str, Any], row: Mapping[str, Any]) -> list[Cell]:
    columns = record["settings"]["columns"]
    shares = ("0.1", "0.15", "0.3")
    return [number(row["mean"][columns.index(f"recall at {s}")]) for s in shares]


def label_noise_forms() -> str:
    """The data of the paper: its form, the default, peers."""
    record = load("label_noise")
    data = ("enron-paper, 10% symmetric", "cats-dogs, 10% symmetric")
    names = ["paper=True", "LabelNoise", "label disagreement, k = 20"]
    names += ["5-fold self-confidence", "influence functions", "random"]
    labels = {**CHECKED, **RANKINGS, "random": "random"}
    rows: list[Row] = []
    for name in names:
        cells = [_recall(record, record["results"][d]["methods"][name]) for d in data]
        rows.append([labels[name], *cells[0], *cells[1]])
    header = ["method", "Enron, first 10% ↑", "15% ↑", "30% ↑"]
    return markdown([*header, "cats and dogs, 10% ↑", "15% ↑", "30% ↑"], rows)


def _errors(
    record: Mapping[str, Any], rows: tuple[tuple[str, str, str], ...], what: str
) -> list[Row]:
    found: list[Row] = []
    for case, name, label in rows:
        errors = record[what][case][name]
        cells = [number(errors[n]["mean"], 1) if n in errors else EMPTY for n in SIZES]
        found.append([label, *cells])
    return found


def prototypes() -> str:
    """Test error with prototypes as the training set."""
    sizes = [f"{int(size):,}" for size in SIZES]
    rows = _errors(load("prototypes"), PROTOTYPES, "prototypes")
    return markdown(["prototypes", *sizes], rows, best="min")


def prototype_forms() -> str:
    """The paper's rule beside MMD-critic's and the default's."""
    sizes = [f"{int(size):,}" for size in SIZES]
    rows = _errors(load("prototypes"), FORMS, "prototypes")
    return markdown(["prototypes", *sizes], rows, best="min")


def criticisms() -> str:
    """Test error with criticisms as the training set: high is good."""
    wanted = (
        ("local", "ours", "**Prototypes**, with labels"),
        ("local", "MMD-critic", "MMD-critic, with labels"),
        ("global", "ours", "**Prototypes**, without labels"),
        ("global", "MMD-critic", "MMD-critic, without labels"),
    )
    rows = [row[:-1] for row in _errors(load("prototypes"), wanted, "criticisms")]
    return markdown(["criticisms", *SIZES[:-1]], rows, best="max")


def _aurocs(names: Mapping[str, str]) -> str:
    tables = load("adversarial")["tables"]
    rows: list[Row] = []
    for name, label in names.items():
        found = [tables[attack]["statistics"][name] for attack in ATTACKS]
        rows.append([label, *(number(row["auroc"]) for row in found)])
    return markdown(["statistic", *ATTACKS.values()], rows)


def adversarial() -> str:
    """AUROC of the kernel density, without and with the graph."""
    return _aurocs(KDE)


def adversarial_forms() -> str:
    """AUROC of both statistics, in all forms."""
    return _aurocs(STATISTICS)


def decision_boundary() -> str:
    """Mistakes among the 1% ranked highest."""
    tables = load("decision_boundary")["tables"]
    rows: list[Row] = []
    for key, label in BOUNDARY_ROWS:
        cells: list[Cell] = []
        for data in BOUNDARY:
            methods = tables[data]["methods"]
            layer = "features" if data == "cats and dogs" else "hidden"
            name = key.replace("hidden", layer)
            found = methods.get(name) or methods.get(f"DecisionBoundary, {name}")
            # The record's first column: misclassified among the first 1%.
            cells.append(percent(found["mean"][0]) if found else EMPTY)
        rows.append([label, *cells])
    return markdown(["ranking", *BOUNDARY.values()], rows)


def active_learning(forms: bool = False) -> str:
    """Accuracy with nodes of the open pool, of peers or of other forms of ours."""
    return _accuracies("open", lambda name: name.startswith(DEVIATIONS) == forms)


def active_learning_paper() -> str:
    """Accuracy with nodes of each class out of the standard training nodes."""
    return _accuracies("paper", lambda _: True)


def _accuracies(protocol: str, shown: Callable[[str], bool]) -> str:
    """Means over the seeds, in per cent, by the number of labelled nodes."""
    graphs = ("Cora", "CiteSeer")
    found = load("active_learning")["results"]
    methods = {graph: found[f"{graph}, {protocol}"]["methods"] for graph in graphs}
    sizes = {graph: list(methods[graph][OURS]) for graph in graphs}
    rows: list[Row] = []
    for name in methods["Cora"]:
        if name == OURS or shown(name):
            cells = [
                number(cell["mean"], 1) if (cell := row.get(n)) else EMPTY
                for graph in graphs
                for row in [methods[graph].get(name, {})]
                for n in sizes[graph]
            ]
            rows.append([f"**{name}**" if name == OURS else name, *cells])
    header = [
        f"{graph}, {n}" if n == sizes[graph][0] else n
        for graph in graphs
        for n in sizes[graph]
    ]
    return markdown(["nodes", *header], rows, best="max")
