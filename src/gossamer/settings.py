"""Settings: declared once, validated on construction, printable as help and as TOML.

A settings class is a frozen ``msgspec.Struct`` whose fields are annotated with ``msgspec.Meta``; the one declaration
gives validation, the error text, the command line's help, the text form of a recipe and the documentation.
"""

from typing import Any, Literal, get_args, get_origin

import msgspec

from gossamer.errors import SettingError


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
                wanted = str(error).removesuffix(" - at `$`")
                allowed = choices(field.type)
                if allowed and wanted.startswith("Invalid enum value"):
                    wanted = f"wanted one of {', '.join(allowed)}"
                raise SettingError(
                    f"{type(self).__name__}.{field.name}: {wanted}, got {getattr(self, field.name)!r}"
                ) from None


def choices(kind: Any) -> tuple[str, ...]:
    """Return the values that a field's type lists, in its order; empty if it lists none."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(value for part in get_args(kind) for value in choices(part))


def describe(kind: type[Settings]) -> list[tuple[str, str, Any]]:
    """Return ``(name, description, default)`` of every field of ``kind``, in order, for help and docs."""
    rows = []
    for field, info in zip(msgspec.structs.fields(kind), msgspec.inspect.type_info(kind).fields, strict=True):  # type: ignore[attr-defined]
        kind_info: Any = info.type
        text = ""
        while isinstance(kind_info, msgspec.inspect.Metadata):
            text = text or str((kind_info.extra_json_schema or {}).get("description", ""))
            kind_info = kind_info.type
        made = field.default_factory is not msgspec.NODEFAULT
        rows.append((field.name, text, field.default_factory() if made else field.default))
    return rows
