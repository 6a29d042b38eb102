r"""Graphs on disk, in blocks: the same questions at a million samples, or a billion.

1. :func:`build_shards`: features -> the k nearest neighbours of each row, on disk; by
   faiss, ``pip install captum-margin[scale]``
2. :func:`undirected`: neighbours -> undirected edges, on disk
3. :func:`high_pass`, :func:`label_disagreement`, ...: one pass over the files each
4. :func:`label_noise`: all of it, from features and labels to suspects

Every step is tasks of blocks, which an ``executor`` of the caller's may run, and goes
on where it was killed. The functions equal those of :mod:`captum_margin.signal` on the
same graph.
"""

from captum_margin.scale._features import fingerprint
from captum_margin.scale.build import build_shards, recall_of
from captum_margin.scale.edges import EdgeShards, undirected
from captum_margin.scale.executor import map_blocks
from captum_margin.scale.filter import high_pass
from captum_margin.scale.functions import (
    label_disagreement,
    label_votes,
    row_norms,
)
from captum_margin.scale.kernels import kernel_density, leave_neighborhood_out_mmd
from captum_margin.scale.label_noise import NoiseScores, label_noise
from captum_margin.scale.shards import RowShards, Shards

__all__ = [
    "EdgeShards",
    "NoiseScores",
    "RowShards",
    "Shards",
    "build_shards",
    "fingerprint",
    "high_pass",
    "kernel_density",
    "label_disagreement",
    "label_noise",
    "label_votes",
    "leave_neighborhood_out_mmd",
    "map_blocks",
    "recall_of",
    "row_norms",
    "undirected",
]
