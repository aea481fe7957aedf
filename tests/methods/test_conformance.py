"""Every method keeps every promise on every awkward network; a new method is picked up from ``METHODS``."""

import itertools

import pytest
import torch
from awkward import checks
from awkward.networks import BY_NAME, NETWORKS
from awkward.references import REFERENCES, Share, Zero

from gossamer.methods import METHODS
from gossamer.model import Method, Plan, live_weight

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

REPRESENTATIVE = [BY_NAME[name] for name in ("tied weights", "lstm", "grouped convolution")]
QUICK = {*(network.name for network in REPRESENTATIVE), "half precision"}
"""Networks that the fast suite runs; the others are slow only because there are many."""
KINDS = [
    next(method for method in METHODS if method.__struct_config__.tag == tag)
    for tag in (
        "prune.magnitude",
        "prune.obs",
        "prune.units",
        "share.kmeans",
        "share.hashed",
        "share.product",
        "share.soft",
        "quantize.post_training",
        "quantize.lsq",
        "quantize.binary_connect",
        "quantize.bucketed",
        "quantize.differentiable",
        "quantize.rate_aware",
        "factorize.svd",
        "regularize.l1",
        "distill.logits",
    )
]
"""One method of each kind of plan."""
PROMISES = [
    checks.input_is_untouched,
    checks.plan_is_deterministic,
    checks.excluded_sites_are_identical,
    checks.ties_survive,
    checks.dtype_mode_and_training_flags_survive,
    checks.every_site_is_treated_or_skipped,
]

_every_network = pytest.mark.parametrize(
    "network",
    [pytest.param(network, marks=[] if network.name in QUICK else [pytest.mark.slow]) for network in NETWORKS],
    ids=lambda network: network.name,
)
_every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__struct_config__.tag)


PAIRS = [
    *itertools.product(itertools.product(METHODS, repeat=2), REPRESENTATIVE[:1]),
    *itertools.product(itertools.product(KINDS, repeat=2), REPRESENTATIVE[1:]),
    *itertools.product(itertools.product(REFERENCES, (*KINDS, *REFERENCES)), REPRESENTATIVE[:1]),
]
"""All ordered pairs on one network, those of different kinds on more; the references stand for the plainest use of each
kind of constraint."""


def quick(first, second, network):
    """Whether the fast suite runs a pair."""
    return network is REPRESENTATIVE[0] and {first, second} <= {*KINDS, *REFERENCES}


@_every_network
@_every_method
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promise(promise, method, network):
    promise(method, network)


@_every_network
@_every_method
def test_file_gives_equal_bits(method, network, tmp_path):
    checks.file_gives_equal_bits(method, network, tmp_path)


@_every_network
@pytest.mark.parametrize(
    "method", [m for m in METHODS if m.identity is not None], ids=lambda m: m.__struct_config__.tag
)
def test_strength_zero_is_the_identity(method, network):
    checks.strength_zero_is_the_identity(method, network)


@pytest.mark.parametrize("network", REPRESENTATIVE, ids=lambda network: network.name)
@_every_method
def test_plan_survives_saving(method, network):
    checks.plan_survives_saving(method, network)


@pytest.mark.parametrize(
    ("pair", "network"),
    [pytest.param(pair, network, marks=[] if quick(*pair, network) else [pytest.mark.slow]) for pair, network in PAIRS],
    ids=[f"{first.__struct_config__.tag} then {second.__struct_config__.tag}-{n.name}" for (first, second), n in PAIRS],
)
def test_earlier_constraints_survive(pair, network):
    checks.earlier_constraints_survive(*pair, network)


class Mutating(Zero, frozen=True, tag="test.mutating"):
    def plan(self, subject, evidence=None):
        plan = super().plan(subject)
        with torch.no_grad():
            subject.model.get_parameter(next(iter(subject.sites))).zero_()
        return plan


class Random(Method, frozen=True, tag="test.random"):
    def plan(self, subject, evidence=None):
        from gossamer.model import Mask

        return Plan(self.tag, {site.name: Mask(torch.rand(site.shape) > 0.5) for site in self.chosen(subject)})


class Silent(Method, frozen=True, tag="test.silent"):
    def plan(self, subject, evidence=None):
        return Plan(self.tag)


class Deaf(Zero, frozen=True, tag="test.deaf"):
    """Treats what it was told to leave alone."""

    def chosen(self, subject):
        return tuple(subject.sites.values())


@pytest.mark.parametrize(
    ("method", "promise"),
    [
        (Mutating, checks.input_is_untouched),
        (Random, checks.plan_is_deterministic),
        (Silent, checks.every_site_is_treated_or_skipped),
        (Deaf, checks.excluded_sites_are_identical),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_checks_catch_a_broken_promise(method, promise):
    with pytest.raises(AssertionError):
        promise(method, BY_NAME["plain"])


def test_checks_catch_an_identity_that_is_none():
    class Never(Zero, frozen=True, tag="test.never"):
        identity = {}  # noqa: RUF012

    with pytest.raises(AssertionError):
        checks.strength_zero_is_the_identity(Never, BY_NAME["plain"])


def test_checks_catch_lost_constraints(monkeypatch):
    from gossamer.model import apply as real

    def forgetful(subject, plan):
        result = real(subject, plan)
        return checks.subject_of(BY_NAME["plain"]) if plan.method == "test.share" else result

    monkeypatch.setattr(checks, "apply", forgetful)
    with pytest.raises(AssertionError):
        checks.earlier_constraints_survive(Zero, Share, BY_NAME["plain"])
    assert live_weight(checks.subject_of(BY_NAME["plain"]), "layers.0.weight").all()
