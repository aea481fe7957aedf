"""The text form of a training: TOML with ``data`` and a table ``[training]``."""

from typing import Any

import msgspec

from gossamer.errors import SettingError
from gossamer.settings import Settings, parse
from gossamer.train.settings import Training


class Config(Settings, frozen=True):
    """A data set and the settings of training on it."""

    data: str | None = None
    training: Training = Training()

    @classmethod
    def parse(cls, text: bytes, where: str) -> "Config":
        """Read TOML.

        Args:
            text: the file's content.
            where: named in errors.

        Raises:
            SettingError: not TOML, an unknown name, or a value out of range.
        """
        try:
            plain = msgspec.toml.decode(text)
        except msgspec.DecodeError as error:
            raise SettingError(f"{where}: not TOML: {error}") from error
        training = parse(Training, plain.pop("training", {}), f"{where}, training")
        return msgspec.structs.replace(parse(cls, plain, where), training=training)

    def changed(self, changes: dict[str, Any]) -> Training:
        """Return the training with some settings replaced.

        Raises:
            SettingError: an unknown name, or a value out of range.
        """
        return parse(Training, msgspec.to_builtins(self.training) | changes, "training")
