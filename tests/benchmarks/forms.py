"""The forms that MARGIN's filter was published in, as in ``paper=`` and in tables."""

from __future__ import annotations

FORMS = {
    "algorithm": "Algorithm 1",
    "arxiv": "arXiv's listing",
    "journal": "the journal's listing",
}
