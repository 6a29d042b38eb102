"""The version of the package, and of what a number depends on besides."""

import platform
from importlib import metadata

__all__ = ["__version__", "versions"]

__version__ = "0.2.0"


def versions(*packages: str) -> dict[str, str]:
    """Releases that a result depends on: this package, those named, Python.

    What is not installed is left out.
    """
    found = {"captum_margin": __version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "python": platform.python_version()}
