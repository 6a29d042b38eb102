"""Tables of select_nodes: accuracy with the nodes that each method labels, and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tests.benchmarks.cells import EMPTY, MINUS, Cell, Row, markdown, number
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


def active_learning_splits(*graphs: str) -> str:
    """Means over random splits, with the standard deviation."""
    return _spread(graphs, "splits", OURS)


def active_learning_rounds() -> str:
    """The same after a second round; 20 random nodes had a label."""
    found = load("active_learning_splits")["graphs"]
    return _spread(tuple(found), "rounds", f"{OURS}, told")


def _spread(graphs: tuple[str, ...], protocol: str, ours: str) -> str:
    found = load("active_learning_splits")["graphs"]
    cells = {graph: found[graph][protocol] for graph in graphs}
    columns = [(graph, n) for graph in graphs for n in cells[graph][ours]]
    rows: list[Row] = []
    for name in cells[graphs[0]]:
        row = [cells[graph][name][n] for graph, n in columns]
        title = f"**{name}**" if name == ours else name
        rows.append([title, *(number(c["mean"], 1, c["sd"]) for c in row)])
    header = [
        f"{graph}, {n}" if n == next(iter(cells[graph][ours])) else n
        for graph, n in columns
    ]
    return markdown(["nodes", *header], rows, best="max")


def active_learning_choice() -> str:
    """Forms on the graphs that chose the default, and peers beside."""
    found = load("active_learning_choice")
    rows: list[Row] = []
    for kind in ("forms", "beside"):
        for name, row in found[kind].items():
            chosen = kind == "forms" and name == found["chosen"]
            rows.append(
                [
                    f"**{name}**" if chosen else name,
                    *(number(mean, 1) for mean in row["by_budget"]),
                    number(row["mean"], 2),
                    Cell("0")
                    if kind == "forms" and name == found["best"]
                    else number(row["best_minus_this"], 2, row["standard_error"]),
                ]
            )
    budgets = [f"{n} ↑" for n in found["budgets"]]
    header = ["form", *budgets, "mean ↑", f"best {MINUS} this"]
    return markdown(header, rows)


def active_learning_cost() -> str:
    """CPU seconds and memory by the number of nodes."""
    lines = load("active_learning_size")["lines"]
    sizes = [*lines[OURS]]
    rows: list[Row] = []
    for name, row in lines.items():
        cells: list[Cell] = []
        for n in sizes:
            cell = row.get(n, {})
            if "seconds" in cell:
                cells.append(Cell(f"{cell['seconds']:.1f} s, {cell['peak_mib']} MiB"))
            else:
                cells.append(Cell(cell.get("not_run", "")))
        rows.append([f"**{name}**" if name == OURS else name, *cells])
    return markdown(["nodes", *(f"{int(n):,}" for n in sizes)], rows)
