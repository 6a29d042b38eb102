"""captum_margin: graph-signal attribution and dataset influence for Captum.

Pose a question as a graph, a function on its nodes and a high-pass filter; the nodes
where the function changes against its neighbourhood are the answer.

- :mod:`captum_margin.attr`: attribution methods, used as those of :mod:`captum.attr`;
  its three classes can be imported from here as well;
- :mod:`captum_margin.influence`: samples of a data set that stand out;
- :mod:`captum_margin.metrics`: how faithful a map is to the model;
- :mod:`captum_margin.viz`: maps, overlays and curves side by side;
- :func:`captum_margin.explain`: any attribution method's maps as one
  :class:`captum_margin.Explanation`: save, load, plot, evaluate;
- :class:`captum_margin.Shared`, :class:`captum_margin.PerExample`: what an additional
  forward argument of a model belongs to;
- :mod:`captum_margin.neighbors`: the nearest neighbours of very many points;
- :mod:`captum_margin.signal`: the five steps themselves, on plain tensors;
- ``captum_margin.scale``, imported by name: the same on disk, for more samples than fit
  in memory.
"""

import warnings

with warnings.catch_warnings():
    # torch_geometric scripts functions when it is imported, which PyTorch deprecates:
    # nothing that a user of this package could mend.
    warnings.filterwarnings("ignore", ".*torch.jit", FutureWarning)
    warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
    from captum_margin import attr, influence, metrics, neighbors, signal, viz
    from captum_margin._explain import explain
    from captum_margin._model.forward_args import PerExample, Shared
    from captum_margin._version import __version__
    from captum_margin.attr import (
        CoalitionPerturbation,
        MarginSaliency,
        RepresentativeInterpretation,
    )
    from captum_margin.explanation import Explanation

__all__ = [
    "CoalitionPerturbation",
    "Explanation",
    "MarginSaliency",
    "PerExample",
    "RepresentativeInterpretation",
    "Shared",
    "__version__",
    "attr",
    "explain",
    "influence",
    "metrics",
    "neighbors",
    "signal",
    "viz",
]
