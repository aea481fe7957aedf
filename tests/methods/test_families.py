"""The list of methods and their union as a type."""

import msgspec
import pytest

from gossamer.methods import METHODS, AnyMethod
from gossamer.settings import describe


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_method_declares_itself(kind):
    method = kind(**kind.example)
    family, _, name = method.tag.partition(".")
    assert f"gossamer.methods.{family}.{name}" == kind.__module__
    fields = {field.name for field in describe(kind) if field.text}
    assert fields == set(kind.__struct_fields__), "a field lacks its description"
    assert kind.strength is None or kind.strength in fields
    assert kind.picks in fields
    if kind.identity is not None:
        kind(**{**kind.example, **kind.identity})


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_the_tag_finds_the_method(kind):
    method = kind(**kind.example, exclude=("fc*",))
    text = msgspec.toml.encode(method)
    assert msgspec.toml.decode(text, type=AnyMethod) == method


def test_tags_differ():
    tags = [str(kind.__struct_config__.tag) for kind in METHODS]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_by_itself_a_method_shares_nothing_out(kind):
    """Whatever has a scope over all parts together says how to be without it; nothing else changes."""
    method = kind(**kind.example)
    alone = method.by_itself()
    assert getattr(alone, "scope", "") != "global"
    assert alone.by_itself() == alone
    if kind.strength is not None:
        assert getattr(alone, kind.strength) == getattr(method, kind.strength)
