"""Slow restatement of RepresentativeInterpretation in NumPy, from its definitions.

Nets are lists of operations on one example; boundaries come from the matrix of the
linear region a feature map lies in, never from a gradient; covers are sets. Imports
nothing of captum_margin.
"""

from fractions import Fraction
from itertools import chain, combinations

import numpy as np


def operations(modules):
    """The operations of some layers of a torch net, as NumPy weights in float64."""
    found = []
    for module in modules:
        kind = type(module).__name__
        if kind in ("Linear", "Conv2d"):
            weight, bias = (
                value.detach().numpy().astype(np.float64)
                for value in (module.weight, module.bias)
            )
            step = (module.stride[0], module.padding[0]) if kind == "Conv2d" else ()
            found.append((kind, weight, bias, *step))
        elif kind == "MaxPool2d":
            found.append((kind, module.kernel_size))
        else:
            assert kind in ("ReLU", "Flatten"), kind
            found.append((kind,))
    return found


def linear_part(operation, x):
    """A linear or convolutional layer without its bias."""
    if operation[0] == "Linear":
        return operation[1] @ x
    _, weight, _, stride, padding = operation
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[-1]
    height, width = ((n - side) // stride + 1 for n in x.shape[1:])
    out = np.zeros((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            top, left = i * stride, j * stride
            window = x[:, top : top + side, left : left + side]
            out[:, i, j] = [(kernel * window).sum() for kernel in weight]
    return out


def bias_part(operation, shape):
    """The bias of a linear or convolutional layer, spread over its output."""
    bias = operation[2]
    return np.broadcast_to(bias.reshape(-1, *[1] * (len(shape) - 1)), shape)


def pool_choices(x, side):
    """For each place of a max pool's output, where its maximum lies in the input."""
    channels, height, width = x.shape
    chosen = np.zeros((channels, height // side, width // side), int)
    for k, i, j in np.ndindex(*chosen.shape):
        best = max(
            (
                (x[k, u, v], -((k * height + u) * width + v))
                for u in range(i * side, (i + 1) * side)
                for v in range(j * side, (j + 1) * side)
            ),
        )
        chosen[k, i, j] = -best[1]
    return chosen


def forward(net, x):
    """Output of the operations for one example."""
    for operation in net:
        if operation[0] == "ReLU":
            x = np.where(x > 0, x, 0.0)
        elif operation[0] == "Flatten":
            x = x.reshape(-1)
        elif operation[0] == "MaxPool2d":
            x = x.reshape(-1)[pool_choices(x, operation[1])]
        else:
            x = linear_part(operation, x)
            x = x + bias_part(operation, x.shape)
    return x


def linear_region(net, psi):
    """Matrix A and vector c with net(z) = A z + c for all z of psi's linear region."""
    matrix, offset = np.eye(psi.size), np.zeros(psi.size)
    x = psi
    for operation in net:
        if operation[0] == "ReLU":
            active = (x > 0).reshape(-1)
            matrix, offset = matrix * active[:, None], offset * active
        elif operation[0] == "MaxPool2d":
            chosen = pool_choices(x, operation[1]).reshape(-1)
            matrix, offset = matrix[chosen], offset[chosen]
        elif operation[0] != "Flatten":
            shape = x.shape
            columns = [
                linear_part(operation, column.reshape(shape)) for column in matrix.T
            ]
            moved = linear_part(operation, offset.reshape(shape))
            offset = (moved + bias_part(operation, moved.shape)).reshape(-1)
            matrix = np.stack([column.reshape(-1) for column in columns], axis=1)
        x = forward([operation], x)
    return matrix, offset


def class_scores(output):
    """Scores (C,) of the classes; one column is the second of two classes."""
    output = np.asarray(output, float).reshape(-1)
    return np.array([0.0, output[0]]) if len(output) == 1 else output


def predicted(output):
    """The class of the largest score; of one column, 1 where it is not negative."""
    if np.size(output) == 1:
        return int(np.reshape(output, -1)[0] >= 0)
    return int(np.argmax(class_scores(output)))


def margin(output):
    """Largest score minus the second largest."""
    ordered = sorted(class_scores(output))
    return ordered[-1] - ordered[-2]


def boundary(net, psi, target=None):
    """W (the shape of psi) and b of the decision boundary of psi's linear region.

    Between the two largest scores, or between a target's and the largest other.
    """
    matrix, offset = linear_region(net, psi)
    if len(matrix) == 1:
        matrix, offset = (np.concatenate([0 * a, a]) for a in (matrix, offset))
    order = np.argsort(matrix @ psi.reshape(-1) + offset, kind="stable").tolist()
    first = order[-1] if target is None else target
    second = [label for label in order if label != first][-1]
    weight = matrix[first] - matrix[second]
    return weight.reshape(psi.shape), offset[first] - offset[second]


def sides(weights, biases, psi):
    """For each boundary, whether psi is not on its negative side, (Q,) bool."""
    return np.array(
        [(w * psi).sum() + b >= 0 for w, b in zip(weights, biases, strict=True)], bool
    )


def losses(signs, own, others):
    """For each boundary, the sets of other and of like references across it from x."""
    n_references, n_boundaries = np.shape(signs)
    lost = []
    for h in range(n_boundaries):
        across = {m for m in range(n_references) if signs[m][h] != own[h]}
        lost.append((across & others, across - others))
    return lost


def never_lost(signs, own, others):
    """tau: references of another class on x's side of every boundary."""
    return sum(all(signs[m][h] == own[h] for h in range(len(own))) for m in others)


def covered(signs, own, chosen):
    """The references on x's side of every chosen boundary."""
    return {m for m in range(len(signs)) if all(signs[m][h] == own[h] for h in chosen)}


def best_steps(signs, own, others, chosen):
    """Every boundary that the definition of a step allows next, in order of index."""
    left = covered(signs, own, chosen)
    ranked = {}
    for h, (far_others, far_like) in enumerate(losses(signs, own, others)):
        lost_others, lost_like = len(far_others & left), len(far_like & left)
        if lost_others:
            ranked[h] = (Fraction(lost_like, lost_others), -lost_others)
    best = min(ranked.values())
    return [h for h, value in ranked.items() if value == best]


def greedy(signs, own, others):
    """The boundaries chosen, in order, and tau."""
    tau, chosen = never_lost(signs, own, others), []
    while len(covered(signs, own, chosen) & others) > tau:
        chosen.append(best_steps(signs, own, others, chosen)[0])
    return chosen, tau


def feasible(signs, own, others):
    """Every set of boundaries that leaves no more than tau other references."""
    tau, indices = never_lost(signs, own, others), range(len(own))
    subsets = chain.from_iterable(combinations(indices, n) for n in range(len(own) + 1))
    for subset in subsets:
        if len(covered(signs, own, subset) & others) <= tau:
            yield subset


def cost(signs, own, others, chosen):
    """References of x's own class that the chosen boundaries lose."""
    return len(signs) - len(others) - len(covered(signs, own, chosen) - others)


def optimum(signs, own, others):
    """Least cost of any feasible set of boundaries."""
    return min(cost(signs, own, others, s) for s in feasible(signs, own, others))


def guarantee(signs, own, others):
    """What the greedy's cost cannot exceed, by the price argument of set cover.

    Each other reference is charged its share of the cost of the step that loses it.
    The boundary h of a feasible set could have been that step, so its n_h other
    references pay at most cost(h) (1 + 1/2 + ... + 1/n_h) in all.
    """
    alone = losses(signs, own, others)

    def price(h):
        n_others, n_like = (len(part) for part in alone[h])
        return n_like * sum(Fraction(1, n) for n in range(1, n_others + 1))

    return min(sum(map(price, s)) for s in feasible(signs, own, others))


def channel_weights(weights, own, activity=None):
    """Means of every W's channels, turned so that x is on its positive side, (P, K).

    Over positions; with the activity (K, ...) each position counts as it is active,
    but in channels that never are.
    """
    alphas = []
    for w, side in zip(weights, own, strict=True):
        alpha = []
        for k, channel in enumerate(w if side else -w):
            share = np.ones_like(channel) if activity is None else activity[k]
            share = share if np.sum(share) > 0 else np.ones_like(channel)
            alpha.append((channel * share).sum() / np.sum(share))
        alphas.append(alpha)
    return np.array(alphas)


def scaled_channels(alpha, psi, summation):
    """Channels of a feature map (K, ...) times their weights, summed or not."""
    scaled = np.stack([a * channel for a, channel in zip(alpha, psi, strict=True)])
    return scaled.sum(axis=0, keepdims=True) if summation else scaled


def own_evidence(net, psi, target):
    """Grad-CAM's channel weights at a feature map, (K,): plain means of the gradient.

    Of the target's score alone; with one score a row that of class 1, or its negative.
    """
    matrix, _ = linear_region(net, psi)
    sign = 1
    if len(matrix) == 1:
        sign, target = (1 if target == 1 else -1), 0
    return sign * matrix[target].reshape(len(psi), -1).mean(axis=1)


def representativeness(n_alike, n_boundaries):
    """How far a polytope stands for its class: a fortieth for each reference of it."""
    return min(n_alike, 40) / 40 if n_boundaries else 0.0


def heat_map(weights, own, psi, activity, relu=False, summation=True, beside=None):
    """Heat map of one feature map (K, ...) under chosen boundaries.

    ``beside``: Grad-CAM's channel weights at the explained image, and how far the
    polytope stands for its class.
    """
    alpha = np.zeros(len(psi))
    if len(weights):
        alphas = channel_weights(weights, own, activity)
        if relu and np.min(psi) >= 0:  # channels that speak for the boundary's side
            alphas = np.where(alphas > 0, alphas, 0.0)
        alpha = alphas.mean(axis=0)
    if beside is not None:
        alone, share = beside
        alpha = alpha * share + alone * (1 - share)
    mean = scaled_channels(alpha, psi, summation)
    return np.where(mean > 0, mean, 0.0) if relu else mean


def papers_heat_map(weights, own, psi, relu=False, summation=True):
    """The paper's: with both options every map is cut off and scaled before the mean.

    Channels that are not summed make no map, and have no largest value of their own to
    be scaled by.
    """
    maps = []
    for alpha in channel_weights(weights, own):
        scaled = scaled_channels(alpha, psi, summation)
        if relu and summation:
            scaled = np.where(scaled > 0, scaled, 0.0)
            scaled = scaled / scaled.max() if scaled.max() > 0 else scaled
        maps.append(scaled)
    mean = sum(maps) / len(maps)
    return np.where(mean > 0, mean, 0.0) if relu else mean


def distance(weights, psi, other):
    """Sum over boundaries of |<W, psi> - <W, other>|."""
    return sum(abs((w * psi).sum() - (w * other).sum()) for w in weights)


def linearization_error(decision, weights, psis, signs):
    """Median over boundaries of the relative miss of a step of 1% of each value.

    Relative to the root mean square of the forecasts over all choices of signs.
    """
    errors = []
    for w, psi in zip(weights, psis, strict=True):
        forecast = sum((w * 0.01 * signs * psi).flatten())
        change = decision(psi + 0.01 * signs * psi) - decision(psi)
        typical = np.sqrt(sum((w * 0.01 * psi).flatten() ** 2))
        errors.append(abs(change - forecast) / typical)
    return float(np.median(errors))


def wilson(successes, trials, z=1.959963984540054):
    """The 95% score interval: the shares p with |share - p| <= z sqrt(p (1-p) / n)."""
    share = successes / trials
    # A quadratic in p: p^2 (1 + z^2/n) - p (2 share + z^2/n) + share^2 = 0.
    a, b = 1 + z**2 / trials, -(2 * share + z**2 / trials)
    root = np.sqrt(b**2 - 4 * a * share**2)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def joint_clusters(maps, means):
    """Which of the means each feature map is nearest to, by squared differences."""
    return [
        min(range(len(means)), key=lambda j: ((psi - means[j]) ** 2).sum())
        for psi in maps
    ]


def assigned(covers, psi, means):
    """The paper's section 6.4: a polytope that covers the image, else a centre.

    Args:
        covers: For each interpretation whether it covers the image.
        psi: The image's feature map.
        means: The centre of each interpretation's cluster, in the same space.
    """
    for which, covered in enumerate(covers):
        if covered:
            return which, True
    return joint_clusters([psi], means)[0], False
