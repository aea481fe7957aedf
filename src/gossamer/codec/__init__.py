"""Codec: any state dict to a ``.goss`` file and back, without a model; torch is imported only for its own tensors."""

from gossamer.codec.loss import Loss
from gossamer.codec.packing import Packed, PackedTensor, pack
from gossamer.codec.unpacking import Unpacked, unpack

__all__ = ["Loss", "Packed", "PackedTensor", "Unpacked", "pack", "unpack"]
