"""The filter as MARGIN was published: once as an algorithm, twice as a listing."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from captum_margin.influence.settings import Settings
from captum_margin.signal import Graph, HighPass

__all__ = ["Paper", "paper_form", "published_filter"]

Paper = Literal["algorithm", "arxiv", "journal"]


def paper_form(paper: Any) -> Paper | None:
    """Which form is meant; None for none of them.

    Raises:
        ValueError: If there is no such form.
    """
    if paper is False or paper is None:
        return None
    if paper is True:
        return "algorithm"
    if paper not in get_args(Paper):
        raise ValueError(
            f"expected paper=True, False or one of {get_args(Paper)} (got {paper!r})"
        )
    form: Paper = paper
    return form


def published_filter(
    signal: Tensor, graph: Graph, form: Paper, settings: Settings
) -> Tensor:
    r"""The high-pass part of a function in a published form.

    With P = A^p and M the number of positive entries in each row of P:

    - ``"algorithm"``: f - P f (Algorithm 1).
    - ``"arxiv"``: f - (P f) / M, as the listing of the arXiv edition prints it. P has
      its degrees in it already; divided once more, next to nothing is subtracted.
    - ``"journal"``: g - (P g) / M with g = (P f) / M, as the listing of the journal
      prints it. What is left is a smoothed f, small where there are many neighbours.

    The listings take degrees to be numbers of edges, which they are in the papers'
    graphs without weights, and the magnitude for the square, which ranks alike.

    Args:
        signal (Tensor): f of shape (N,) or (N, C).
        graph (Graph): Undirected.
        form (str): One of the above.
        settings (Settings): With shift, hops and what becomes of isolated samples.

    Returns:
        Tensor: Of the shape of f.
    """
    layer = HighPass(
        settings.shift,
        settings.hops,
        isolated=settings.isolated,
        support_normalized=form != "algorithm",
    )
    if form == "journal":
        signal = signal - layer(signal, graph.edge_index, graph.edge_weight)
    filtered: Tensor = layer(signal, graph.edge_index, graph.edge_weight)
    return filtered
