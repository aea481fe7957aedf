"""Live constraints: one parametrization module per site, shared by every owner of the site.

The value a forward pass sees is ``mask * grid(centers[codes])``, or ``mask * grid(original)`` without a codebook.
Trained centers receive the sum of their members' gradients (Han, Mao and Dally 2016); the grid passes gradients
straight through (Bengio, Leonard and Courville 2013), and so does a splice, a mask that is not final. Codewords receive
the mean of their members' gradients instead (Stock et al. 2020). Where a codebook
does not share all values yet, the others are the original's. Codebooks of one tie have one parameter for their centers.
A hashed site's centers are its buckets, whose codes and signs a hash gives: ``mask * sign * grid(buckets)[codes]``, and
a bucket's gradient is the sum of its members' gradients, each with its sign (Chen et al. 2015, section 4.3). The scale
of a grid may train (`learned`). Rules give few levels or points to the original (`levels`), unless values are shared
already. A mixture trains along, one module for all sites of its tie.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gossamer.model.buckets import coded
from gossamer.model.codebook import Codebook
from gossamer.model.constraint import Constraint, Constraints, Grid, Hash, Mask, Splice
from gossamer.model.copying import lazy_copy
from gossamer.model.latent import Binary, Bucketed, Points, Tanh, Ternary
from gossamer.model.learned import learned_snap, noisy, positive, step_of
from gossamer.model.levels import LiveLatent, levels, settled
from gossamer.model.mixture import Mix, Mixture
from gossamer.model.recurrent import let_weights_live, restore_weights
from gossamer.model.site import Owner, owned_parameters
from gossamer.model.straight import masked_straight_through, members, straight_through_snap


class Live(nn.Module):
    """The constraints of one site, applied at each access of its weight.

    Buffers, the centers and the logarithm of a trained scale are part of the constrained model's ``state_dict``. Only
    hashed sites have ``flipped``. ``priced``, of sites with a trained scale, is for a penalty on the bits of the codes:
    the codes as they were when it last asked what they cost.
    """

    owns_buffers = True
    """That no other tensor is part of their memory, so that a lazy copy may take them one by one."""

    keep: Tensor | None
    splice: Tensor | None
    codes: Tensor | None
    flipped: Tensor | None
    shared: Tensor | None
    starts: Tensor | None
    scale: Tensor | None
    zero: Tensor | None
    priced: Tensor | None
    centers: nn.Parameter | None
    mix: Mix | None
    latent: LiveLatent | None
    log_scale: nn.Parameter | None

    def __init__(self, *, trains: bool) -> None:
        super().__init__()
        for name in ("keep", "splice", "codes", "flipped", "shared", "starts", "scale", "zero", "priced"):
            self.register_buffer(name, None)
        for name in ("centers", "log_scale"):
            self.register_parameter(name, None)
        for name in ("mix", "latent"):
            self.register_module(name, None)
        self.trains = trains
        self.bits, self.signed = 0, True
        self.axis: int | None = None
        self.noise = False
        self.tie = ""
        self.width = 1
        self.seed = 0

    def forward(self, original: Tensor) -> Tensor:
        """Return the constrained value of ``original``, in its dtype."""
        if self.codes is not None and self.flipped is not None and self.centers is not None:
            found = self._on_grid(self.centers, narrow=True).index_select(0, self.codes.flatten())
            value = found.view(self.codes.shape).to(original.dtype)
            value = torch.where(self.flipped, -value, value)
        else:
            value = self._on_grid(self._looked_up(original))
        if self.splice is not None:
            value = masked_straight_through(value, self.splice)
        if self.keep is not None:
            value = torch.where(self.keep, value, 0)
        return value

    def _looked_up(self, original: Tensor) -> Tensor:
        if self.codes is None or self.centers is None:
            return original if self.latent is None else self.latent(original, self.kept)
        if self.width > 1:
            found = members(self.centers, self.codes.flatten().int())
        else:
            found = self.centers.index_select(0, self.codes.flatten().int())
        value: Tensor = found.view(self.codes.shape).to(original.dtype)
        return value if self.shared is None else torch.where(self.shared, value, original)

    def _on_grid(self, value: Tensor, *, narrow: bool = False) -> Tensor:
        if self.log_scale is not None:
            count = value.numel() // max(self.log_scale.numel(), 1)
            step = step_of(self.log_scale, count, self.bits, signed=self.signed)
            if self.noise and self.training and torch.is_grad_enabled():
                return noisy(value, step)
            return learned_snap(value, step, self.zero, **self._form(narrow=narrow))
        if self.scale is None or self.zero is None:
            return value
        return straight_through_snap(value, scale=self.scale, zero=self.zero, **self._form(narrow=narrow))

    def _form(self, *, narrow: bool) -> dict[str, Any]:
        return {"bits": self.bits, "signed": self.signed, "axis": self.axis, "narrow": narrow}

    @property
    def kept(self) -> Tensor | None:
        """Where values are not zeroed; None for everywhere."""
        keeps = [part for part in (self.keep, self.splice) if part is not None]
        return keeps[0] & keeps[-1] if keeps else None

    @property
    def why_no_cut(self) -> str:
        """Why no units of the site can go, empty if they can."""
        if self.flipped is not None:
            return "is hashed by position"
        if self.latent is not None and isinstance(self.latent.rule, Points):
            return "has points by position"
        return "has scales by position" if self.scale is not None and self.scale.ndim == 2 else ""

    @property
    def constraints(self) -> Constraints:
        """What holds now, as plain data; trained centers as they are at this moment."""
        codebook = hashed = grid = None
        if self.codes is not None and self.flipped is not None and self.centers is not None:
            hashed = Hash(self.centers.detach().clone(), self.seed, tuple(self.codes.shape))
        elif self.codes is not None and self.centers is not None:
            centers = self.centers.detach().clone()
            shared = None if self.shared is None else lazy_copy(self.shared)
            starts = None if self.starts is None else self.starts.clone()
            trained = self.centers.requires_grad
            codebook = Codebook(lazy_copy(self.codes), centers, trained, shared, starts, self.tie, self.width)
        if self.log_scale is not None:
            scale = positive(self.log_scale.detach())
            zero = torch.zeros_like(scale) if self.zero is None else self.zero.clone()
            grid = Grid(scale, zero, self.bits, self.signed, self.axis, trained=True, noise=self.noise)
        elif self.scale is not None and self.zero is not None:
            grid = Grid(self.scale.clone(), self.zero.clone(), self.bits, self.signed, self.axis)
        mask = None if self.keep is None else Mask(lazy_copy(self.keep))
        splice = None if self.splice is None else Splice(lazy_copy(self.splice))
        mixture = None if self.mix is None else self.mix.mixture
        latent = None if self.latent is None else self.latent.latent
        return Constraints(mask, codebook, grid, splice, hashed, mixture, latent)

    def put(
        self, constraint: Constraint, original: nn.Parameter, tied: nn.Parameter | None = None, mix: Mix | None = None
    ) -> None:
        """Let ``constraint`` hold, in place of one of the same kind.

        Args:
            constraint: what shall hold.
            original: the parameter it holds for.
            tied: the centers of another site that the centers of this one shall be.
            mix: the mixture of another site that that of this one shall be.
        """
        device = original.device
        match constraint:
            case Mixture():
                self.mix = Mix(constraint, device, trains=self.trains) if mix is None else mix
            case Binary() | Ternary() | Tanh() | Bucketed() | Points():
                self.latent = LiveLatent(constraint, device, trains=self.trains)
                if isinstance(constraint, Points):
                    original.requires_grad = False
            case Mask():
                self.keep = lazy_copy(constraint.keep).to(device)
            case Splice():
                self.splice = lazy_copy(constraint.keep).to(device)
            case Codebook():
                self.codes = lazy_copy(constraint.codes).to(device)
                self.width = constraint.width
                self._put_centers(constraint.centers, original, trained=constraint.trained, tie=constraint.tie)
                if tied is not None:
                    tied.requires_grad_(constraint.trained and self.trains)
                    self.centers = tied
                self.shared = None if constraint.shared is None else lazy_copy(constraint.shared).to(device)
                self.starts = None if constraint.starts is None else constraint.starts.clone().to(device)
                original.requires_grad_(self.shared is not None and self.trains)
            case Hash():
                self.codes, self.flipped = (part.to(device) for part in constraint.places)
                self._put_centers(constraint.buckets, original, trained=True)
                self.seed = constraint.seed
                original.requires_grad = False
            case Grid():
                self.bits, self.signed, self.axis = constraint.bits, constraint.signed, constraint.axis
                self.noise = constraint.noise
                self._put_scale(constraint, original)

    def _put_scale(self, grid: Grid, original: nn.Parameter) -> None:
        scale, zero = (part.clone().to(original.device) for part in (grid.scale, grid.zero))
        if not grid.trained:
            self.scale, self.zero, self.log_scale, self.priced = scale, zero, None, None
            return
        self.scale, self.zero = None, zero
        if self.log_scale is None:
            self.log_scale = nn.Parameter(scale.log())
        else:
            self.log_scale.data = scale.log()
        self.log_scale.requires_grad_(self.trains)
        if self.priced is None:
            self.priced = torch.zeros(original.shape, dtype=torch.int16, device=original.device)

    def _put_centers(self, centers: Tensor, original: nn.Parameter, *, trained: bool, tie: str = "") -> None:
        new = centers.to(original.device, original.dtype, copy=True)
        if self.centers is not None and self.centers.shape == new.shape and self.tie == tie:
            self.centers.data = new
        else:
            self.centers = nn.Parameter(new)
        self.tie = tie
        self.centers.requires_grad_(trained and self.trains)

    def settle(self, original: nn.Parameter) -> None:
        """Make final what the step's training could change: the splice joins the mask, every value is shared.

        A mixture goes, and so does noise. The levels of a binary or ternary rule become a codebook, those of buckets a
        grid; on a grid, which these may not fit, values. Points stay.
        """
        self.mix = None
        rule = None if self.latent is None else self.latent.latent
        if rule is not None and self.codes is None and not isinstance(rule, Points):
            real = original.detach()
            if self.scale is not None or self.log_scale is not None:
                original.data = levels(rule, real, self.kept)
            elif isinstance(rule, Bucketed):
                self.put(coded(rule, real, self.kept)[1], original)
            else:
                self.put(settled(rule, real, self.kept), original)
        if self.codes is not None or not isinstance(rule, Points):
            self.latent = None
        self.noise = False
        if self.shared is not None and self.codes is not None and self.centers is not None:
            now = Codebook(self.codes, self.centers, starts=self.starts)
            nearest = now.nearest(original.detach().cpu()).to(self.codes)
            self.codes = torch.where(self.shared, self.codes, nearest)
            self.shared = None
            original.requires_grad = False
        if self.splice is not None:
            self.keep = self.splice if self.keep is None else self.keep & self.splice
            self.splice = None


def live_parts(model: nn.Module) -> Iterator[tuple[Owner, nn.Module, Live, nn.Parameter]]:
    """Yield every owner of a constrained parameter with its module, its constraints and the original parameter."""
    for owner, module, parameter in owned_parameters(model):
        if parametrize.is_parametrized(module, owner.attribute):
            for part in module.parametrizations[owner.attribute]:  # type: ignore[index]
                if isinstance(part, Live):
                    yield owner, module, part, parameter


def constrain(model: nn.Module, parameter: nn.Parameter, constraints: Iterable[Constraint]) -> None:
    """Put ``constraints`` on ``parameter`` of ``model`` under all its owners, in place of those of the same kinds."""
    owners = [(owner, module) for owner, module, found in owned_parameters(model) if found is parameter]
    live = next((part for _, _, part, found in live_parts(model) if found is parameter), None)
    if live is None:
        live = Live(trains=parameter.requires_grad)
        for owner, module in owners:
            if not parametrize.is_parametrized(module, owner.attribute):
                _register(module, owner.attribute, live)
    for constraint in constraints:
        tied = _tied(model, live, constraint) if isinstance(constraint, Codebook) and constraint.tie else None
        mix = _mixed(model, live, constraint) if isinstance(constraint, Mixture) and constraint.tie else None
        live.put(constraint, parameter, tied, mix)


def _tied(model: nn.Module, live: Live, codebook: Codebook) -> nn.Parameter | None:
    """Return the centers of another site that are those of ``codebook`` by name and value."""
    for _, _, other, _ in live_parts(model):
        alike = other is not live and other.tie == codebook.tie and other.trains == live.trains
        if alike and other.centers is not None and torch.equal(codebook.centers.to(other.centers), other.centers):
            return other.centers
    return None


def _mixed(model: nn.Module, live: Live, mixture: Mixture) -> Mix | None:
    """Return the mixture of another site that is ``mixture`` by name and means."""
    for _, _, other, _ in live_parts(model):
        if other is not live and other.mix is not None and other.mix.tie == mixture.tie:
            means = other.mix.mixture.means
            if means.shape == mixture.means.shape and torch.equal(means, mixture.means):
                return other.mix
    return None


def _register(module: nn.Module, attribute: str, live: Live) -> None:
    if not parametrize.is_parametrized(module):
        order = tuple(module._parameters)  # noqa: SLF001  # torch offers no other way to keep the order
        parametrize.register_parametrization(module, attribute, live, unsafe=True)
        type(module).gossamer_order = order  # type: ignore[attr-defined]
        if isinstance(module, nn.RNNBase):
            let_weights_live(module)
    else:
        parametrize.register_parametrization(module, attribute, live, unsafe=True)
    setattr(type(module), attribute, _access(attribute))


def _access(attribute: str) -> property:
    """Return what torch puts in a parametrized class, but for its cache.

    Torch's own refers to the module it was made for, so that every copy would keep that one's weights in memory.
    """

    def value(module: nn.Module) -> Tensor:
        found: Tensor = module.parametrizations[attribute]()  # type: ignore[index, operator]
        return found

    def assign(module: nn.Module, value: Tensor) -> None:
        held: Any = module.parametrizations
        held[attribute].right_inverse(value)

    return property(value, assign)


def constrained_value(live: Live, parameter: nn.Parameter) -> Tensor:
    """Return what ``live`` makes of ``parameter``, detached."""
    with torch.no_grad():
        value: Tensor = live(parameter)
    return value.detach()


def stub(_live: Live, parameter: nn.Parameter) -> Tensor:
    """Return a tensor of the shape and dtype of ``parameter`` that has no values of its own."""
    return parameter.detach().new_zeros(()).expand(parameter.shape)


def bake(model: nn.Module, value: Callable[[Live, nn.Parameter], Tensor] = constrained_value) -> None:
    """Write the constrained values into the parameters of ``model`` and take the constraints off.

    Args:
        model: changed in place.
        value: what a parameter becomes.
    """
    parts = list(live_parts(model))
    distinct = {id(parameter): (live, parameter) for _, _, live, parameter in parts}
    for live, parameter in distinct.values():
        parameter.data = value(live, parameter)
    for owner, module, _, _ in parts:
        if parametrize.is_parametrized(module, owner.attribute):
            order = type(module).gossamer_order  # type: ignore[attr-defined]
            parametrize.remove_parametrizations(module, owner.attribute, leave_parametrized=False)
            if not parametrize.is_parametrized(module):
                _reorder(module, order)
                if isinstance(module, nn.RNNBase):
                    restore_weights(module)
    for _, _, live, parameter in parts:
        parameter.requires_grad_(live.trains)


def _reorder(module: nn.Module, order: tuple[str, ...]) -> None:
    parameters = module._parameters  # noqa: SLF001
    found = dict(parameters)
    parameters.clear()
    parameters.update({name: found.pop(name) for name in order if name in found} | found)
