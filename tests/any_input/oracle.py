"""What an entry point may do with an argument that comes as something else.

Either its answer is that of the plain tensor call, or it refuses, in words that name
the argument. All else is a fault: another answer, another exception, or a refusal that
leaves the user guessing which argument is meant.

``CAPTUM_MARGIN_EXAMPLES=10000`` tries as many examples of each property; by default
there are few, for every run of the suite.
"""

import os
import re
import warnings
from collections.abc import Callable

import torch
from hypothesis import HealthCheck, Phase, settings

REFUSALS = (ValueError, TypeError, AssertionError)
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


def examples(few: int):
    """Settings of a property: few examples, or as many as the environment says."""
    return settings(
        max_examples=int(os.environ.get("CAPTUM_MARGIN_EXAMPLES", few)),
        deadline=None,
        derandomize="CAPTUM_MARGIN_EXAMPLES" not in os.environ,
        database=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )


def answer_of(call: Callable, names: str, *, refusable: bool = True):
    """The answer of a call, or None where it refuses in words that name the argument.

    Args:
        call: Without arguments.
        names: A pattern, one match of which a refusal must hold.
        refusable: Whether a refusal is right at all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except REFUSALS as error:
            text = str(error)
            assert refusable, f"refused what is well known: {text}"
            assert re.search(names, text), f"expected {names!r} in: {text}"
            assert len(text) < 2000, f"too long to read: {text[:200]}..."
            return None


def assert_alike(found, plain, rtol=1e-4):
    """Values alike to a share of the largest, whatever the dtype they come in."""
    found = torch.as_tensor(found).detach().double()
    plain = torch.as_tensor(plain).detach().double()
    assert found.shape == plain.shape, (found.shape, plain.shape)
    scale = float(plain.abs().max()) or 1.0
    worst = float((found - plain).abs().max()) / scale
    assert worst <= rtol, f"differs from the plain call by {worst:.2g} of its largest"
