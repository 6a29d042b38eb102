"""Why tests were skipped, in five kinds, for the last lines of a run."""

import re
from collections import Counter
from collections.abc import Iterable

# The first that matches a reason counts. The reasons are written in the tests.
KINDS = {
    "GPU": r"cuda|gpu",
    "compiled extra": r"pyg.lib|torch.sparse|torch.scatter|torch.cluster",
    "test data": r"CAPTUM_MARGIN_DATA",
    "missing package": r"could not import|not installed|no module|chromium|needs ",
}
OTHER = "other"


def kind_of(reason: str) -> str:
    """The kind of thing that a skipped test says it lacks."""
    for kind, pattern in KINDS.items():
        if re.search(pattern, reason, re.IGNORECASE):
            return kind
    return OTHER


def summary(reasons: Iterable[str]) -> str:
    """One line: how many tests were skipped, and how many for want of what."""
    counts = Counter(map(kind_of, reasons))
    kinds = [f"{kind} {counts[kind]}" for kind in [*KINDS, OTHER]]
    return f"{sum(counts.values())} skipped: {', '.join(kinds)}"
