"""Dataset influence: which samples of a data set stand out, and why.

Each class asks one question of all samples at once, answers with one score per sample,
in data order, high for what the class is named for, and is used as those of
:mod:`captum.influence`. It starts from a model and its data, from features, or from a
neighbour graph:

- :class:`LabelNoise`: whose label do the others contradict?
- :class:`DecisionBoundary`: which samples lie where the classes meet?
- :class:`Prototypes`: which samples stand for all, and which does nothing stand for?
- :class:`AdversarialStatistics`: which samples does the latent space not expect?
- :class:`AttackDetector`: which new inputs were attacked, by references that were not?
- :class:`ActiveLearning`: which nodes of a graph should be labelled?

And :func:`near_duplicates`: which samples are almost the same?
"""

from captum_margin.influence._knowledge import Knowledge
from captum_margin.influence.active_learning import ActiveLearning, select_nodes
from captum_margin.influence.adversarial import AdversarialStatistics
from captum_margin.influence.attack_detector import AttackDetector
from captum_margin.influence.base import MarginInfluence
from captum_margin.influence.decision_boundary import DecisionBoundary
from captum_margin.influence.duplicates import DuplicateGroups, near_duplicates
from captum_margin.influence.evidence import Evidence
from captum_margin.influence.graph_autoencoder import embed_nodes
from captum_margin.influence.label_noise import LabelNoise
from captum_margin.influence.node_transform import SelectNodes
from captum_margin.influence.prototypes import Prototypes
from captum_margin.influence.result import (
    InfluenceResult,
    KMostInfluentialResults,
    Neighbors,
)
from captum_margin.influence.samples import Samples
from captum_margin.influence.settings import Settings

__all__ = [
    "ActiveLearning",
    "AdversarialStatistics",
    "AttackDetector",
    "DecisionBoundary",
    "DuplicateGroups",
    "Evidence",
    "InfluenceResult",
    "KMostInfluentialResults",
    "Knowledge",
    "LabelNoise",
    "MarginInfluence",
    "Neighbors",
    "Prototypes",
    "Samples",
    "SelectNodes",
    "Settings",
    "embed_nodes",
    "near_duplicates",
    "select_nodes",
]
