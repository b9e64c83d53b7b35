"""The numbers of a wider model's tensors, worked out of the small model's.

The one idea: a unit that is copied g times gives the same g times, and what reads the copies has
parts of the old weight that add up to it, to the last bit; so every sum of the wide model is one of
the small one, and the function stays. The parts are uneven and of each weight's own: were they
alike, or alike for all that reads a unit, an optimizer that divides by the size of gradients would
step copies alike for ever.
"""

import torch

from tst_megatron.checkpoints.keyed_noise import noise, uniform
from tst_megatron.methods.growth.width import NEW, Axis, Tensor

_LEAST, _MOST = 0.5, 1.5
"""Of what a part is in proportion to, before the parts of a weight are made to add up: of two, from
a quarter to three."""


class Wider:
    """Of one model.

    Args:
        is_direct: whether units are copied; else new ones give nothing at first.
        seed: of what is drawn.
        deviation: standard deviation of new weights, Megatron's ``--init-method-std``.
        one: what a norm's weight is kept as where it multiplies by 1: 0 with
            ``--apply-layernorm-1p``.
    """

    def __init__(self, is_direct: bool, seed: int, deviation: float, one: float) -> None:
        self._is_direct = is_direct
        self._seed = seed
        self._deviation = deviation
        self._one = one

    def parameter(self, own: torch.Tensor, of: Tensor, layer: int, name: str) -> torch.Tensor:
        """The wide model's.

        Args:
            own: the small one's, of any floating-point kind.
            of: what becomes of it.
            layer: of the small model.
            name: by which numbers are drawn.

        Returns:
            In the kind of ``own``, or in float32 where it takes more.
        """
        own = self._scaled(own, of)
        if self._is_direct:
            *others, last = of.axes if of.reads else (*of.axes, None)
            wide = _copied(own, (*others, None) if of.reads else of.axes)
            return wide if last is None else self._split(wide, last, layer, name)
        if of.reads and not of.writes:
            shape = _shape(own, of.axes)
            wide = self._deviation * noise(self._seed, layer, f"{name}.new", shape)
        else:
            fill = self._one if of.is_norm else 0.0
            wide = torch.full(_shape(own, of.axes), fill, dtype=own.dtype)
        return _cornered(wide, own, of.axes)

    def moment(self, own: torch.Tensor, of: Tensor, power: int) -> torch.Tensor:
        """A moment of a parameter's.

        The gradients of a unit's copies add up to the unit's own, so that of g each has about a
        g-th; a part of a weight has the whole weight's. A parameter that is multiplied by c has a
        gradient of 1/c. A moment of the k-th power goes with the k-th power of that. What is new
        has none.

        Args:
            own: the small model's.
            of: what becomes of its parameter.
            power: k.

        Returns:
            In float32.
        """
        own = own.float() * of.scale**-power
        if not self._is_direct:
            wide = torch.zeros(_shape(own, of.axes))
            return _cornered(wide, own, of.axes)
        wide = _copied(own, of.axes)
        at = 0 if of.reads or len(of.axes) == 1 else 1
        axis = of.axes[at]
        if axis is None:
            return wide
        sources = torch.tensor(axis.sources)
        copies = torch.bincount(sources, minlength=axis.small)[sources]
        return wide / copies.view([-1 if one == at else 1 for one in range(wide.dim())]) ** power

    def _scaled(self, own: torch.Tensor, of: Tensor) -> torch.Tensor:
        """A norm's weight or bias, multiplied; a weight may be kept as what it is more than 1."""
        if of.scale == 1:
            return own
        more = 1.0 - self._one if of.is_norm else 0.0
        return (own.float() + more) * of.scale - more

    def _split(self, wide: torch.Tensor, axis: Axis, layer: int, name: str) -> torch.Tensor:
        """Weights ``[out, small]`` of what the matrix reads, parted among the copies of that:
        ``[out, large]``.

        Parts are whole numbers of the weight's last binary place, so that none is rounded.
        """
        times = len(axis.sources) // axis.small
        if times == 1:
            return wide
        shape = (*wide.shape, times)
        shares = uniform(self._seed, layer, f"{name}.parts", shape) * (_MOST - _LEAST) + _LEAST
        shares /= shares.sum(dim=-1, keepdim=True)
        digits, exponents = torch.frexp(wide.float())
        places = 1 - int(torch.tensor(torch.finfo(wide.dtype).eps).log2())
        digits = torch.ldexp(digits, torch.tensor(places))
        parts = (shares * digits[..., None]).round_()
        parts[..., -1] = digits - parts[..., :-1].sum(dim=-1)
        parts = torch.ldexp(parts, (exponents - places)[..., None])
        # Of each source the places of its copies.
        order = torch.tensor(axis.sources).argsort(stable=True)
        found = torch.empty(*wide.shape[:-1], len(axis.sources), dtype=wide.dtype)
        found[..., order] = parts.flatten(-2).to(wide.dtype)
        return found


def _shape(own: torch.Tensor, axes: tuple[Axis | None, ...]) -> tuple[int, ...]:
    return tuple(
        length if axis is None else len(axis.sources)
        for length, axis in zip(own.shape, axes, strict=True)
    )


def _copied(own: torch.Tensor, axes: tuple[Axis | None, ...]) -> torch.Tensor:
    for at, axis in enumerate(axes):
        if axis is not None and not axis.is_as_it_was:
            own = own.index_select(at, torch.tensor(axis.sources))
    return own


def _cornered(wide: torch.Tensor, own: torch.Tensor, axes: tuple[Axis | None, ...]) -> torch.Tensor:
    """The small model's numbers among new ones, in place."""
    kept, sources = [], []
    for at, axis in enumerate(axes):
        length = own.shape[at]
        found = range(length) if axis is None else axis.sources
        pairs = [(i, source) for i, source in enumerate(found) if source != NEW]
        view = [-1 if one == at else 1 for one in range(own.dim())]
        kept.append(torch.tensor([i for i, _ in pairs]).view(view))
        sources.append(torch.tensor([source for _, source in pairs]).view(view))
    wide[tuple(kept)] = own[tuple(sources)].to(wide.dtype)
    return wide
