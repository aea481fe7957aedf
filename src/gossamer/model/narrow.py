"""Multi-head attention whose heads and widths need not fill each other.

``nn.MultiheadAttention`` (Vaswani et al. 2017, arXiv 1706.03762) takes for granted that all heads together are as wide
as its inputs. Once heads, or channels of the inputs, are cut that no longer holds; the same parameters then serve this
class.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NarrowAttention(nn.MultiheadAttention):
    """Attention with parameters named as in ``nn.MultiheadAttention``, called like it.

    ``in_proj_weight`` has shape (3 · heads · head width, width), ``out_proj`` maps heads · head width to width. Shapes
    in and out are those of ``nn.MultiheadAttention``. Made by :func:`narrow`, never directly.
    """

    def forward(  # noqa: PLR0917  # the signature of torch
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002  # the signature of torch
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; see ``nn.MultiheadAttention.forward``."""
        one = query.ndim == 2
        parts = [part.unsqueeze(0) if one else part for part in (query, key, value)]
        parts = parts if self.batch_first or one else [part.transpose(0, 1) for part in parts]
        q, k, v = (self._heads(*each) for each in zip(parts, self._weights(), self._biases(), strict=True))
        mask = self._mask(q, k, key_padding_mask, attn_mask, causal=is_causal and attn_mask is None)
        rate = self.dropout if self.training else 0.0
        scores = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
            scores = torch.softmax(scores if mask is None else scores + mask, -1)
            mixed = F.dropout(scores, rate) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, rate)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out.squeeze(0) if one else out if self.batch_first else out.transpose(0, 1)
        if scores is not None:
            scores = scores.mean(1) if average_attn_weights else scores
            scores = scores.squeeze(0) if one else scores
        return out, scores

    def _weights(self) -> tuple[Tensor, ...]:
        if self.in_proj_weight is not None:
            return tuple(self.in_proj_weight.chunk(3))
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _biases(self) -> tuple[Tensor | None, ...]:
        return (None, None, None) if self.in_proj_bias is None else tuple(self.in_proj_bias.chunk(3))

    def _heads(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (batch, heads, length, head width)."""
        made = F.linear(x, weight, bias)
        return made.view(*made.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(
        self, q: Tensor, k: Tensor, padding: Tensor | None, given: Tensor | None, *, causal: bool
    ) -> Tensor | None:
        """Return all masks as one to add to the scores, broadcast to (batch, heads, targets, sources)."""
        masks = []
        if given is not None:
            masks.append(given.view(-1, self.num_heads, *given.shape[1:]) if given.ndim == 3 else given[None, None])
        if padding is not None:
            masks.append(padding.reshape(q.shape[0], 1, 1, -1))
        if causal:
            masks.append(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)[None, None])
        added = None
        for mask in masks:
            plain = mask
            if mask.dtype == torch.bool:
                plain = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
            added = plain if added is None else added + plain
        return added


def why_not_narrow(module: nn.MultiheadAttention) -> str | None:
    """Return why heads or widths of ``module`` cannot be cut, or None if they can."""
    if module.bias_k is not None or module.add_zero_attn:
        return "the attention adds keys of its own"
    return None


def narrow(module: Any) -> None:
    """Tell an attention whose parameters were cut its new sizes, and let it compute with them."""
    joint = module.in_proj_weight
    inner = joint.shape[0] // 3 if joint is not None else module.q_proj_weight.shape[0]
    module.num_heads = inner // module.head_dim
    module.embed_dim = module.out_proj.weight.shape[0]
    module.out_proj.out_features, module.out_proj.in_features = module.out_proj.weight.shape
    module._qkv_same_embed_dim = False  # noqa: SLF001  # keeps torch's fused encoder layer away
    if not isinstance(module, NarrowAttention):
        own = type(module)
        if own is nn.MultiheadAttention:
            module.__class__ = NarrowAttention
        else:  # the class that a live constraint has made for this one module
            own.__bases__ = (NarrowAttention,)
