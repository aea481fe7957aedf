"""Methods: frozen settings that decide. A method makes a plan; ``apply`` carries it out."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec

from gossamer.errors import PatternError
from gossamer.model.evidence import Evidence
from gossamer.model.plan import Plan
from gossamer.model.site import Site
from gossamer.model.subject import Subject
from gossamer.settings import Settings

Revise = Callable[[Subject, int, int], Plan | None]
"""Called as ``revise(subject, step, total)`` before optimizer step ``step`` (0 is the first) of ``total``, with the
subject that trains. Returns constraints to put in place of those there are, or None. All that is random in it must be
a function of a seed and of ``step``, or a run that was stopped would not end as one that was not."""


class Method(Settings, frozen=True, kw_only=True, tag_field="method", tag="method"):
    """Base of all methods: settings plus :meth:`plan`.

    A subclass gives its tag, ``class Magnitude(Method, tag="prune.magnitude")``.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """The kinds of evidence that :meth:`plan` asks for."""

    strength: ClassVar[str | None] = None
    """The field that says how much is done, which a schedule ramps, or None if there is no such number."""

    strengths: ClassVar[tuple[float, float] | None] = None
    """The least and the most of it between which a step may seek, or None if it may not: more of it must make the model
    smaller and change it at once. A least above zero means that ratios count, not differences."""

    ramps: ClassVar[str | None] = None
    """The field that a schedule ramps, where it is not :attr:`strength` because the outcome does not depend on it."""

    revisits: ClassVar[bool] = False
    """Whether a schedule goes on asking for a plan after its ramp, since masks can be taken back."""

    in_training: ClassVar[bool] = False
    """Whether it acts by the training of its own step, so that a step without one would do nothing."""

    trained_by: ClassVar[str | None] = None
    """The only optimizer by which its step may train, or None for any."""

    identity: ClassVar[Mapping[str, Any] | None] = None
    """Settings at which the method changes nothing (strength zero), or None if it has no such point."""

    part: ClassVar[Literal["site", "group", "block"]] = "site"
    """What it treats one by one, and what a scan therefore looks at one by one."""

    whole: ClassVar[bool] = False
    """Whether a part goes whole or stays whole, so that 1 is the only strength for one part."""

    picks: ClassVar[str] = "include"
    """The field whose patterns name those parts."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Settings that make sense on a tiny network, for fields that have no default."""

    include: Annotated[tuple[str, ...], msgspec.Meta(description="glob patterns of the sites to treat")] = ("*",)
    exclude: Annotated[tuple[str, ...], msgspec.Meta(description="glob patterns of the sites to leave alone")] = ()

    @property
    def tag(self) -> str:
        """The method's name in recipes and plans."""
        return str(self.__struct_config__.tag)

    @classmethod
    def ramped(cls) -> str | None:
        """Return the field that a schedule ramps, or None if there is no such number."""
        return cls.ramps or cls.strength

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Decide what to do with ``subject``; must not change it."""
        raise NotImplementedError(f"{type(self).__name__} must define plan")

    def trials(self, subject: Subject, evidence: Evidence | None = None) -> Mapping[str, Plan]:
        """Return plans, by names of its own, of which it wants to know what each alone does to the loss.

        The answers are in the evidence that :meth:`plan` is given, see :meth:`Evidence.rise`.
        """
        del subject, evidence
        return {}

    def by_itself(self) -> Self:
        """Return the method with its strength a share of each part, whatever the other parts are.

        A method that can share its strength out over all parts together overrides this.
        """
        return self

    def parts(self, subject: Subject) -> tuple[str, ...]:
        """Return the names of the parts of ``subject`` that it would treat one by one.

        Raises:
            PatternError: a pattern matches nothing.
        """
        return tuple(site.name for site in self.chosen(subject))

    def revision(self, subject: Subject) -> Revise | None:
        """Return what revises the plan while its step trains, or None if the plan stands.

        Args:
            subject: what the plan was made for, before it was applied.
        """
        del subject
        return None

    def conclusion(self, subject: Subject) -> Plan | None:
        """Return what the plan comes to once its step has trained, or None if nothing is to be added.

        It may also ask for batch norms to be measured anew.

        Args:
            subject: as it is after the training, with what holds while a step trains.
        """
        del subject
        return None

    def chosen(self, subject: Subject) -> tuple[Site, ...]:
        """Return the sites that ``include`` names and ``exclude`` does not.

        Raises:
            PatternError: a pattern matches no site.
        """
        return choose(subject, self.include, self.exclude)


def always_moved(method: Method) -> Revise:
    """Return the revision of a method whose every step moves what weights are judged by, though no constraint changes.

    Weights kept before then fit another state, so those of the last epoch are the ones to keep.
    """
    nothing = Plan(method.tag)
    return lambda _subject, _step, _total: nothing


def choose(subject: Subject, include: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[Site, ...]:
    """Return the sites whose name, under any owner, matches a pattern of ``include`` and none of ``exclude``.

    Raises:
        PatternError: a pattern (other than a plain ``*``) matches no site.
    """
    sites = subject.sites.values()

    def matches(site: Site, pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in site.names)

    for pattern in (*include, *exclude):
        if pattern != "*" and not any(matches(site, pattern) for site in sites):
            known = ", ".join(subject.sites) or "none"
            raise PatternError(f"pattern {pattern!r} matches no site", hint=f"the sites are: {known}")
    return tuple(
        site
        for site in sites
        if any(matches(site, pattern) for pattern in include) and not any(matches(site, pattern) for pattern in exclude)
    )
