"""Calibration over the awkward networks: every site is seen, or listed with the reason."""

import pytest
import torch
from awkward.networks import NETWORKS

from gossamer.calibrate import Reading, calibrate
from gossamer.model import Subject, live_weight

UNUSED = {"unused parameter": {"idle.weight", "loose"}}


def first(outputs):
    """Return some tensor of the outputs."""
    while not isinstance(outputs, torch.Tensor):
        outputs = next(iter(outputs.values() if isinstance(outputs, dict) else outputs))
    return outputs


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_site_is_seen_or_listed(network):
    args, kwargs = network.inputs()
    subject = Subject.of(network.build(), *args, **kwargs)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    evidence = calibrate(
        subject,
        [(args, kwargs, None), (args, kwargs, None)],
        {"second_moment", "mean", "range", "gradient"},
        loss=lambda outputs, _: first(outputs).float().square().mean(),
    )
    unused = UNUSED.get(network.name, set())
    assert set(evidence.unread) == unused
    for name, site in subject.sites.items():
        assert evidence.gradient(name).shape == site.shape
        if name in unused:
            assert not evidence.gradient(name).any()
            continue
        # The last output of the reverse direction starts from a state of zero, so its hidden weight has no gradient.
        assert evidence.gradient(name).any() or name.endswith("hh_l0_reverse")
        for moment, mean in zip(evidence.second_moment(name), evidence.mean(name), strict=True):
            width = moment.layout.matrix(live_weight(subject, name)).shape[1]
            assert moment.layout == mean.layout
            assert moment.total.shape == ((width,) if moment.layout.reading is Reading.TABLE else (width, width))
            assert moment.count == mean.count > 0
            assert mean.vector.shape == (width,)
            # A second moment is at least the squared mean: in every direction, so on the diagonal.
            assert bool((moment.diagonal / moment.count >= mean.vector.square() - 1e-4).all())
            if moment.total.ndim == 2:
                assert torch.linalg.eigvalsh(moment.total.double()).min() > -1e-3 * moment.total.abs().max()
        if any(moment.layout.reading is not Reading.TABLE for moment in evidence.second_moment(name)):
            low, high = evidence.range(name)
            assert low <= evidence.samples(name).min() <= evidence.samples(name).max() <= high
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
