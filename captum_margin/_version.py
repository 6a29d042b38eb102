"""The version of the package, and of what a number depends on besides."""

import platform
from importlib import metadata

__all__ = ["__version__", "versions"]

__version__ = "0.2.0"


def versions(*packages: str) -> dict[str, str]:
    """Releases that a result depends on: this package, those named, Python."""
    return {
        "captum_margin": __version__,
        **{package: metadata.version(package) for package in packages},
        "python": platform.python_version(),
    }
