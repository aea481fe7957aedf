"""Reasons: why a target does not do something as asked."""

import msgspec


class Reason(msgspec.Struct, frozen=True):
    """What is not done natively, and why.

    Attributes:
        what: the site, tensor or part of the artifact.
        why: a sentence fragment for people.
    """

    what: str
    why: str

    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.what}: {self.why}"
