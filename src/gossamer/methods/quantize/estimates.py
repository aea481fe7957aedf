"""What an error of a weight does to the loss, estimated from evidence, without running the model once more.

``trace`` is the measure of Dong, Yao, Arfeen, Gholami, Mahoney and Keutzer, "HAWQ-V2: Hessian Aware trace-Weighted
Quantization of Neural Networks", NeurIPS 2020 (arXiv 1911.03852): the mean of the curvature's diagonal times the
squared error. ``curvature`` looks where the error lies: ½ Σ g_r e_r H e_rᵀ over the rows e_r of the error, H the second
moment of the inputs and g the curvature in the outputs (Martens and Grosse, ICML 2015, arXiv 1503.05671). Both take the
Fisher information near g ⊗ H in place of the Hessian, whose trace HAWQ-V2 draws by random vectors; of that product it
is Σ g · tr H.
"""

from collections.abc import Sequence

from torch import Tensor

from gossamer.model import Moment


def by_trace(error: Tensor, moments: Sequence[Moment], curvatures: Sequence[Tensor]) -> float:
    """Return ½ (mean of the curvature's diagonal) ‖error‖², in nats per target.

    Args:
        error: of the weight, its shape.
        moments: second moments of the inputs of each part of the weight.
        curvatures: g of each part, (outputs,).
    """
    traces = [
        float(g.double().sum()) * float(moment.diagonal.double().sum()) / max(moment.count, 1)
        for moment, g in zip(moments, curvatures, strict=True)
    ]
    return 0.5 * sum(traces) / max(error.numel(), 1) * float(error.double().square().sum())


def by_curvature(error: Tensor, moments: Sequence[Moment], curvatures: Sequence[Tensor]) -> float:
    """Return ½ Σ g_r e_r H e_rᵀ over the rows of all parts, in nats per target; arguments as for :func:`by_trace`."""
    rise = 0.0
    for moment, g in zip(moments, curvatures, strict=True):
        rows, H = moment.layout.matrix(error).double(), moment.total.double() / max(moment.count, 1)
        seen = rows * H if H.ndim == 1 else rows @ H
        rise += 0.5 * float(g.double() @ (seen * rows).sum(1))
    return rise
