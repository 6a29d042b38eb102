"""Tables of select_nodes: accuracy with the nodes that each method labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tests.benchmarks.cells import EMPTY, Row, markdown, number
from tests.benchmarks.records import load

OURS = "select_nodes"
# Rows of the paper's protocol, in this order, and what they are.
PUBLISHED = {
    OURS: f"**{OURS}**",
    "squared high-pass, symmetric": "`paper=True`, Algorithm 1",
    "arXiv listing": '`paper="arxiv"`',
    "journal listing": '`paper="journal"`',
    "random per class": "random of each class",
    "resampling, features": "resampling by the filtered features (Chen et al. 2017)",
    "resampling, norm of features": "resampling by the norm of the features",
    "resampling, norm of f": "resampling by the norm of the embedding",
    "plain norm": "largest norm of the embedding",
    "squared high-pass": "Algorithm 1, random walk instead",
    "resampling, energy": "resampling by the energy of that",
}
# How the names of its other forms begin; all other names are of peers.
DEVIATIONS = ("coverage", "norm", "high-pass")


def active_learning(forms: bool = False) -> str:
    """Accuracy with nodes of the open pool, of peers or of other forms of ours."""
    return _accuracies("open", lambda name: name.startswith(DEVIATIONS) == forms)


def active_learning_paper() -> str:
    """Accuracy with nodes of each class out of the standard training nodes."""
    return _accuracies("paper", PUBLISHED.__contains__, PUBLISHED)


def _accuracies(
    protocol: str,
    shown: Callable[[str], bool],
    titles: Mapping[str, str] = MappingProxyType({OURS: f"**{OURS}**"}),
) -> str:
    """Means over the seeds, in per cent, by the number of labelled nodes."""
    graphs = ("Cora", "CiteSeer")
    found = load("active_learning")["results"]
    methods = {graph: found[f"{graph}, {protocol}"]["methods"] for graph in graphs}
    sizes = {graph: list(methods[graph][OURS]) for graph in graphs}
    rows: list[Row] = []
    order = [*titles, *(name for name in methods["Cora"] if name not in titles)]
    for name in order:
        if name == OURS or shown(name):
            cells = [
                number(cell["mean"], 1) if (cell := row.get(n)) else EMPTY
                for graph in graphs
                for row in [methods[graph].get(name, {})]
                for n in sizes[graph]
            ]
            rows.append([titles.get(name, name), *cells])
    header = [
        f"{graph}, {n}" if n == sizes[graph][0] else n
        for graph in graphs
        for n in sizes[graph]
    ]
    return markdown(["nodes", *header], rows, best="max")
