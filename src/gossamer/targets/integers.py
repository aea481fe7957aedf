"""What the target multiplies in integers: asked by plans before anything is lowered, and by the lowering itself."""

from math import prod

from gossamer.targets.blocks import why_no_layout

_KINDS = frozenset({"linear", "conv"})
_BITS = 8
_MOST_OWN = 7
"""Most bits of codes that stay within a signed byte when each output's own zero is taken off them."""


def why_in_floats(kind: str, bits: int, axis: int | None, *, symmetric: bool) -> str | None:
    """Return why a weight is multiplied in floating point even if its input has a grid of 8 bits; None if it is not.

    Args:
        kind: what its site does.
        bits: of a code.
        axis: the dimension along which its scales vary, or None.
        symmetric: whether 0 is the code of 0.0. Other codes are taken less their zero.
    """
    if kind not in _KINDS:
        return f"the target has no integer operator for {kind.replace('_', ' ')} weights"
    if bits > _BITS:
        return f"its codes have {bits} bits, wanted {_BITS} or less"
    return why_scales(axis, symmetric=symmetric or bits <= _MOST_OWN)


def why_scales(axis: int | None, *, symmetric: bool, outputs: int = 0) -> str | None:
    """Return why sums of integers cannot be scaled to what a product gives, or None if they can.

    Args:
        axis: the dimension of the weight along which its scales vary, or None.
        symmetric: whether 0 is the code of 0.0 everywhere.
        outputs: the dimension that counts outputs.
    """
    if axis not in (None, outputs):
        return "its scales vary along the inputs that are summed over"
    if axis is not None and not symmetric:
        return f"each output has a zero of its own, which only codes of {_MOST_OWN} bits or less can be taken less"
    return None


def why_no_groups(kind: str, shape: tuple[int, ...], bits: int, group: int) -> str | None:
    """Return why a weight with a scale per group is multiplied in floating point, or None if it goes into blocks.

    Blocks take no input grid: the target puts their inputs on 8 bits as they come.

    Args:
        kind: what its site does.
        shape: of the weight.
        bits: of a code.
        group: weights of a row that have one scale.
    """
    if kind != "linear":
        return f"its sums would need a scale after every {group} products"
    return why_no_layout(prod(shape), bits, group)
