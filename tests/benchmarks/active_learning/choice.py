"""Which form of ``select_nodes`` is its default: the protocol, written before any run.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.active_learning.choice --cache DIR

**Graphs that choose.** Twelve, of :mod:`choice_graphs`; none of them is reported and
none shares a node with one that is. Two samples each of k-nearest-neighbour graphs of
MNIST digits (pixels), CIFAR-10 photographs (histograms of gradients) and Enron e-mails
(words); two draws each of block models with words whose edges stay in their class often
(80%), half of the time and hardly more than by chance. The reported graphs (Cora,
CiteSeer, USPS and one of known mixing) are not looked at before the choice is on
record.

**Forms.** All pick greedily what adds most to the coverage of all nodes by the picks,
as ``select_covering``, so that the first picks do not depend on how many follow; they
differ in what two nodes are alike by. z are features of unit norm after two steps of
propagation with the mean over a node and its neighbours. From simple to less so:

1. "plain": the cosine of z, where positive.
2. "centred": z less its mean.
3. "squared": the square of 2, by which what is far counts less.
4. "distances": the largest distance of z less the distance (k-medoids by its greedy
   beginning).
5. "kernel": exp(-d² / m), m the mean squared distance d² of z.
6. "symmetric": 2 with the shift of graph convolutions.
7. "centred, weighted": 2, a node's coverage worth its norm. The default before.
8. "plain, communities": 1, and each pick is made in the community of Louvain's method
   that has the most nodes for each pick it would have (D'Hondt), as GraphPart spreads.
9. "centred, communities": 2 in the same way.

**Measure.** Test accuracy of a graph convolutional network as in :mod:`bench`, with 20,
40 and 80 labels, ten seeds each. The mean over the 36 cells.

**Rule.** The form of the highest mean, B, is compared with each other one by the mean
over the budgets on each graph: twelve differences, their mean and its standard error.
Of B and all forms that are behind it by less than one standard error the first in the
list above is the default. Peers are measured beside and take no part.

A form that is added later is added to the list with the reason why, is run on these
graphs before the reported ones are looked at, and is chosen by the same rule.
"""
