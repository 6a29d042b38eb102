"""Maps without what may be the noise of few unions.

Evidence and its standard error say how sure a patch is; how sure is enough says the
false discovery rate, the share of noise in what is shown. The rest is nearly zero, and
in its order: no ranking changes.
"""

from __future__ import annotations

from torch import Tensor, from_numpy

__all__ = ["noise_levels", "without_noise"]

# Of the patches that stand out of the noise, the share that noise would put there.
_FALSE_DISCOVERIES = 0.1
# What does not stand out keeps so much of its value, and with it the order.
_NOT_SURE = 0.01


def noise_levels(evidence: Tensor, standard_error: float) -> tuple[float, float]:
    """What evidence for a class, and evidence against it, must exceed to stand out.

    Args:
        evidence (Tensor): Of the patches, (P,), float64, on the CPU.
        standard_error (float): Of each, above 0.
    """
    return _level(evidence, standard_error), _level(-evidence, standard_error)


def without_noise(evidence: Tensor, levels: tuple[float, float]) -> Tensor:
    """A map without what may be noise, in the same order.

    What is above a level t, or below one on the other side, is shrunk to e - t^2 / e
    (Breiman's non-negative garrote, 1995): to zero at the level, hardly where evidence
    is strong. The rest is a little below zero.

    Args:
        evidence (Tensor): Of pixels or patches, of any shape.
        levels (tuple[float, float]): Of :func:`noise_levels`.
    """
    above, below = levels
    sure = _shrunk(evidence, above) - _shrunk(-evidence, below)
    return sure + _NOT_SURE * (evidence - above)


def _shrunk(evidence: Tensor, level: float) -> Tensor:
    """What stands out of a level, and 0 elsewhere."""
    # No squares: of scores of any unit they could vanish or overflow.
    return (evidence - level).clamp(min=0) * (1 + level / evidence.clamp(min=level))


def _level(evidence: Tensor, standard_error: float) -> float:
    """The lowest level above which one in ten of the patches is there by noise.

    Benjamini and Hochberg, "Controlling the False Discovery Rate", 1995; how many
    patches hold noise, those below zero say, as in Storey, "A Direct Approach to False
    Discovery Rates", 2002. It is low where evidence is broad, high where it is in few
    patches; half of the highest value where no patch is as sure as that, and one
    standard error at least.
    """
    from scipy.stats import false_discovery_control, norm

    by_chance = norm.sf((evidence / standard_error).numpy())
    noise = min(1.0, 2 * float((by_chance > 0.5).mean()))
    sure = noise * false_discovery_control(by_chance) <= _FALSE_DISCOVERIES
    values = evidence[from_numpy(sure)]
    lowest = values.min() if len(values) else evidence.max() / 2
    return max(standard_error, float(lowest))
