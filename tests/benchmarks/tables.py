"""Re-makes every table of measurements in the README and in the tutorials' pages.

    python -m tests.benchmarks.tables                  from the results on record
    python -m tests.benchmarks.tables --check          only compares; exit status 1
    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.tables --run --cache DIR

A table stands between ``<!-- table: NAME -->`` and ``<!-- /table -->`` and is made from
``results/*.json``; no number in it is written by hand. ``--run`` first runs the
benchmarks that write these files, all or those named (``--run saliency coalition``),
each by the command it has on record; all take many hours on two cores. What DIR holds
already is not computed again.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks import summary
from tests.benchmarks.active_learning import table as active_learning
from tests.benchmarks.adversarial import detection_table
from tests.benchmarks.adversarial import table as adversarial
from tests.benchmarks.audit import table as audit
from tests.benchmarks.coalition import table as coalition
from tests.benchmarks.decision_boundary import table as decision_boundary
from tests.benchmarks.label_noise import correction_table as label_correction
from tests.benchmarks.label_noise import human_table as label_noise_human
from tests.benchmarks.label_noise import table as label_noise
from tests.benchmarks.localisation import table as localisation
from tests.benchmarks.neighborhood import table as neighborhood
from tests.benchmarks.neighbors import table as neighbors
from tests.benchmarks.prototypes import table as prototypes
from tests.benchmarks.records import RESULTS, load
from tests.benchmarks.representative import table as representative
from tests.benchmarks.saliency import table as saliency
from tests.benchmarks.sanity import table as sanity
from tests.benchmarks.scale import table as scale

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "tutorials/benchmarks.md", "tutorials/case_studies.md")
DOCUMENTS = tuple(ROOT / page for page in PAGES)
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.S)
TABLES: dict[str, Callable[[], str]] = {
    "summary": summary.summary,
    "saliency": saliency.saliency,
    "saliency-many": saliency.saliency_many,
    "saliency-many-parts": saliency.saliency_many_parts,
    "saliency-parts": saliency.saliency_parts,
    "saliency-forms": saliency.saliency_forms,
    "saliency-corroboration": saliency.saliency_corroboration,
    "saliency-region-forms": saliency.saliency_region_forms,
    "grid-pointing": localisation.grid_pointing,
    "known-masks": localisation.known_masks,
    "representative": representative.representative,
    "representative-increase": representative.representative_increase,
    "representative-networks": representative.representative_networks,
    "representative-protocol": representative.representative_protocol,
    "representative-similar": representative.representative_similar,
    "coalition": coalition.coalition,
    "coalition-parts": coalition.coalition_parts,
    "coalition-regions": coalition.coalition_regions,
    "coalition-sweeps": coalition.coalition_sweeps,
    "label-noise": label_noise.label_noise,
    "label-noise-checked": label_noise.label_noise_checked,
    "label-noise-forms": label_noise.label_noise_forms,
    "label-noise-human": label_noise_human.label_noise_human,
    "label-noise-human-flags": label_noise_human.label_noise_human_flags,
    "label-noise-verified": label_noise_human.label_noise_verified,
    "label-correction": label_correction.label_correction,
    "prototypes": prototypes.prototypes,
    "prototype-forms": prototypes.prototype_forms,
    "prototype-shares": prototypes.prototype_shares,
    "criticisms": prototypes.criticisms,
    **detection_table.TABLES,
    "adversarial": adversarial.adversarial,
    "adversarial-forms": adversarial.adversarial_forms,
    "neighborhood": neighborhood.neighborhood,
    "adversarial-neighbors": adversarial.adversarial_neighbors,
    "adversarial-overlap": adversarial.adversarial_overlap,
    "decision-boundary": decision_boundary.decision_boundary,
    "decision-boundary-labels": decision_boundary.decision_boundary_labels,
    "neighbors": neighbors.neighbors,
    "scale": scale.scale,
    "audit": audit.audit,
    "sanity": sanity.sanity,
    "active-learning": active_learning.active_learning,
    "active-learning-forms": partial(active_learning.active_learning, forms=True),
    "active-learning-paper": active_learning.active_learning_paper,
    "active-learning-graphs": partial(
        active_learning.active_learning_splits, "USPS", "mixed"
    ),
    "active-learning-splits": partial(
        active_learning.active_learning_splits, "Cora", "CiteSeer"
    ),
    "active-learning-rounds": active_learning.active_learning_rounds,
    "active-learning-choice": active_learning.active_learning_choice,
    "active-learning-cost": active_learning.active_learning_cost,
}
_SALIENCY = "python -m tests.benchmarks.saliency.bench --cache DIR/saliency"
_MANY = (
    "python -m tests.benchmarks.saliency.bench --cache DIR/saliency_many --methods "
    "MarginSaliency MarginSaliency-200 MarginSaliency-100-gradcam keeping-800 "
    "CoalitionPerturbation SHAP-800 RISE-800 LayerGradCam Occlusion-400 centre AttnLRP"
)
_COALITIONS = f"{_SALIENCY}_coalitions --methods"
_COALITION = "python -m tests.benchmarks.coalition.bench --cache DIR/coalition"
_PARTS = (
    "'without deletion' 'without evidence' 'without L_r' 'without L_conf' "
    "'margin loss' 'without L_c' 'evenness 10' 'without moving coalitions' "
    "'without coalitions' '15 steps' '30 steps' 'SLIC coalitions' "
    "'coalitions of 0 steps'"
)
_SHORT = "'short paper' 'short paper, evenness'"
_SHORT_PARTS = (
    "'short paper without L_r' 'short paper without L_conf' 'short paper without L_c'"
)
_HUMAN = "python -m tests.benchmarks.label_noise.human"
_SCALE = "python -m tests.benchmarks.scale.bench"
_NETWORKS = "python -m tests.benchmarks.representative.networks --cache DIR/networks"
_ACTIVE = "python -m tests.benchmarks.active_learning.bench --cache DIR/active"
_SPLITS = "python -m tests.benchmarks.active_learning.splits --cache DIR/splits"
# Results that take several commands, or one that the record does not tell in full.
COMMANDS: dict[str, tuple[str, ...]] = {
    "active_learning": (f"{_ACTIVE} --ablation", f"{_ACTIVE} --report"),
    "active_learning_splits": (_SPLITS, f"{_SPLITS} --report"),
    "saliency": (_SALIENCY, f"{_SALIENCY} --report"),
    "saliency_many": (
        _MANY,
        f"{_MANY} --report --out tests/benchmarks/results/saliency_many.json",
    ),
    "coalition": (
        f"{_COALITIONS} CoalitionPerturbation LayerGradCam centre",
        f"{_COALITIONS} coalition-keeping --photographs 29 --networks squeezenet "
        "efficientnet",
        f"{_COALITIONS} coalition-keeping --networks vit",
        f"{_SALIENCY}_coalitions --report --ours CoalitionPerturbation "
        "--out tests/benchmarks/results/coalition.json",
    ),
    "coalition_parts": (
        f"{_COALITION}-parts --photographs 8 --methods {_PARTS}",
        f"{_COALITION}-parts --photographs 6 --methods {_SHORT} {_SHORT_PARTS}",
        f"{_COALITION}-parts --report --out tests/benchmarks/results/"
        "coalition_parts.json",
    ),
    "coalition_evenness": (
        f"{_COALITION}-parts --purpose tuning --photographs 10 --methods "
        "'without deletion' 'without L_c' 'evenness 1' 'evenness 10' 'evenness 100'",
        f"{_COALITION}-parts --purpose tuning --report "
        "--out tests/benchmarks/results/coalition_evenness.json",
    ),
    "coalition_residual": (
        f"{_COALITION}-parts --network efficientnet --photographs 3 "
        f"--methods 'without deletion' {_SHORT}",
        f"{_COALITION}-parts --network efficientnet --report "
        "--out tests/benchmarks/results/coalition_residual.json",
    ),
    "label_noise_human": (
        f"{_HUMAN} --half choice --cache DIR",
        f"{_HUMAN} --half report --cache DIR",
    ),
    "scale": tuple(
        f"{_SCALE} {part} --cache DIR/scale"
        for part in (
            *(f"run {n}" for n in (10**4, 10**5, 10**6, 10**7)),
            "filter",
            "equality",
            "report",
        )
    ),
    "representative_networks": tuple(
        f"{_NETWORKS} --network {name}{report}"
        for name in ("squeezenet", "efficientnet", "vit")
        for report in ("", " --report")
    ),
    "representative_protocol": (
        "python -m tests.benchmarks.representative.protocol --cache DIR",
    ),
    "influence_cost": ("python -m tests.benchmarks.influence_cost.bench --again",),
    "representative_cost": (
        "python -m tests.benchmarks.representative.cost --cache DIR --again",
    ),
}


def render(text: str) -> str:
    """The document with all its tables made anew.

    Raises:
        ValueError: If a marker names no table, or is not closed.
    """
    if text.count("<!-- table:") != len(MARKED.findall(text)):
        raise ValueError("expected each <!-- table: NAME --> closed by <!-- /table -->")

    def make(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"no table is named {match[2]!r}; known: {[*TABLES]}")
        return f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[4]}"

    return MARKED.sub(make, text)


def results() -> list[str]:
    """Names of all results on record."""
    return sorted(path.stem for path in RESULTS.glob("*.json"))


def commands(name: str) -> tuple[str, ...]:
    """What makes ``results/NAME.json``; DIR stands for the cache."""
    if name in COMMANDS:
        return COMMANDS[name]
    record = load(name)
    return (record.get("command") or record["settings"]["command"],)


def run(names: list[str], cache: Path) -> None:
    """Runs the benchmarks, one after another; the first that fails ends it."""
    for name in names:
        for command in commands(name):
            words = shlex.split(command)
            settings = dict(word.split("=", 1) for word in words if _is_setting(word))
            call = [word for word in words if not _is_setting(word)]
            call = [re.sub(r"^DIR(?=$|/)", str(cache), word) for word in call]
            print(f"{name}: {shlex.join(call)}", flush=True)
            environment = {"OMP_NUM_THREADS": "1", **os.environ, **settings}
            subprocess.run(
                [sys.executable, *call[1:]], check=True, cwd=ROOT, env=environment
            )


def _is_setting(word: str) -> bool:
    return re.match(r"[A-Z_]+=", word) is not None


def main() -> int:
    """Parses the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="the default")
    what.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--run", nargs="*", metavar="NAME", choices=results())
    parser.add_argument("--cache", type=Path, help="where --run keeps what it makes")
    arguments = parser.parse_args()
    if arguments.run is not None:
        if arguments.cache is None:
            parser.error("--run needs --cache DIR")
        arguments.cache.mkdir(parents=True, exist_ok=True)
        run(arguments.run or results(), arguments.cache.resolve())
    differ = False
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        made = render(text)
        differ |= made != text
        name = str(path.relative_to(ROOT))
        lines = (text.splitlines(keepends=True), made.splitlines(keepends=True))
        sys.stdout.writelines(difflib.unified_diff(*lines, name, name, n=0))
        if not arguments.check:
            path.write_text(made, encoding="utf-8")
    return int(differ and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
