"""The one declaration of a setting gives validation, error text and help."""

from typing import Annotated, Literal

import msgspec
import pytest

from gossamer.errors import SettingError
from gossamer.settings import Settings, describe, parse


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
    assert describe(Outer)[0] == ("amount", "share of the whole", 0.5, "a number from 0 to 1")


class Every(Settings):
    choice: Literal["a", "b"] = "a"
    one: Literal["a"] = "a"
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    share: Annotated[float, msgspec.Meta(gt=0, lt=2**31)] = 0.5
    either: Annotated[int, msgspec.Meta(ge=2, le=8)] | Literal["auto"] | None = None
    names: tuple[str, ...] = ()
    yes: bool = True
    inner: Inner | None = None


def test_describe_says_in_words_what_a_value_may_be():
    assert [field.values for field in describe(Every)] == [
        "one of a, b",
        "a",
        "a whole number of at least 1",
        "a number above 0 and below 2147483648",
        "a whole number from 2 to 8 or auto",
        "a list, each a text",
        "true or false",
        "a table",
    ]


class Must(Settings):
    """With a field that has no default."""

    bits: Annotated[int, msgspec.Meta(ge=1, le=8, description="width of a code")]
    name: str = ""


@pytest.mark.parametrize(
    ("plain", "message", "hint"),
    [
        (3, "here: wanted a table, got 3", "its fields: bits, name"),
        (
            {},
            "here: field bits is missing",
            "bits is a whole number from 1 to 8: width of a code; its fields: bits, name",
        ),
        (
            {"bits": 9},
            "here, field bits: Expected `int` <= 8, got 9",
            "bits is a whole number from 1 to 8: width of a code",
        ),
        ({"bits": 1, "name": 2}, "here, field name: Expected `str`, got 2", "name is a text"),
        ({"bits": 1, "nam": 2}, "here: unknown field 'nam'", "did you mean 'name'?"),
        ({"bits": 1, "x": 2}, "here: unknown field 'x'", "its fields: bits, name"),
    ],
)
def test_what_cannot_be_read_is_told_with_a_hint(plain, message, hint):
    with pytest.raises(SettingError) as caught:
        parse(Must, plain, "here")
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        Outer().amount = 0.1
