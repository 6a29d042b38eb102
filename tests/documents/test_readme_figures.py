"""What the pages say outside their tables is what the benchmarks recorded.

Change the sentence when a record changes, and the words here with it.
"""

from pathlib import Path
from statistics import fmean

import pytest

from tests.benchmarks.cells import MINUS, number
from tests.benchmarks.label_noise.table import NOISY, RANKINGS
from tests.benchmarks.localisation.rows import beats_controls
from tests.benchmarks.records import load
from tests.benchmarks.saliency.rows import MAIN_ROW, ROWS

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "tutorials" / "benchmarks.md"
DASH = "\N{EN DASH}"
FORMS = ("algorithm", "arxiv", "journal")


def paired_text(row):
    """What MarginSaliency is better by, with its error."""
    paired = row["paired"]["insertion_minus_deletion"]
    return number(paired["mean"], 3, paired["standard_error"]).text


def kept_share(networks, row):
    """Of 800 passes' insertion - deletion what a row keeps, each network in turn."""
    shares = []
    for record in networks.values():
        few, all_passes = (
            record["methods"][name]["metrics"]["insertion_minus_deletion"]["mean"]
            for name in (row, "MarginSaliency")
        )
        shares.append(f"{few / all_passes:.0%}")
    return f"{', '.join(shares[:-1])} and {shares[-1]}"


def prose():
    """What benchmarks.md says outside its tables, from the records."""
    networks = load("saliency")["networks"]
    yield (
        f"keeps {kept_share(networks, 'MarginSaliency-200')} of insertion {MINUS} "
        "deletion, network by network"
    )
    scores = {
        (network, name): number(row["metrics"]["insertion_minus_deletion"]["mean"]).text
        for network, record in networks.items()
        for name, row in record["methods"].items()
    }
    for network, before in (
        ("efficientnet", "on EfficientNet"),
        ("squeezenet", "on SqueezeNet"),
        ("vit", "on the transformer"),
    ):
        prior, rise = (
            scores[network, name] for name in ("MarginSaliency-100-gradcam", "RISE-800")
        )
        yield f"{before} ({prior} against {rise})"
    peers = [paired_text(networks[n]["methods"]["SHAP-800"]) for n in networks]
    yield f"the strongest peer everywhere ({', '.join(peers[:-1])} and {peers[-1]})"
    yield f"of AttnLRP ({paired_text(networks['vit']['methods']['AttnLRP'])})"
    cost = load("saliency_cost")["methods"]
    beside = {name: f"{row['share_outside_model']:.1%}" for name, row in cost.items()}
    memory = {n: f"{row['peak_megabytes_beyond_model']:.0f}" for n, row in cost.items()}
    yield f"takes {beside['MarginSaliency']} of its time"
    yield (
        f"SLIC {beside['MarginSaliency-paper']}, RISE {beside['RISE-800']}, Captum's "
        f"Lime {beside['Lime-400']}) and {memory['MarginSaliency']} MB beyond the "
        f"warmed-up model ({memory['Occlusion-400']} for Occlusion, "
        f"{memory['Lime-400']} for Lime, {memory['RISE-800']} for RISE)"
    )
    apply = load("high_pass")["apply"]["1 channels"]
    plain, weighted, kept = (
        apply[name]["of_scipy"]
        for name in (
            "HighPass, CSR",
            "HighPass, weighted CSR",
            "HighPass(cached=True), weighted edge_index",
        )
    )
    yield (
        f"takes {plain:.1f} times SciPy's bare CSR product with a prepared matrix "
        f"(torch's own product {apply['torch CSR @ x']['of_scipy']:.1f}), "
        f"{weighted:.1f} times with weights, whose degrees it sums, "
        f"{kept:.1f} times with `cached=True` and "
        f"{apply['HighPass, edge_index by target']['of_simple_conv']:.2f} times"
    )

    trust = load("label_noise")["results"]["cifar, 10% symmetric"]["methods"][
        "one pass"
    ]
    yield f"Trust costs {-trust['labelnoise_minus_this']['mean'][-1]:.3f} on CIFAR-10"
    row = load("influence_cost")["table"]["mnist"]["LabelNoise"]
    yield (
        f"took {row['times_bare_search']:.1f} times a bare exact neighbour search of "
        f"the same data, {row['cpu_seconds']:.0f} CPU seconds of one thread, and "
        f"{row['peak_gb']:.1f} GB"
    )

    record = load("prototypes")
    yield f"All 7,291 training samples give {record['all_samples']:.1f}%"
    local = record["prototypes"]["local"]
    yield (
        f"Choosing 410 takes {local['ours']['410']['seconds']:.1f} CPU seconds; "
        "MMD-critic with running sums "
        f"{local['MMD-critic, running sums']['410']['seconds']:.2f}, once its N by N "
        "kernel is there, and "
        f"{local['MMD-critic, recomputed']['410']['seconds']:.1f} without them; "
        f"k-medoids of each class {local['k-medoids by class']['410']['seconds']:.1f}."
    )

    attacks = load("adversarial")["tables"].values()
    mmd = [f"{attack['statistics']['mmd: f']['auroc']:.3f}" for attack in attacks]
    gain = [
        attack["statistics"]["mmd: filtered, 64 hops"]["gain"] for attack in attacks
    ]
    yield f"({' / '.join(mmd[:3])} without a filter), not under"
    yield f"not under Carlini{DASH}Wagner ({mmd[3]}); the filter"
    yield f"adds at most {max(gain):.3f}, and loses {-min(gain):.3f} under FGSM 0.3"

    detection = load("attack_detection")["networks"].values()
    accuracy = [f"{network['test_accuracy']:.1%}" for network in detection]
    yield f"MNIST ({accuracy[0]} of the test images right)"
    yield f"CIFAR-10 ({accuracy[1]}); 600 images"
    alarms = [network["threshold"] for network in detection]
    yield (
        f"{alarms[0]['false_alarms']:.1%} and {alarms[1]['false_alarms']:.1%}) "
        f"{alarms[0]['found']['attack on AttackDetector']:.1%} of that attack are "
        "found on MNIST and "
        f"{alarms[1]['found']['attack on AttackDetector']:.1%} on CIFAR-10"
    )
    added = [
        rows["AttackDetector"]["mean"] - rows["AttackDetector, no filter"]["mean"]
        for rows in (network["rows"] for network in detection)
    ]
    yield f"small: {added[0]:.3f} on MNIST, {added[1]:.3f} on CIFAR-10"

    boundary = load("decision_boundary")["tables"]
    photographs = boundary.pop("cats and dogs")["methods"]

    def mistakes(name):
        found = (row["methods"][name]["mean"][0] for row in boundary.values())
        return " / ".join(f"{100 * share:.0f}" for share in found)

    yield f"{mistakes('DecisionBoundary, conv, default')}% are mistakes of nets"
    yield f"by entropy or margin {mistakes('entropy')}%"
    yield f"than entropy ({mistakes('DecisionBoundary, hidden, default')}%)"
    ours, theirs = (
        photographs[name]["mean"][0]
        for name in ("DecisionBoundary, features, default", "entropy")
    )
    yield f"cats and dogs worse ({ours:.0%} against {theirs:.0%})"

    yield from scale_prose()
    yield from representative_prose()
    yield from coalition_prose()
    yield from sanity_prose()
    yield from many_pictures_prose()
    yield from localisation_prose()


NETWORKS = ("squeezenet", "efficientnet")


def _report(inputs):
    """By level the tables of people's mistakes, of the half not chosen on."""
    return load("label_noise_human")["results"]["report"][inputs]


def leads(inputs):
    """Of LabelNoise over the best peer on the report half, by level, and its error."""
    for table in _report(inputs).values():
        peers = {n: row for n, row in table["methods"].items() if n != "LabelNoise"}
        best = max(peers.values(), key=lambda row: row["AP"])
        yield best["labelnoise_minus_this"], best["standard_error"]


def human_prose():
    features = [lead for network in NETWORKS for lead in leads(network)]
    least, most = min(features), max(features)
    yield (
        f"LabelNoise leads the best one of each row by {least[0]:.3f} to "
        f"{most[0]:.3f}, the least by {least[0]:.3f} ± {least[1]:.3f}"
    )
    both = [
        lead for network in NETWORKS for lead, _ in leads(f"{network} + probabilities")
    ]
    yield (
        f"With features and probabilities it leads by {min(both):.3f} to "
        f"{max(both):.3f}"
    )
    said = []
    for method in ("LabelNoise", "cleanlab, 5-fold"):
        rows = [
            table["methods"][method] for n in NETWORKS for table in _report(n).values()
        ]
        many = [row["flagged_of_wrong"] for row in rows]
        right = [row["flagged_precision"] for row in rows]
        said.append((min(many), max(many), min(right), max(right)))
    ours, theirs = said
    yield (
        "By features LabelNoise calls {:.1f} to {:.1f} labels wrong for each that is, "
        "and is right in {:.0%} to {:.0%} of them".format(*ours)
    )
    yield (
        "cleanlab calls {:.1f} to {:.1f}, and is right in {:.0%} to {:.0%}".format(
            *theirs
        )
    )


def scale_prose():
    million = load("neighbors")["results"]["1000000"]
    yield (
        f"From the neighbours of a million to a ranking: {million['steps']['all']:.1f} "
        "seconds; `LabelNoise` as a whole "
        f"{million['label_noise']['seconds']:.0f} and at most "
        f"{million['label_noise']['peak_gib']:.1f} GiB"
    )
    hop = load("scale")["filter"]
    large = hop["50M x 15, in cell order"]
    cold, warm = (large[m]["random walk"]["wall_ratio"] for m in ("disk", "page cache"))
    yield (
        f"On disk one hop over 50 million rows takes {cold:.1f} times as long as "
        f"reading the files, and {warm:.1f} times when they are in memory"
    )
    ratio = {order: hop[f"10M x 15, in {order} order"] for order in ("cell", "random")}
    walk = {order: rows["random walk"]["cpu_ratio"] for order, rows in ratio.items()}
    made = ratio["cell"]["random walk, Gaussian of distances"]["cpu_ratio"]
    yield (
        f"it takes {walk['random']:.1f} (random order) to {walk['cell']:.1f} (cell "
        f"order) times the CPU time of a sparse product of torch, and {made:.1f} times"
    )


def many_pictures_prose():
    record = load("saliency_many")["networks"]
    n = {name: len(found["photographs"]) for name, found in record.items()}
    yield (
        f"{n['squeezenet']} of SqueezeNet, {n['efficientnet']} of EfficientNet and "
        f"{n['vit']} of the transformer"
    )

    def cell(network, name, key="insertion_minus_deletion", digits=3):
        metrics = record[network]["methods"][name]["metrics"]
        return number(metrics[key]["mean"], digits).text

    def two(network, one, other):
        return f"{cell(network, one)} against {cell(network, other)}"

    def between(name, key="insertion_minus_deletion", digits=3):
        """Ours and another row's, network by network."""
        found = [
            f"{cell(n, MAIN_ROW, key, digits)} against {cell(n, name, key, digits)}"
            for n in record
        ]
        return f"{', '.join(found[:-1])} and {found[-1]}"

    def differences(name):
        found = [paired_text(record[n]["methods"][name]) for n in record]
        return f"{', '.join(found[:-1])} and {found[-1]}"

    yield f"ahead of SHAP Partition by {differences('SHAP-800')}"
    yield f"AttnLRP by {paired_text(record['vit']['methods']['AttnLRP'])}"
    yield f"200 passes keep {kept_share(record, 'MarginSaliency-200')}."
    prior, rise = "MarginSaliency-100-gradcam", "RISE-800"
    yield (
        f"RISE's 800: {two('squeezenet', prior, rise)} on SqueezeNet, "
        f"{two('efficientnet', prior, rise)} on EfficientNet, "
        f"{two('vit', prior, rise)} on the transformer"
    )
    ours, cam = "CoalitionPerturbation", "LayerGradCam"
    yield (
        f"networks ({two('squeezenet', ours, cam)}, {two('efficientnet', ours, cam)}), "
        f"and far above on the transformer ({two('vit', ours, cam)})"
    )
    yield f"adds {differences('keeping-800')} to `deletion=False`"
    yield f"deletion is {between('keeping-800', 'deletion')}"
    yield f"20% kept is {between('keeping-800', 'drop_keep20', 2)}"
    right = load("vit")["accuracy_on_5000_test_images"]
    yield f"{right:.1%} of the test images"
    moved = [
        abs(value)
        for r in (load("saliency"), load("saliency_many"))
        for found in r["networks"].values()
        for value in found.get("later_rows", {}).get("unchanged", {}).values()
    ]
    assert max(moved) < 0.001
    yield "differ by less than 0.001"
    record = load("saliency_many")
    changes = record["settings"]["trust"]["after_minus_before"]
    counts = [len(of[MAIN_ROW]) for of in changes.values()]
    yield "({}, {} and {}, network by network)".format(*counts)

    def change(name):
        means = []
        for network, of in changes.items():
            n = len(record["networks"][network]["photographs"])
            means.append(number(round(sum(of[name].values()) / n, 3) + 0.0, 3).text)
        return f"{', '.join(means[:-1])} and {means[-1]}"

    yield f"{change(MAIN_ROW)} with 800 passes"
    yield f"{change('MarginSaliency-200')} with 200"
    yield f"{change('MarginSaliency-100-gradcam')} with the prior"


def localisation_prose():
    """GridPG: beside SHAP Partition, and maps with nothing above the noise."""
    networks = load("grid_pointing")["networks"]
    lead = [
        of["rows"]["SHAP-500"]["ours_minus_it"]["score"] for of in networks.values()
    ]
    texts = [number(d["mean"], 3, d["standard_error"]).text for d in lead]
    yield f"({', '.join(texts[:-1])} and {texts[-1]})"
    more = load("grid_pointing_vit")["networks"]["vit"]
    found = more["rows"]["SHAP-500"]["ours_minus_it"]["score"]
    assert abs(found["mean"]) < found["standard_error"]
    yield (
        f"level on the transformer, also on {len(more['grids'])} grids drawn from "
        f"{more['n_candidates']} pictures "
        f"({number(found['mean'], 3, found['standard_error']).text})"
    )
    few = [of["rows"]["MarginSaliency-200"]["n_empty"] for of in networks.values()]
    assert few[:2] == [0, 0]
    yield f"With 200 passes {few[2]} maps of 16 have nothing above the noise"
    none = [of["rows"]["CoalitionPerturbation"]["n_empty"] for of in networks.values()]
    yield "On {}, {} and {} of the 16 grids, network by network".format(*none)
    rows = {
        problem: of["rows"] for problem, of in load("known_masks")["problems"].items()
    }
    no_better = {
        problem: [
            name
            for name in ("RISE-800", "LayerGradCam", "region-search")
            if not beats_controls(row[name], "energy")
        ]
        for problem, row in rows.items()
    }
    assert no_better == {
        "linear": ["RISE-800", "LayerGradCam"],
        "xor": ["RISE-800", "region-search"],
    }
    yield (
        "RISE and Grad-CAM are no better than a map without a model in the linear "
        "problem, RISE and greedy region search under XOR"
    )

    def two(name, key):
        pair = [rows[p][name]["metrics"][key] for p in rows]
        return " and ".join(
            number(one["mean"], 2, one["standard_error"]).text for one in pair
        )

    yield f"overlap of MarginSaliency, {two(MAIN_ROW, 'iou')}"
    yield f"Occlusion's {two('Occlusion-400', 'iou')}"
    yield f"energy, {two(MAIN_ROW, 'energy')}"
    yield f"FeatureAblation's {two('FeatureAblation', 'energy')}"
    best = {
        problem: max(
            (name for name in row if not ROWS[name].own),
            key=lambda name: row[name]["metrics"]["energy"]["mean"],
        )
        for problem, row in rows.items()
    }
    assert set(best.values()) == {"FeatureAblation"}
    ahead = [
        number(d["mean"], 2, d["standard_error"]).text
        for d in (
            row["FeatureAblation"]["ours_minus_it"]["energy"] for row in rows.values()
        )
    ]
    yield "by {} in the linear problem, by {} under XOR".format(*ahead)


def sanity_prose():
    record = load("sanity")
    digits = record["labels"]["methods"]
    networks = {name: part["methods"] for name, part in record["parameters"].items()}
    errors = [
        cell[kind]["standard_error"]
        for rows in (digits, *networks.values())
        for row in rows.values()
        for cell in row.values()
        for kind in ("signed", "absolute")
    ]
    yield f"Standard errors are at most {max(errors):.2f}"
    left = [row["permuted"]["signed"]["mean"] for row in digits.values()]
    left += [
        row["all"]["signed"]["mean"]
        for rows in networks.values()
        for row in rows.values()
    ]
    yield f"Signed, at most {max(left):.2f} is left"
    of = ("RepresentativeInterpretation", "LayerGradCam", "IntegratedGradients")
    ink, good = (
        [number(digits[name][net]["on_ink"]["mean"], 2).text for name in of]
        for net in ("permuted", "other net")
    )
    yield (
        f"permuted labels leave {ink[0]} of `RepresentativeInterpretation`, "
        f"{ink[1]} of Grad-CAM and {ink[2]} of IntegratedGradients "
        f"({good[0]}, {good[1]} and {good[2]} between"
    )
    own, other = (
        networks["squeezenet"]["CoalitionPerturbation"][state]["absolute"]
        for state in ("all, own class", "all, own class, other image")
    )
    yield (
        f"{own['mean']:.2f} ± {own['standard_error']:.2f} is left "
        f"({other['mean']:.2f} ± {other['standard_error']:.2f} on other photographs)"
    )
    rest = [
        number(
            networks[n]["CoalitionPerturbation"]["all, own class"]["absolute"]["mean"],
            2,
        )
        for n in ("efficientnet", "vit")
    ]
    yield f"on the other networks {rest[0].text} and {rest[1].text}"
    seeds = [
        rows["MarginSaliency-200"]["other seed"]["signed"]["mean"]
        for rows in (digits, *networks.values())
    ]
    yield f"two seeds agree by {min(seeds):.2f} to {max(seeds):.2f} only"
    same = digits["MarginSaliency-200"]["other net"]["signed"]["mean"]
    assert same > max(seeds)
    alike = [
        networks["efficientnet"][name]["other image"]["signed"]["mean"]
        for name in ("LayerGradCam", "RepresentativeInterpretation")
    ]
    yield f"different photographs are alike by {min(alike):.2f}"
    assert f"{min(alike):.2f}" == f"{max(alike):.2f}"


def representative_prose():
    runs = load("representative")["tasks"]["mnist"]["interpretations"]["Q=200"]
    covered = fmean(run["coverage"] for run in runs)
    held = [run["bank"]["share_of_class_covered"] for run in runs]
    yield (
        f"holds {100 * min(held):.0f} to {max(held):.0%} of its class on average and "
        f"no other references, and the bank covers {covered:.0%}"
    )
    assert not any(run["bank"]["wrong_references_covered"] for run in runs)
    rows = load("representative_cost")["rows"]
    faster = {
        name: [
            row[b]["times_faster_than_layer_grad_cam"] for b in ("batch_1", "batch_8")
        ]
        for name, row in rows.items()
        if name.startswith("heat map")
    }
    middle = faster.pop("heat map, squeezenet1_0 features[5]")
    last = [ratio for ratios in faster.values() for ratio in ratios]
    yield f"That is {min(middle):.1f} times faster than `LayerGradCam` in the middle"
    yield f"{min(last):.2f} to {max(last):.2f} times as fast at its last feature map"
    yield f"takes {rows['fit, mnist']['ratio']:.2f} times the bare passes"
    yield f"{rows['fit, cats_dogs_conv']['ratio']:.2f} times for SqueezeNet and 320"
    yield f"takes {rows['search, Q = 50']['milliseconds_median']:.1f} ms an image"
    yield (
        "fitting 100,000 references "
        f"{rows['memory, 100000 references']['peak_megabytes_of_fit']:.0f} MB"
    )


def coalition_prose():
    methods = load("coalition_parts")["methods"]

    def less(name):
        pair = methods[name]["ours_minus_it"]["insertion_minus_deletion"]
        return pair["mean"], pair["standard_error"]

    def signed(mean, error, digits):
        sign = MINUS if mean < 0 else "+"
        return f"{sign}{abs(mean):.{digits}f} ± {error:.{digits}f}"

    networks = load("coalition")["networks"]
    of_all = [networks[name]["methods"] for name in networks]

    def listed(texts):
        return f"{', '.join(texts[:-1])} and {texts[-1]}"

    def ahead(name):
        pairs = [of[name]["paired"]["insertion_minus_deletion"] for of in of_all]
        return listed([signed(p["mean"], p["standard_error"], 3) for p in pairs])

    yield f"Grad-CAM's by {ahead('LayerGradCam')}"
    yield f"Deletion adds {ahead('coalition-keeping')}"
    count = sum(of["CoalitionPerturbation"]["photographs"] for of in of_all)
    yield f"No picture of these {count} failed"
    kept = [
        [number(of[name]["metrics"]["drop_keep20"]["mean"], 2).text for of in of_all]
        for name in ("CoalitionPerturbation", "LayerGradCam")
    ]
    pairs = [" against ".join(pair) for pair in zip(*kept, strict=True)]
    yield f"With 20% kept on black it loses to Grad-CAM ({listed(pairs)})"
    mean, error = less("without L_conf")
    yield f"(without it {signed(-mean, error, 2)})"
    yield f"coalitions {signed(*less('without coalitions'), 2)}"
    lines = load("coalition_cost")["lines"]
    yield "a whole map takes {} on SqueezeNet and {} on VGG16".format(
        *(
            round(lines[f"{net}: whole, batch of 1"]["forward_backward_passes"])
            for net in ("squeezenet1_0", "vgg16")
        )
    )
    pyramid, full = (
        [
            round(lines[f"{net}: coalitions, {form}"]["forward_backward_passes"])
            for net in ("squeezenet1_0", "vgg16")
        ]
        for form in ("pyramid", "full")
    )
    yield (
        f"of which the coalitions take {pyramid[0]} and {pyramid[1]}; at full "
        f'resolution (`resolution="full"`) {full[0]} and {full[1]}, and '
        f"{lines['vgg16: coalitions, full']['peak_mb']} MB on VGG16"
    )


def case_prose():
    """What case studies II, V and VI say outside their tables, from the records."""
    claimed = load("saliency_corroboration")["networks"]["squeezenet"]["methods"]
    own = claimed["MarginSaliency-paper"]

    def mean(method, key="spearman_with_grad_cam"):
        return f"{claimed[method][key]['mean']:.2f}"

    yield f"lies on {own['half_share']['mean']:.0%} of the pixels"
    yield f"Gini index of {mean('MarginSaliency-paper', 'gini')} is the highest"
    yield f"Grad-CAM's own is {mean('LayerGradCam', 'gini')}"
    error = own["spearman_with_grad_cam"]["standard_error"]
    yield f"rank correlation of {mean('MarginSaliency-paper')} ± {error:.2f} is far"
    keeping = mean("keeping-800")
    yield f"{keeping} of unions that only keep and RISE's {mean('RISE-800')}"
    forms = load("saliency_region_forms")["forms"]
    chosen = "k = 30, symmetric (`paper=True`)"
    before, after = (forms[name]["gini"]["mean"] for name in ("dense", chosen))
    yield f"({before:.2f} before, {after:.2f} after"
    of_k = [
        forms[name]["insertion_minus_deletion"]["mean"]
        for name in ("k = 10", "k = 20", chosen, "k = 40")
    ]
    yield f"changes by {max(of_k) - min(of_k):.3f} at most"
    former = forms["k = 10, random walk (before)"]["less_paper"]
    yield f"by {former['mean']:.3f} ± {former['standard_error']:.3f}"

    attacks = load("adversarial")["tables"]

    def areas(name, low=False):
        found = [attack["statistics"][name]["auroc"] for attack in attacks.values()]
        return " / ".join(f"{1 - area if low else area:.3f}" for area in found)

    whole = "mmd: the paper's f, high is suspicious"
    yield f"({areas('mmd: paper, algorithm', low=True)} read low"
    yield f"against {areas(whole, low=True)})"
    yield f"({areas('mmd: paper, journal', low=True)} read low)"
    cost = [a["statistics"]["kde: paper, journal"]["gain"] for a in attacks.values()]
    yield f"listing costs KDE up to {-min(cost):.3f}"
    spreads = []
    for attack in ("FGSM 0.3", "Carlini-Wagner L2"):
        found = attacks[attack]["statistics"]
        for name in (f"{f}: paper, {p}" for f in ("kde", "mmd") for p in FORMS):
            of_k = [found[n]["auroc"] for n in found if n.split(", k")[0] == name]
            assert len(of_k) == 4
            spreads.append(max(of_k) - min(of_k))
    yield f"moves by more than {max(spreads):.2f}"
    alarms = [
        attack["overlap"][name]["alarms, by hidden"]["auroc"]
        for attack in attacks.values()
        for name in (whole, "mmd: paper, algorithm")
    ]
    yield f"by latents ({min(alarms):.2f} to {max(alarms):.2f}), not by pixels"

    results = load("active_learning")["results"]

    def leads(method, peer, graph):
        rows = results[f"{graph}, paper"]["methods"]
        return " / ".join(
            f"{rows[method][n]['mean'] - rows[peer][n]['mean']:.1f}"
            for n in ("1", "2", "3", "5")
        )

    own, listing = "squared high-pass, symmetric", "arXiv listing"
    random, resampled = "random per class", "resampling, features"
    yield f"by {leads(own, random, 'Cora')} with 1 / 2 / 3 / 5"
    yield f"on Cora, {leads(own, random, 'CiteSeer')} on CiteSeer"
    yield f"by {leads(own, resampled, 'Cora')} and {leads(own, resampled, 'CiteSeer')}"
    yield f"{leads(listing, random, 'Cora')} and {leads(listing, random, 'CiteSeer')}"
    yield (
        f"{leads(listing, resampled, 'Cora')} and "
        f"{leads(listing, resampled, 'CiteSeer')} over resampling"
    )
    rows = results["Cora, paper"]["methods"]
    ahead = rows["squared high-pass"]["1"]["mean"] - rows[random]["1"]["mean"]
    yield f"one node a class on Cora is worth {ahead:.1f} over random"


def words():
    return " ".join(BENCHMARKS.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("said", [*prose()])
def test_figures_of_the_prose(said):
    assert said in words(), "the records say so, the page does not"


@pytest.mark.parametrize("network", load("saliency")["networks"])
def test_no_map_that_keeps_as_little_drops_less_than_coalitionperturbation(network):
    assert "the lowest of all maps of the main table that keep as little" in words()
    found = load("saliency")["networks"][network]["methods"]
    drop, kept = (
        {name: row["metrics"][key]["mean"] for name, row in found.items()}
        for key in ("drop_soft", "mask_mean_soft")
    )
    ours = "CoalitionPerturbation"
    little = [name for name in found if kept[name] <= kept[ours]]
    assert len(little) > 3 and min(little, key=drop.__getitem__) == ours


def test_figures_of_deletion_on_the_front_page():
    record = load("saliency_many")["networks"]
    gains = [paired_text(found["methods"]["keeping-800"]) for found in record.values()]
    drops = [
        " against ".join(
            number(found["methods"][name]["metrics"]["drop_keep20"]["mean"], 2).text
            for name in (MAIN_ROW, "keeping-800")
        )
        for found in record.values()
    ]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{', '.join(gains[:-1])} and {gains[-1]}, network by network" in text
    assert f"the average drop ({', '.join(drops)})" in text
    assert f"keeps {kept_share(record, 'MarginSaliency-200')} of insertion" in text
    coalitions = [
        paired_text(found["methods"]["LayerGradCam"])
        for found in load("coalition")["networks"].values()
    ]
    ahead = f"{', '.join(coalitions[:-1])} and {coalitions[-1]}"
    assert f"ahead of Grad-CAM by {ahead} on 100 pictures of each network" in text
    pictures = {
        len(found["photographs"]) for found in load("coalition")["networks"].values()
    }
    assert pictures == {100}


def test_figures_of_the_mistakes_of_people():
    missing = [said for said in human_prose() if said not in words()]
    assert missing == [], "the records say so, the page does not"


def test_figures_of_the_case_studies():
    page = (ROOT / "tutorials" / "case_studies.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    missing = [said for said in case_prose() if said not in text]
    assert missing == [], "the records say so, the page does not"


def test_the_case_studies_count_the_settings_that_labelnoise_is_first_in():
    record = load("label_noise")
    column = record["settings"]["columns"].index("AP")
    rows = [
        {m: record["results"][name]["methods"][m]["mean"][column] for m in RANKINGS}
        for name in NOISY
    ]
    first = sum(max(row, key=row.__getitem__) == "LabelNoise" for row in rows)
    count = "none one two three four five six seven eight nine".split()[first]
    page = (ROOT / "tutorials" / "case_studies.md").read_text(encoding="utf-8")
    assert f"It is first in [{count} of nine settings]" in " ".join(page.split())


@pytest.mark.parametrize(
    "given", [*NETWORKS, *(f"{n} + probabilities" for n in NETWORKS)]
)
def test_no_peer_is_better_at_the_mistakes_of_people(given):
    assert "No peer is better by the features of either network" in words()
    assert len([*leads(given)]) == 3
    assert min(leads(given))[0] >= 0


def test_probabilities_alone_rank_as_self_confidence_does():
    for table in _report("probabilities").values():
        ours, theirs = (table["methods"][n] for n in ("LabelNoise", "self-confidence"))
        assert ours["AP"] == pytest.approx(theirs["AP"], abs=1e-4)
