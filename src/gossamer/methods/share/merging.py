"""Components of a mixture that say nearly the same become one.

Ullrich, Meeds and Welling, ICLR 2017 (arXiv 1702.04008), section 4.3, after Adhikari and Hollmén, "Multiresolution
Mixture Modeling using Merging of Mixture Components", ACML 2012: while two components are nearer to each other by the
Kullback-Leibler divergence than a limit, the two nearest become one, with the sum of their shares and the mean, by
shares, of their means and variances.
"""

import torch
from torch import Tensor

from gossamer.model import Components


def merged(mixture: Components, limit: float) -> Components:
    """Return the mixture without components that differ by less than ``limit`` nats; float64.

    That at zero stays the first, and at zero, whatever becomes part of it.
    """
    means, variances = mixture.means.double(), mixture.log_precisions.double().neg().exp()
    shares = mixture.log_shares.double().exp()
    while len(means) > 1:
        distance = divergence(means, variances).fill_diagonal_(torch.inf)
        first, second = sorted(divmod(int(distance.argmin()), len(means)))
        if float(distance.min()) >= limit:
            break
        share = shares[first] + shares[second]
        for part in (means, variances):
            part[first] = (shares[first] * part[first] + shares[second] * part[second]) / share
        shares[first] = share
        means[0] = 0.0
        left = torch.arange(len(means)) != second
        means, variances, shares = means[left], variances[left], shares[left]
    return Components(means, -variances.log(), shares.log())


def divergence(means: Tensor, variances: Tensor) -> Tensor:
    """Return KL(i || j) of every two Gaussians, in nats, shape (K, K)."""
    ratio = variances.unsqueeze(1) / variances
    apart = (means.unsqueeze(1) - means).square() / variances
    return (ratio + apart - 1 - ratio.log()) / 2
