"""k-means sharing: exact Lloyd iterations, zeros, limits, training of the centers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import ModelError, PlanError, SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.share import KMeans
from gossamer.methods.share.codebooks import share, shared_bits
from gossamer.methods.share.lloyd import lloyd
from gossamer.methods.share.optimal import BINS, exact, optimal
from gossamer.methods.share.points import EXACT, Points, summed
from gossamer.methods.share.starts import STARTS, clustered
from gossamer.model import (
    Cut,
    Plan,
    Subject,
    apply,
    freeze,
    live_weight,
    nearest_center,
    retarget,
    settle,
    to_artifact,
    trainable,
)
from gossamer.model.arrays import to_tensor


def points(values, weights=None):
    """Every distinct number as a point, with its weight."""
    at, place = np.unique(np.asarray(values, float), return_inverse=True)
    return Points(at, np.bincount(place, weights, at.size).astype(float))


def slow_lloyd(values, count):
    """Lloyd's iterations one number at a time."""
    centers = [values[0] + (values[-1] - values[0]) * i / (count - 1) for i in range(count)]
    before = None
    while True:
        codes = [min(range(count), key=lambda k: (abs(v - centers[k]), k)) for v in values]
        if codes == before:
            return np.array(centers)
        before = codes
        for k in range(count):
            members = [v for v, code in zip(values, codes, strict=True) if code == k]
            if members:
                centers[k] = sum(members) / len(members)


def test_by_hand():
    # Start at 0, 5, 10: {0, 1, 2}, {}, {9, 10}; the middle center has no members and stays.
    np.testing.assert_allclose(clustered(points([0, 1, 2, 9, 10]), 3, "linear", 0), [1, 5, 9.5])
    np.testing.assert_allclose(clustered(points([1, 2, 6]), 1, "linear", 0), [3])
    # By density: those above 1/4 and 3/4 of the list, 1 and 10.
    np.testing.assert_allclose(clustered(points([0, 1, 9, 10]), 2, "density", 0), [0.5, 9.5])


@pytest.mark.parametrize("count", [2, 3, 5, 8, 16])
def test_against_one_number_at_a_time(count):
    rng = np.random.default_rng(count)
    values = np.sort(rng.standard_normal(150) * rng.choice([0.1, 2], 150))
    found = clustered(points(values), count, "linear", 0)
    np.testing.assert_allclose(found, slow_lloyd(values, count), rtol=1e-9, atol=1e-12)


def distortion(values, centers):
    codes = nearest_center(torch.from_numpy(values), torch.from_numpy(centers))
    return float(np.square(values - centers[codes]).sum())


def slow_optimum(values, count):
    """The least distortion over all ways to cut a sorted list in runs."""
    cuts = itertools.combinations(range(1, len(values)), count - 1)
    runs = ([values[a:b] for a, b in itertools.pairwise((0, *cut, len(values)))] for cut in cuts)
    return min(sum(float(np.square(run - run.mean()).sum()) for run in one) for one in runs)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_that_of_all_partitions(count, seed):
    values = np.sort(np.random.default_rng(seed).standard_normal(14) ** 3 + 100)
    np.testing.assert_allclose(
        distortion(values, optimal(points(values), count)), slow_optimum(values, count), rtol=1e-9
    )


def samples(size):
    """Numbers of many kinds, float32, in no order."""
    rng = np.random.default_rng(0)
    modes = rng.choice([-1, 1], size, p=[0.7, 0.3])
    kinds = {
        "gaussian": rng.standard_normal(size) * 0.02,
        "laplace": rng.laplace(size=size),
        "sparse": np.where(rng.random(size) < 0.2, rng.standard_normal(size), 0),
        "bimodal": modes + 1e-3 * rng.standard_normal(size),
        "heavy tails": rng.standard_cauchy(size),
        "heavier tails": rng.standard_t(0.7, size),
        "far from zero": 100 + 1e-3 * rng.standard_normal(size),
    }
    return {name: values.astype(np.float32) for name, values in kinds.items()}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", samples(1))
def test_many_numbers_are_clustered_within_a_thousandth_of_the_optimum(name, weighted):
    values = samples(EXACT + EXACT // 4)[name]
    weights = np.random.default_rng(1).gamma(0.5, size=values.size) + 1e-6 if weighted else None
    cells, every = (
        summed(values, weights),
        points(values[values != 0], None if weights is None else weights[values != 0]),
    )
    np.testing.assert_allclose(cells.weight.sum(), every.weight.sum(), rtol=1e-9)
    np.testing.assert_allclose(cells.at @ cells.weight, every.at @ every.weight, rtol=1e-6, atol=1e-9)
    for count in (2, 8):
        best = weighted_distortion(every, exact(every, count))
        assert weighted_distortion(every, optimal(cells, count)) <= 1.001 * best
        assert weighted_distortion(every, optimal(every, count)) <= 1.001 * best


def test_no_start_beats_the_optimum():
    rng = np.random.default_rng(0)
    some = points(np.concatenate([rng.standard_normal(BINS - 40), rng.standard_normal(40) * 20]))
    best = weighted_distortion(some, optimal(some, 16))
    assert all(weighted_distortion(some, clustered(some, 16, start, 0)) >= best * (1 - 1e-9) for start in STARTS)


def weighted_distortion(points, centers):
    codes = nearest_center(torch.from_numpy(points.at), torch.from_numpy(centers))
    return float((points.weight * np.square(points.at - centers[codes])).sum())


def test_weighted_by_hand():
    # 0 with weight 3 and 4 with weight 1 have mean 1 and cost 3·1 + 1·9 = 12; 4 and 6 have mean 5 and cost 2.
    one = points([0, 4, 6], [3, 1, 1])
    assert one.means(np.array([0, 2, 3])).tolist() == [1, 6]
    assert one.cost(np.array([0, 1, 2]), np.array([2, 3, 2])).tolist() == [12, 2, 0]
    assert optimal(one, 2).tolist() == [0, 5]
    assert optimal(one, 1).tolist() == [2]
    # Where 4 and 6 weigh 9 each and 0 a tenth, 0 joins 4 at 16·0.9/9.1 = 1.6 rather than 4 join 6 at 9 + 9 = 18.
    other = points([0, 4, 6], [0.1, 9, 9])
    np.testing.assert_allclose(optimal(other, 2), [36 / 9.1, 6])
    # Lloyd from 0 and 4: the middle, 2, parts 0 from 4 and 6, whose mean is 5; and it stays so.
    np.testing.assert_allclose(lloyd(one, np.array([0.0, 4])), [0, 5])
    # By density the halves of the weight are at 0 and 0 (5 in all, 1.25 and 3.75): 0 and 4.
    np.testing.assert_allclose(clustered(one, 2, "density", 0), [0, 5])


@pytest.mark.parametrize("seed", range(4))
def test_a_weight_counts_as_so_many_equal_numbers(seed):
    rng = np.random.default_rng(seed)
    values, times = np.sort(rng.standard_normal(60)), rng.integers(1, 6, 60)
    weighted, repeated = summed(values, times), summed(np.repeat(values, times))
    for start in STARTS:
        left, right = (clustered(one, 5, start, 0) for one in (weighted, repeated))
        np.testing.assert_allclose(left, right, rtol=1e-9)
    best = slow_weighted_optimum(values[:14], times[:14], 3)
    some = points(values[:14], times[:14])
    np.testing.assert_allclose(weighted_distortion(some, optimal(some, 3)), best, rtol=1e-9)


def slow_weighted_optimum(values, weights, count):
    """The least weighted distortion over all ways to cut a sorted list in runs."""
    best = np.inf
    for cut in itertools.combinations(range(1, len(values)), count - 1):
        runs = [slice(*edges) for edges in itertools.pairwise((0, *cut, len(values)))]
        means = [np.average(values[run], weights=weights[run]) for run in runs]
        costs = [weights[run] @ np.square(values[run] - mean) for run, mean in zip(runs, means, strict=True)]
        best = min(best, sum(costs))
    return best


def test_a_point_far_out_rounds_no_sum_of_others():
    rng = np.random.default_rng(0)
    near = np.sort(rng.standard_normal(200)) * 1e-3
    far = points(np.concatenate([[-1e8], near, [1e8]]))
    alone = points(near)
    inner = far.cost(np.arange(1, 151), np.arange(51, 201))
    np.testing.assert_allclose(inner, alone.cost(np.arange(150), np.arange(50, 200)), rtol=1e-6)
    np.testing.assert_allclose(optimal(far, 6)[1:-1], optimal(alone, 4), rtol=1e-6)


def test_fewer_numbers_than_centers_and_equal_numbers():
    for start in STARTS:
        assert set(clustered(points([1, 1, 2]), 2, start, 0).tolist()) == {1.0, 2.0}
    assert optimal(points([3, 4]), 5).tolist() == [3.0, 4.0]


def test_few_values_of_many_weights_are_kept_exactly():
    few = torch.tensor([-0.3, 0.1, 0.7])[torch.randint(3, (2 * EXACT,), generator=torch.Generator().manual_seed(0))]
    assert share(few, 4).centers.tolist() == torch.tensor([-0.3, 0.1, 0.7]).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_nearest_center_of_many_values_is_that_of_each(dtype):
    torch.manual_seed(0)
    values = (torch.randn(600, 512) * 0.1).to(dtype)
    centers = torch.tensor([0.1, -0.25, 0.0, 0.05, 0.3])
    values[0, :7] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 0.025, 0.2, -0.125])  # ends and middles
    for some in (centers, torch.linspace(-0.3, 0.3, 900), torch.tensor([0.1, 0.10001, 0.10002, 0.10003]), centers[:1]):
        rows = [nearest_center(row, some) for row in values]
        assert torch.equal(nearest_center(values, some), torch.stack(rows))


def test_a_drawn_start_follows_its_seed():
    plain = Subject.of(network(), torch.randn(2, 16))
    one, same, other = (
        KMeans(bits=3, start="forgy", seed=seed).plan(plain).on("0.weight")[0].centers for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_middle_belongs_to_the_lower():
    assert nearest_center(torch.tensor([0.0, 0.5, 0.6, 1.0]), torch.tensor([0.0, 1.0])).tolist() == [0, 0, 1, 1]


def test_every_weight_gets_its_nearest_center():
    torch.manual_seed(0)
    weight = torch.randn(20, 30)
    codebook = share(weight, 8, trained=True)
    assert codebook.size == 8
    distance = (weight[..., None] - codebook.centers).abs()
    assert torch.equal(distance.argmin(-1), codebook.codes.long())
    # Every center is the mean of its members: k-means has settled.
    for k, center in enumerate(codebook.centers):
        torch.testing.assert_close(center, weight[codebook.codes == k].double().mean().float())


def test_few_values_are_kept_exactly_and_empty_centers_left_out():
    weight = torch.tensor([[0.5, -1.25, 0.5], [3.0, 0.0, -1.25]])
    codebook = share(weight, 4, trained=False)
    assert codebook.centers.tolist() == [-1.25, 0.5, 3.0]
    kept = weight != 0
    assert torch.equal(codebook.centers[codebook.codes.int()][kept], weight[kept])
    gap = torch.cat([torch.linspace(0, 1, 50), torch.linspace(99, 100, 50)])
    assert share(gap, 32, trained=False).size < 32


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))


def test_zeros_of_a_mask_stay_and_take_no_center():
    plain = Subject.of(network(), torch.randn(2, 16))
    pruned = apply(plain, Magnitude(sparsity=0.7, scope="layer").plan(plain))
    shared = apply(pruned, KMeans(bits=3).plan(pruned))
    for name in plain.sites:
        before, after = live_weight(pruned, name), live_weight(shared, name)
        assert torch.equal(before == 0, after == 0)
        assert len(after[after != 0].unique()) <= 8


@pytest.mark.parametrize("weigh", ["none", "fisher"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_only_what_a_mask_keeps_is_looked_at(scope, weigh):
    """Values of a mask alone are taken flat; the same plan comes of the whole weight without a mask."""
    plain = Subject.of(network(), torch.randn(2, 16))
    pruned = apply(plain, Magnitude(sparsity=0.7).plan(plain))
    name = next(iter(plain.sites))  # of which one value is zero that the mask keeps
    trainable(pruned, name).data[pruned.constraints[name].mask.keep.nonzero()[0].unbind()] = 0
    holes = Subject.of(network(), torch.randn(2, 16))
    for site in plain.sites:
        trainable(holes, site).data.copy_(live_weight(pruned, site))
    loss = nn.functional.mse_loss
    batches = [((torch.randn(2, 16),), {}, torch.zeros(2, pruned.model(torch.randn(2, 16)).shape[1]))]
    method = KMeans(bits=3, scope=scope, weigh=weigh)
    flat, whole = (method.plan(one, calibrate(one, batches, method.needs, loss=loss)) for one in (pruned, holes))
    assert flat.constraints.keys() == whole.constraints.keys() == plain.sites.keys()
    for site in plain.sites:
        (book, mask), (other, same) = flat.on(site), whole.on(site)
        assert torch.equal(mask.keep, same.keep)
        torch.testing.assert_close(book.centers, other.centers)
        assert torch.equal(book.codes[mask.keep], other.codes[mask.keep])


def test_sharing_again_keeps_what_is_shared():
    plain = Subject.of(network(), torch.randn(2, 16))
    shared = apply(plain, KMeans(bits=3).plan(plain))
    again = KMeans(bits=3).plan(shared)
    assert not again.constraints
    assert "shares 8 values already" in again.skipped[0].reason
    coarser = apply(shared, KMeans(bits=1).plan(shared))
    for name in plain.sites:
        fine, coarse = live_weight(shared, name), live_weight(coarser, name)
        assert len(coarse.unique()) <= 2
        for value in fine.unique():
            assert len(coarse[fine == value].unique()) == 1


def test_centers_train_with_the_sum_of_their_members_gradients():
    plain = Subject.of(network(), torch.randn(2, 16))
    shared = apply(plain, KMeans(bits=2).plan(plain))
    x, model = torch.randn(5, 16), shared.model
    codes = shared.constraints["0.weight"].codebook.codes
    weight = live_weight(shared, "0.weight").requires_grad_()
    hidden = torch.relu(x @ weight.T + model[0].bias)
    (hidden @ live_weight(shared, "2.weight").T + model[2].bias).square().sum().backward()
    model(x).square().sum().backward()
    centers = next(p for n, p in model[0].named_parameters() if "centers" in n)
    expected = torch.stack([weight.grad[codes == k].sum() for k in range(4)])
    torch.testing.assert_close(centers.grad, expected)


def test_skips_say_why():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    net[1].weight.data.zero_()
    plan = KMeans(bits=4).plan(Subject.of(net, torch.randn(2, 2)))
    assert {skip.site: skip.reason for skip in plan.skipped} == {
        "0.weight": "4 shared values for 4 weights would save nothing",
        "1.weight": "all its weights are zero",
    }
    assert shared_bits(1000, 32, 32) == 1000 * 5 + 32 * 32


def test_half_precision_weights_are_shared_only_where_that_saves_bits():
    layer = nn.Linear(5, 8).half()
    layer.weight.data = torch.arange(1, 41).reshape(8, 5).half()
    plan = KMeans(bits=5).plan(Subject.of(layer, torch.zeros(1, 5).half()))
    assert not plan.constraints  # 40 codes of 5 bits and 32 centers of 16 are 712 bits; 40 weights are 640


def test_bad_settings_and_weights():
    for bits in (0, 17, 2.5):
        with pytest.raises(SettingError, match=r"KMeans\.bits"):
            KMeans(bits=bits)
    plain = Subject.of(network(), torch.randn(2, 16))
    plain.model[0].weight.data[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"0\.weight: a weight is not finite"):
        KMeans().plan(plain)


@pytest.mark.slow
def test_ten_million_weights():
    torch.manual_seed(0)
    weight = torch.randn(10_000_000)
    codebook = share(weight, 32, trained=False)
    error = (codebook.centers[codebook.codes.int()] - weight).square().mean()
    # The best 32-level quantizer of a normal has error 0.0025 (Max 1960, table 1).
    assert 0.0024 < error < 0.003


def test_weights_are_shared_little_by_little_the_largest_first():
    layer = nn.Linear(5, 1, bias=False)
    layer.weight.data = torch.tensor([[0.0, 0.8, 1.2, 2.0, 2.2]])
    plain = Subject.of(layer, torch.ones(1, 5))
    live = apply(plain, KMeans(bits=1, portion=0.5).plan(plain))
    torch.testing.assert_close(live_weight(live, "weight"), torch.tensor([[0.0, 0.8, 1.2, 2.1, 2.1]]))
    live.model(torch.tensor([[7.0, 4.0, 1.0, 1.0, 2.0]])).sum().backward()
    hidden = trainable(live, "weight")
    assert hidden.grad.tolist() == [[0.0, 4.0, 1.0, 0.0, 0.0]]  # of the weights that are free
    with torch.no_grad():
        hidden -= 0.25 * torch.tensor([[0.0, -4.0, 1.0, 0.0, 0.0]])  # 0.8 grows to 1.8, and 1.2 becomes 0.95
    retarget(live, KMeans(bits=1, portion=0.75).plan(live))
    torch.testing.assert_close(live_weight(live, "weight"), torch.tensor([[0.0, 2.1, 0.95, 2.1, 2.1]]))
    whole = apply(plain, KMeans(bits=1).plan(plain))
    part = KMeans(bits=1, portion=0.5).plan(plain)
    with pytest.raises(PlanError, match="would part those that are shared already"):
        apply(whole, part)
    settle(live)
    assert live.constraints["weight"].codebook.shared is None
    torch.testing.assert_close(live_weight(live, "weight"), torch.tensor([[0.0, 2.1, 1.0, 2.1, 2.1]]))
    assert not hidden.requires_grad


def test_what_shares_in_part_is_stored_and_cut_as_it_is():
    torch.manual_seed(0)
    plain = Subject.of(network(), torch.randn(2, 16))
    part = apply(plain, KMeans(bits=2, portion=0.5).plan(plain))
    stored = to_artifact(freeze(part)).tensors
    for name in plain.sites:
        assert torch.equal(to_tensor(stored[name]), live_weight(part, name))
    group = next(group for group in part.groups if not group.stuck and group.size == 12)
    cut = apply(part, Plan("t", edits=(Cut(keep=((group.name, tuple(range(7))),)),)))
    assert torch.equal(live_weight(cut, "0.weight"), live_weight(part, "0.weight")[:7])
    coarser = apply(part, KMeans(bits=1).plan(part))
    assert len(live_weight(coarser, "0.weight").unique()) <= 2


def test_a_schedule_ramps_what_a_scan_does_not():
    assert KMeans.strength is None
    assert KMeans.ramped() == "portion"


def test_many_centers_start_by_density():
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    ours, theirs = (share(weight, 1024, start=start).centers for start in ("optimal", "density"))
    assert torch.equal(ours, theirs)


def test_the_nearest_center_does_not_overflow_in_half_precision():
    centers = torch.tensor([20000.0, 60000.0, 64000.0], dtype=torch.float16)
    assert nearest_center(torch.tensor([61000.0], dtype=torch.float16), centers).tolist() == [1]
