"""The package's modules, as far as they can be imported here."""

import importlib.util
import pkgutil

import captum_margin

#: What a module stands on that the test extra does not install.
OPTIONAL = {"captum_margin.influence._pytorch_ood": "pytorch_ood"}


def module_names() -> list[str]:
    """The package's own name and all below it."""
    below = pkgutil.walk_packages(captum_margin.__path__, "captum_margin.")
    return ["captum_margin", *(found.name for found in below if _is_here(found.name))]


def _is_here(name: str) -> bool:
    return name not in OPTIONAL or importlib.util.find_spec(OPTIONAL[name]) is not None
