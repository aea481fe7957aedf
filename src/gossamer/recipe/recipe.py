"""The recipe: ordered steps of methods and training, as a Python value and as TOML, the same both ways."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import tomli_w

from gossamer.artifact.files import write_file
from gossamer.errors import RecipeError, SettingError
from gossamer.methods import METHODS
from gossamer.model import Method
from gossamer.recipe.fallback import Fallback
from gossamer.recipe.schedule import Cubic
from gossamer.recipe.seek import Seek
from gossamer.settings import Settings, parse
from gossamer.train import Training

TABLES: Mapping[str, type[Settings]] = {"train": Training, "schedule": Cubic, "seek": Seek, "fallback": Fallback}
"""The parts of a step that are tables of their own; every other field but ``rewind`` belongs to the step's method."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: what a method decides is applied, then the model trains under it.

    Attributes:
        method: the method, or None to train only.
        train: the training, or None to train not at all.
        schedule: ramps the method's strength while the step trains.
        rewind: number of an earlier step, 0 for the start: before the step trains, weights take the values they had
            after that one. What the method decides by the weights as they were, and what holds, goes on holding.
        seek: finds the method's strength, by validation data or by bytes.
        fallback: leaves sites as they were, most guilty first, until the step costs no more than is allowed.

    Raises:
        RecipeError: a step that does nothing; a method that acts by training without one; a schedule without a training
            or a method whose strength it ramps, or that begins above that strength; a rewinding without a training; a
            seeking with one, or without a strength; a fallback with one, or without a method.
    """

    method: Method | None = None
    train: Training | None = None
    schedule: Cubic | None = None
    rewind: int | None = None
    seek: Seek | None = None
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        if self.method is None and self.train is None:
            raise RecipeError(
                "a step needs a method, a training, or both", hint="give it method = ... or a train table"
            )
        self._check_training()
        if self.rewind is not None and self.train is None:
            raise RecipeError(f"{self.name}: weights are rewound to be trained again, and the step has no train table")
        if self.seek is not None:
            self._check_seek()
        if self.fallback is not None and (self.train is not None or self.method is None):
            raise RecipeError(
                f"{self.name}: sites fall back from what a method did to them, before anything trains",
                hint="give the step a method and no train table; train in a step of its own after it",
            )
        if self.schedule is None:
            return
        if self.train is None:
            raise RecipeError(f"{self.name}: a schedule acts during training, and the step has no train table")
        if self.method is None or self.method.ramped() is None:
            known = ", ".join(tag for tag, kind in methods().items() if kind.ramped() is not None)
            raise RecipeError(
                f"{self.name}: a schedule needs a method whose strength it can ramp", hint=f"such methods are: {known}"
            )
        final = getattr(self.method, str(self.method.ramped()))
        if self.schedule.initial > final:
            raise RecipeError(
                f"{self.name}: the schedule's initial is {self.schedule.initial}, more than {self.method.ramped()} "
                f"({final}), which it ends at"
            )

    def _check_training(self) -> None:
        if self.method is not None and self.method.in_training and self.train is None:
            raise RecipeError(
                f"{self.name}: acts while its step trains, and the step has no train table",
                hint="give the step a train table",
            )
        wanted = None if self.method is None else self.method.trained_by
        if wanted is not None and self.train is not None and self.train.optimizer != wanted:
            raise RecipeError(
                f"{self.name}, optimizer: wanted {wanted}, got {self.train.optimizer}, by which it does not settle",
                hint=f'write optimizer = "{wanted}", or leave it out',
            )

    def _check_seek(self) -> None:
        if self.train is not None:
            raise RecipeError(
                f"{self.name}: a step that seeks its strength cannot train", hint="train in a step of its own after it"
            )
        if self.method is None or self.method.strengths is None:
            known = ", ".join(tag for tag, kind in methods().items() if kind.strengths is not None)
            raise RecipeError(
                f"{self.name}: seeking needs a method whose strength can be sought", hint=f"such methods are: {known}"
            )

    @property
    def name(self) -> str:
        """The method's tag, or ``train``."""
        return "train" if self.method is None else self.method.tag


S = TypeVar("S", bound=Settings)


class _Head(Settings, frozen=True):
    name: str
    about: str = ""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps in order.

    Attributes:
        name: shown in reports and kept in files.
        about: what the recipe does, in a sentence.
        seed: the seed of a run when none is given; a run adds it to the seed of every method and training.
        steps: the steps, at least one.

    Raises:
        RecipeError: there is no step, or one rewinds to a step that is not before it.
    """

    name: str
    steps: tuple[Step, ...]
    about: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.steps:
            raise RecipeError(f"recipe {self.name!r} has no steps", hint="write each step as a [[step]] table")
        for number, step in enumerate(self.steps, 1):
            if step.rewind is not None and not 0 <= step.rewind < number:
                raise RecipeError(
                    f"step {number} ({step.name}), rewind: wanted an earlier step, 0 (the start) to {number - 1}, "
                    f"got {step.rewind}"
                )

    def to_toml(self) -> str:
        """Return the recipe as TOML, every setting written out.

        Raises:
            RecipeError: a setting is None where that is not the default, which TOML cannot say.
        """
        head = {"name": self.name, "about": self.about, "seed": self.seed}
        return tomli_w.dumps({**head, "step": [_step_to_plain(n, step) for n, step in enumerate(self.steps, 1)]})

    @classmethod
    def from_toml(cls, text: str) -> "Recipe":
        """Return the recipe that ``text`` says.

        Raises:
            RecipeError: it is not TOML, or a step names an unknown method, field or value; the step and the field
                are named.
        """
        try:
            plain = msgspec.toml.decode(text)
        except msgspec.DecodeError as error:
            raise RecipeError(f"not TOML: {error}") from error
        return cls.from_plain(plain)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that plain data (as TOML gives it) says; see :meth:`from_toml`."""
        head = {key: value for key, value in plain.items() if key != "step"}
        if "steps" in head:
            raise RecipeError("recipe: unknown field 'steps'", hint="write each step as a [[step]] table")
        made = _settings("recipe", _Head, head)
        entries = plain.get("step", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise RecipeError("recipe: step must be a list of tables", hint="write each step as a [[step]] table")
        steps = tuple(_step_from_plain(number, entry) for number, entry in enumerate(entries, 1))
        return cls(name=made.name, about=made.about, seed=made.seed, steps=steps)

    def save(self, path: str | Path) -> None:
        """Write the recipe as TOML, in one move."""
        write_file(Path(path), [self.to_toml().encode()])

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe from a TOML file; one without a name is called as the file is.

        Raises:
            RecipeError: the file cannot be read or does not hold a recipe.
        """
        try:
            plain = msgspec.toml.decode(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from error
        except msgspec.DecodeError as error:
            raise RecipeError(f"{path}: not TOML: {error}") from error
        try:
            return cls.from_plain({"name": Path(path).stem} | plain)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error.message}", hint=error.hint) from error

    def seeded(self, seed: int) -> "Recipe":
        """Return the recipe as it runs with ``seed``: the seed is added to every seed in its steps."""
        steps = tuple(
            replace(step, method=_seeded(step.method, seed), train=_seeded(step.train, seed)) for step in self.steps
        )
        return replace(self, seed=seed, steps=steps)


def methods() -> dict[str, type[Method]]:
    """Return every known method by its tag."""
    return {str(kind.__struct_config__.tag): kind for kind in METHODS}


def _seeded(settings: S | None, seed: int) -> S | None:
    if settings is None or "seed" not in settings.__struct_fields__:
        return settings
    return msgspec.structs.replace(settings, seed=getattr(settings, "seed", 0) + seed)


def _step_to_plain(number: int, step: Step) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    if step.method is not None:
        plain |= {"method": step.method.tag, **_fields(number, step, step.method)}
    if step.rewind is not None:
        plain["rewind"] = step.rewind
    if step.schedule is not None:
        plain["schedule"] = _fields(number, step, step.schedule)
    if step.seek is not None:
        plain["seek"] = _fields(number, step, step.seek)
    if step.fallback is not None:
        plain["fallback"] = _fields(number, step, step.fallback)
    if step.train is not None:
        plain["train"] = _fields(number, step, step.train)
    return plain


def _fields(number: int, step: Step, settings: Settings) -> dict[str, Any]:
    plain = {}
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        if value is not None:
            plain[field.encode_name] = msgspec.to_builtins(value)
        elif field.default is not None:
            raise RecipeError(f"step {number} ({step.name}), field {field.name}: TOML cannot say None")
    return plain


def _step_from_plain(number: int, entry: Mapping[str, Any]) -> Step:
    tag = entry.get("method")
    where = f"step {number}" + (f" ({tag})" if isinstance(tag, str) else "")
    parts: dict[str, Any] = {name: entry[name] for name in TABLES if name in entry}
    own = {name: value for name, value in entry.items() if name not in {*TABLES, "method", "rewind"}}
    made: dict[str, Any] = {}
    if "rewind" in entry:
        made["rewind"] = _whole(where, "rewind", entry["rewind"])
    if tag is not None:
        known = methods()
        if not isinstance(tag, str) or tag not in known:
            near = difflib.get_close_matches(str(tag), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known methods: {', '.join(sorted(known))}"
            raise RecipeError(f"{where}: unknown method {tag!r}", hint=hint)
        _refuse_tables(where, [name for name, value in own.items() if isinstance(value, dict)], known[tag])
        made["method"] = _settings(where, known[tag], own)
    elif own:
        raise RecipeError(f"{where}: {min(own)!r} is given, but no method", hint="add method = ...")
    for name, value in parts.items():
        made[name] = _settings(f"{where}, {name}", TABLES[name], value)
    try:
        return Step(**made)
    except RecipeError as error:
        raise RecipeError(f"step {number}: {error.message}", hint=error.hint) from error


def _refuse_tables(where: str, tables: Iterable[str], method: type[Method]) -> None:
    for name in tables:
        if name not in method.__struct_fields__:
            near = difflib.get_close_matches(name, TABLES, n=1)
            hint = f"did you mean [step.{near[0]}]?" if near else f"tables of a step: {', '.join(TABLES)}"
            raise RecipeError(f"{where}: unknown table {name!r}", hint=hint)


def _whole(where: str, name: str, value: Any) -> int:
    if type(value) is not int:
        raise RecipeError(f"{where}, field {name}: wanted the number of an earlier step, got {value!r}")
    return value


def _settings(where: str, kind: type[S], plain: Any) -> S:
    try:
        return parse(kind, plain, where)
    except SettingError as error:
        raise RecipeError(error.message, hint=error.hint) from error
