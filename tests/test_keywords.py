"""Every option has a name: in signatures, in types, in docstrings and in errors."""

import functools
import importlib
import inspect
from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

import pytest
import torch
from captum.attr import FeatureAblation, NoiseTunnel, Saliency
from torch.utils.data import TensorDataset
from torch_geometric.data import Data
from typing_extensions import Unpack

from captum_margin import explain
from captum_margin._keywords import check_keywords, refuse_unknown
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
)
from captum_margin.explanation import Explanation
from captum_margin.influence import (
    ActiveLearning,
    AdversarialStatistics,
    DecisionBoundary,
    LabelNoise,
    MarginInfluence,
    Prototypes,
    SelectNodes,
    select_nodes,
)
from captum_margin.metrics import evaluate
from captum_margin.signal import Graph, margin
from captum_margin.viz import visualize_comparison
from tests.helpers.models import conv

HALLS = ["", ".attr", ".influence", ".metrics", ".neighbors", ".scale", ".signal"]
HALLS += [".viz"]

#: What hands its keywords on to others' code, which names them.
HANDED_ON = {
    "captum_margin.explain": "to the attribute() of any method, Captum's too",
    "captum_margin.signal.HighPass": "to PyTorch Geometric's MessagePassing",
    "captum_margin.signal.HighPass.__init__": "the same",
}


@functools.cache
def public_callables():
    """By name: what the packages export, with the public methods of the classes."""
    found = {}
    for hall in HALLS:
        module = importlib.import_module(f"captum_margin{hall}")
        for name in module.__all__:
            value = getattr(module, name)
            is_protocol = getattr(value, "_is_protocol", False)  # never called
            if inspect.isfunction(value) or (
                inspect.isclass(value) and not is_protocol
            ):
                found[f"{module.__name__}.{name}"] = value
    for name, value in list(found.items()):
        for attribute in dir(value) if inspect.isclass(value) else ():
            member = getattr(value, attribute)
            ours = getattr(member, "__module__", None) or ""
            shown = not attribute.startswith("_") or attribute in (
                "__init__",
                "__call__",
            )
            if shown and callable(member) and ours.startswith("captum_margin"):
                found[f"{name}.{attribute}"] = member
    return found


def takes_unnamed_options(value):
    """Whether a callable takes keywords that neither signature nor types name."""
    parameters = inspect.signature(value).parameters.values()
    return any(
        one.kind is one.VAR_KEYWORD and not str(one.annotation).startswith("Unpack[")
        for one in parameters
    )


def test_no_public_callable_takes_unnamed_options():
    assert len(public_callables()) > 150
    found = {
        name
        for name, value in public_callables().items()
        if takes_unnamed_options(value)
    }
    assert found == set(HANDED_ON)


def test_unnamed_options_are_seen():
    assert takes_unnamed_options(lambda **options: None)
    assert takes_unnamed_options(lambda x, *, y=1, **options: None)
    assert not takes_unnamed_options(lambda x, *, y=1: None)


QUESTIONS = [
    MarginInfluence,
    LabelNoise,
    DecisionBoundary,
    Prototypes,
    AdversarialStatistics,
    ActiveLearning,
]
TAKERS = {
    f"{question.__name__}.{name}": (getattr(question, name), question)
    for question in QUESTIONS
    for name in ("__init__", "from_features", "from_graph")
}
TAKERS["select_nodes"] = select_nodes, ActiveLearning
TAKERS["SelectNodes"] = SelectNodes.__init__, ActiveLearning


@pytest.mark.parametrize("name", TAKERS)
def test_options_of_a_question_are_those_of_its_settings(name):
    """For people, in the signature; for editors and type checkers, in a TypedDict."""
    taker, question = TAKERS[name]
    settings = question.settings
    shown = inspect.signature(taker).parameters
    function = getattr(taker, "__func__", taker)
    hint = get_type_hints(function, include_extras=True)["options"]
    assert get_origin(hint) is Unpack
    (typed,) = get_args(hint)
    assert typed.__total__ is False
    assert get_type_hints(typed) == get_type_hints(type(settings))
    for option in fields(settings):
        parameter = shown[option.name]
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default == getattr(settings, option.name)
        assert parameter.annotation == get_type_hints(type(settings))[option.name]
    assert not any(one.kind is one.VAR_KEYWORD for one in shown.values())


@pytest.mark.parametrize("name", TAKERS)
def test_options_of_a_question_are_in_its_docstrings(name):
    taker, question = TAKERS[name]
    # A constructor is described where its class is.
    is_constructor = taker.__doc__ == "See the class."
    owner = SelectNodes if name == "SelectNodes" else question
    text = " ".join((owner.__doc__ if is_constructor else taker.__doc__).split())
    assert "**options" not in text
    for option in fields(question.settings):
        assert f" {option.name} (" in text
        default = getattr(question.settings, option.name)
        paper = getattr(question.paper_settings, option.name)
        if default != paper:
            assert f"Default: {said(default)} (paper: {said(paper)})." in text


def said(value):
    return f'``"{value}"``' if isinstance(value, str) else repr(value)


X = torch.eye(6)[:, :4] + torch.arange(6.0)[:, None]
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
PATH = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
F = torch.arange(6.0)


@pytest.mark.parametrize("question", QUESTIONS[:-1])
def test_constructors_hand_on_what_they_name(question):
    names = {0: "zero", 1: "one"}
    given = {"class_names": names, "function": F, "paper": True, "hops": 3}
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    data = TensorDataset(X, LABELS)
    made = {
        "model": question(
            model, data, model[0], batch_size=4, pooling="flatten", **given
        ),
        "features": question.from_features(X, LABELS, images=["im"], **given),
        "graph": question.from_graph(PATH, LABELS, images=["im"], **given),
    }
    for start, one in made.items():
        assert one.used.hops == 3 and one.paper and one.function is F
        assert one.used.k == question.paper_settings.k
        assert one.result().classes == ("zero", "one")
        assert one.result().function.tolist() == F.tolist()
        assert one._images == (None if start == "model" else ["im"])
    assert made["model"].batch_size == 4 and made["model"]._pooling == "flatten"
    assert made["model"]._layer is model[0] and made["model"].train_dataset is data


def test_constructors_of_active_learning_hand_on_what_they_name():
    names = {0: "zero", 1: "one"}
    given = {"class_names": names, "images": ["im"], "function": F, "paper": True}
    for one in (
        ActiveLearning.from_features(X, LABELS, reach=5, **given),
        ActiveLearning.from_graph(PATH, LABELS, reach=5, **given),
    ):
        assert one.used.reach == 5 and one.paper and one.function is F
        assert one._images == ["im"] and one.result().classes == ("zero", "one")


def test_select_nodes_hands_on_what_it_names():
    data = Data(edge_index=PATH, num_nodes=6)
    embeddings, own = F[:, None], 6 - F
    transform = SelectNodes(2, embeddings=embeddings, reach=0, seed=3)
    expected = select_nodes(data, 2, embeddings=embeddings, reach=0, seed=3)
    chosen = transform(data.clone()).train_mask.nonzero().flatten()
    assert sorted(expected.tolist()) == chosen.tolist()
    scored = SelectNodes(2, embeddings=embeddings, function=own, paper=True, hops=2)
    learning = ActiveLearning(
        data, embeddings=embeddings, function=own, paper=True, hops=2
    )
    expected = learning.self_influence()
    assert torch.equal(scored(data.clone()).margin_score, expected)


def test_a_wrong_word_is_answered_with_the_nearest():
    with pytest.raises(TypeError) as told:
        refuse_unknown("f()", {"colour": 1, "size": 2}, ["color", "size"])
    assert str(told.value) == (
        "f() got unknown options ['colour']; did you mean 'color'? it knows "
        "['color', 'size']"
    )
    with pytest.raises(TypeError, match=r"\['xyz'\]; it knows \['color'\]"):
        refuse_unknown("f()", ["xyz"], ["color"])
    refuse_unknown("f()", [], ["color"])


def test_checked_functions_stay_what_they_are():
    @check_keywords
    def double(x: int, *, more: int = 0) -> int:
        """Twice."""
        return 2 * x + more

    assert double(2) == 4 and double(x=2, more=1) == 5
    assert str(inspect.signature(double)) == "(x: int, *, more: int = 0) -> int"
    assert double.__doc__ == "Twice." and double.__name__ == "double"
    with pytest.raises(TypeError, match="did you mean 'more'"):
        double(2, mor=1)
    with pytest.raises(TypeError, match="missing 1 required"):
        double()


IMAGE = torch.rand(1, 3, 16, 16, generator=torch.manual_seed(0)).double()
RECORD = Explanation(IMAGE, 0, "any", inputs=IMAGE)
GRAPH = Graph(torch.tensor([[0, 1], [1, 0]]), None, 2)
WRONG = {
    "MarginSaliency": (
        lambda: MarginSaliency(conv()).attribute(IMAGE, target=0, n_evaluation=50),
        r"MarginSaliency.attribute\(\) .* 'n_evaluations'\?",
    ),
    "CoalitionPerturbation": (
        lambda: CoalitionPerturbation(conv()).attribute(IMAGE, target=0, n_sample=2),
        r"CoalitionPerturbation.attribute\(\) .* 'n_samples'\?",
    ),
    "RepresentativeInterpretation": (
        lambda: RepresentativeInterpretation(conv(), None, IMAGE).attribute(
            IMAGE, target=0, relu_attribution=True
        ),
        r"RepresentativeInterpretation.attribute\(\) .* 'relu_attributions'\?",
    ),
    "explain": (
        lambda: explain(Saliency(conv()), IMAGE, 0, additional_forward_arg=1),
        r"Saliency.attribute\(\) .* 'additional_forward_args'\?",
    ),
    "plot": (lambda: RECORD.plot(sing="all"), r"Explanation.plot\(\) .* 'sign'\?"),
    "evaluate": (
        lambda: RECORD.evaluate(conv(), baselines=0),
        r"Explanation.evaluate\(\) .* 'baseline'\?",
    ),
    "margin": (
        lambda: margin(GRAPH, F[:2], hop=2),
        r"margin\(\) .* 'hops'\?",
    ),
    "LabelNoise": (
        lambda: LabelNoise.from_features(X, LABELS, truste=False),
        r"LabelNoise .* 'trusted'\?",
    ),
    "SelectNodes": (lambda: SelectNodes(2, reech=1), r"SelectNodes .* 'reach'\?"),
    "select_nodes": (
        lambda: select_nodes(Data(edge_index=PATH, num_nodes=6), 2, reech=1),
        r"'reach'\?",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_keyword_is_answered_with_the_nearest(name):
    call, says = WRONG[name]
    with pytest.raises(TypeError, match=says):
        call()


def test_explain_leaves_methods_alone_that_take_any_keyword():
    tunnel = NoiseTunnel(FeatureAblation(conv()))
    options = {"nt_samples": 2, "stdevs": 0.0, "feature_mask": torch.zeros(1, 1, 1, 1)}
    options["feature_mask"] = options["feature_mask"].long()
    assert explain(tunnel, IMAGE, 0, **options).attributions.shape == IMAGE.shape


@pytest.mark.parametrize(
    ("method", "tool", "but"),
    [
        (Explanation.plot, visualize_comparison, {"attributions", "image", "curves"}),
        (
            Explanation.evaluate,
            evaluate,
            {"inputs", "attributions", "target"},
        ),
    ],
)
def test_a_record_takes_the_options_of_the_tool_it_calls(method, tool, but):
    own = inspect.signature(method).parameters
    for name, parameter in inspect.signature(tool).parameters.items():
        if name not in but:
            assert own[name].default == parameter.default, name


SETTINGS = {
    "n_steps": (50, 500, 2),
    "mask_size": (14, None, 5),
    "smoothing": (1 / 28, 0.0, 0.1),
    "noise": (0.0, 1.0, 0.5),
    "n_samples": (4, 16, 2),
    "confidence": ("drop", "margin", "drop"),
    "confidence_weight": (6.0, 100.0, 3.0),
    "coalition_weight": (0.1, 1.0, 0.5),
    "move_coalitions": (True, False, True),
    "learning_rate": (0.05, 0.05, 0.1),
}


@pytest.mark.parametrize("paper", [False, True])
def test_coalitions_take_from_the_setting_what_is_not_given(paper, monkeypatch):
    """And what is given stays so; None of the mask's size is a value."""
    seen, model, mask = [], conv(), torch.zeros(1, 1, 16, 16).long()

    def search(model, images, base, target, args, coalitions, options):
        seen.append(options)
        raise InterruptedError

    monkeypatch.setattr("captum_margin.attr.coalition.perturbation.search", search)

    def settings(**options):
        with pytest.raises(InterruptedError):
            CoalitionPerturbation(model).attribute(
                IMAGE, target=0, feature_mask=mask, paper=paper, **options
            )
        found = vars(seen.pop()).copy()
        _, found["confidence_weight"], found["coalition_weight"] = found["weights"]
        return {name: found[name] for name in SETTINGS}

    expected = {name: values[paper] for name, values in SETTINGS.items()}
    assert settings() == expected
    for name, values in SETTINGS.items():
        assert settings(**{name: values[2]}) == {**expected, name: values[2]}
    assert settings(mask_size=None) == {**expected, "mask_size": None}


def test_coalitions_say_their_defaults():
    text = " ".join(CoalitionPerturbation.attribute.__doc__.split())
    evidence = {"evidence_weight": (0.5, 0.0, None)}
    for name, (default, paper, _) in (SETTINGS | evidence).items():
        entry = text[text.index(f" {name} (") :]
        entry = entry[: entry.index(" Default: ") + 60]
        for value in {default, paper}:
            literal = "1 / 28" if value == 1 / 28 else said(value)
            assert literal.removesuffix(".0") in entry, name
