"""Settings: declared once, validated on construction, printable as help and as TOML.

A settings class is a frozen ``msgspec.Struct`` whose fields are annotated with ``msgspec.Meta``; the one declaration
gives validation, the error text, the command line's help, the text form of a recipe and the documentation.
"""

import difflib
import re
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from gossamer.errors import SettingError

S = TypeVar("S", bound="Settings")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every settings class.

    Raises:
        SettingError: a field's value is outside its declared type or range.
    """

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            try:
                msgspec.convert(getattr(self, field.name), field.type, strict=True)
            except msgspec.ValidationError as error:
                where = f"{type(self).__name__}.{field.name}"
                raise _unfit(where, _field(field), error, getattr(self, field.name)) from None


class Field(NamedTuple):
    """One field of a settings class.

    Attributes:
        name: as it is written in Python and in TOML.
        text: what it means.
        default: ``msgspec.NODEFAULT`` if it must be given.
        values: what it may be, in words: type, range, choices.
    """

    name: str
    text: str
    default: Any
    values: str

    @property
    def hint(self) -> str:
        """Everything there is to know, in a line."""
        return f"{self.name} is {self.values}" + (f": {self.text}" if self.text else "")


def describe(kind: type[Settings]) -> list[Field]:
    """Return every field of ``kind``, in order, for help, hints and docs."""
    return [_field(field) for field in msgspec.structs.fields(kind)]


def parse(kind: type[S], plain: Any, where: str) -> S:
    """Return the settings that plain data (as TOML and JSON have them) say.

    Args:
        kind: of settings.
        plain: a table: value by name.
        where: the place that errors name.

    Raises:
        SettingError: no table; a field that is unknown, missing or outside its type or range.
    """
    fields = {field.name: field for field in describe(kind)}
    every = f"its fields: {', '.join(fields)}"
    if not isinstance(plain, dict):
        raise SettingError(f"{where}: wanted a table, got {plain!r}", hint=every)
    for name in plain:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            raise SettingError(f"{where}: unknown field {name!r}", hint=f"did you mean {near[0]!r}?" if near else every)
    for name, field in fields.items():
        if field.default is msgspec.NODEFAULT and name not in plain:
            raise SettingError(f"{where}: field {name} is missing", hint=f"{field.hint}; {every}")
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        place = str(error).partition(" - at `$.")[2].rstrip("`")
        name = re.split(r"[.\[]", place)[0]
        raise _unfit(f"{where}, field {place}", fields[name], error, plain[name]) from error
    except SettingError as error:
        raise SettingError(f"{where}: {error.message}", hint=error.hint) from error


def _unfit(where: str, field: Field, error: msgspec.ValidationError, got: Any) -> SettingError:
    wanted = re.sub(r", got `\w+`$", "", str(error).partition(" - at `$")[0])
    if wanted.startswith("Invalid enum value"):
        wanted = f"wanted {field.values}"
    return SettingError(f"{where}: {wanted}, got {got!r}", hint=field.hint)


def _field(field: msgspec.structs.FieldInfo) -> Field:
    made = field.default_factory is not msgspec.NODEFAULT
    default = field.default_factory() if made else field.default
    info = inspect.type_info(field.type)
    text = ""
    while isinstance(info, inspect.Metadata):
        text = text or str((info.extra_json_schema or {}).get("description", ""))
        info = info.type
    return Field(field.encode_name, text, default, _words(info))


def _words(info: inspect.Type) -> str:
    """Return what a value of a type may be."""
    match info:
        case inspect.Metadata():
            said = _words(info.type)
        case inspect.LiteralType():
            values = ", ".join(map(str, info.values))
            said = values if len(info.values) == 1 else f"one of {values}"
        case inspect.IntType() | inspect.FloatType():
            said = ("a whole number" if isinstance(info, inspect.IntType) else "a number") + _range(info)
        case inspect.VarTupleType() | inspect.ListType():
            said = f"a list, each {_words(info.item_type)}"
        case inspect.TupleType():
            said = f"a list of {' and '.join(_words(part) for part in info.item_types)}"
        case inspect.UnionType():
            said = " or ".join(_words(part) for part in info.types if not isinstance(part, inspect.NoneType))
        case _:
            said = {inspect.BoolType: "true or false", inspect.StrType: "a text"}.get(type(info), "a table")
    return said


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge:g} to {info.le:g}"
    bounds = {"of at least": info.ge, "above": info.gt, "up to": info.le, "below": info.lt}
    said = [f"{word} {bound}".removesuffix(".0") for word, bound in bounds.items() if bound is not None]
    return " " + " and ".join(said) if said else ""
