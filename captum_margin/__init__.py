"""captum_margin: graph-signal attribution and dataset influence for Captum."""

__version__ = "0.1.0"
