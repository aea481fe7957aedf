"""The one declaration of a setting gives validation, error text and help."""

from typing import Annotated

import msgspec
import pytest

from gossamer.errors import SettingError
from gossamer.settings import Settings, describe


class Inner(Settings, tag_field="method", tag="x.inner"):
    count: int = 2


class Outer(Settings):
    amount: Annotated[float, msgspec.Meta(ge=0, le=1, description="share of the whole")] = 0.5
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


def test_valid_values_are_kept_as_given():
    inner = Inner(count=3)
    outer = Outer(amount=0.25, inner=inner, many=(inner,))
    assert outer.inner is inner
    assert outer.many == (inner,)


@pytest.mark.parametrize(("value", "wanted"), [(2.0, "<= 1.0"), ("2.0", "`float`"), (-0.1, ">= 0.0")])
def test_a_bad_value_names_class_field_wanted_and_got(value, wanted):
    with pytest.raises(SettingError, match=r"Outer\.amount") as caught:
        Outer(amount=value)
    assert wanted in str(caught.value)
    assert repr(value) in str(caught.value)


def test_describe_gives_name_description_and_default():
    assert describe(Outer)[0] == ("amount", "share of the whole", 0.5)


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        Outer().amount = 0.1
