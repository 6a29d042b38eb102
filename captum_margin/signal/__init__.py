r"""Graph-signal analysis: the five steps that every method of the package takes.

Pose an interpretability question as a graph, a function on its nodes and a high-pass
filter; the nodes where the function changes against its neighbourhood are the answer
(MARGIN: Anirudh, Thiagarajan, Sridhar and Bremer, *Frontiers in Big Data* 4, 2021,
https://arxiv.org/abs/1711.05407).

1. domain: what a node is, a region, a sample or a vertex; yours
2. graph: which nodes are alike (``graph``)
3. function: f, what is asked of each node (``function``,
   ``mmd``, ``kde``)
4. filter: f_h = f - A^p f, what its neighbours do not explain (``high_pass``)
5. interpretation: I(i) = ‖f_h(i)‖², a ranking, a choice (``protocol``, ``select``,
   ``prototypes``)

:func:`margin` takes all five and keeps every intermediate. Letters, everywhere: N
nodes, F features, E edges, C classes or signal channels, p hops, A the graph shift, W
the edge weights, D the degrees.
"""

from captum_margin.signal.coverage import select_covering, unit_rows
from captum_margin.signal.function import label_disagreement, one_hot
from captum_margin.signal.graph import (
    Graph,
    as_undirected,
    check_graph,
    graph_from_neighbors,
    knn_graph,
    knn_graph_1d,
    to_csr,
)
from captum_margin.signal.high_pass import HighPass
from captum_margin.signal.kde import kernel_density
from captum_margin.signal.mmd import leave_neighborhood_out_mmd
from captum_margin.signal.protocol import MarginResult, influence, margin
from captum_margin.signal.prototypes import select_criticisms, select_prototypes
from captum_margin.signal.select import lowest_share, rank, select_diverse, top

__all__ = [
    "Graph",
    "HighPass",
    "MarginResult",
    "as_undirected",
    "check_graph",
    "graph_from_neighbors",
    "influence",
    "kernel_density",
    "knn_graph",
    "knn_graph_1d",
    "label_disagreement",
    "leave_neighborhood_out_mmd",
    "lowest_share",
    "margin",
    "one_hot",
    "rank",
    "select_covering",
    "select_criticisms",
    "select_diverse",
    "select_prototypes",
    "to_csr",
    "top",
    "unit_rows",
]
