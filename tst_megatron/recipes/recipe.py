"""Recipes: whole training configurations as Megatron's flags, in YAML.

A recipe maps a flag without its dashes to its value: ``true`` for a flag that takes none, a list
for one that takes several, a blend's own mapping for ``blend``, ``false`` or ``null`` to leave
out what a parent has. The one idea: a value given later takes the place of an earlier one, and of
other forms of the same thing, in this order: the files that a recipe extends, the recipe, its
layout, its precision, the command line. ``NAME+LAYOUT+PRECISION``, as in
``moe-10b-a1b-tst+64xh100+fp8-blockwise``, says which; what is left out is the recipe's default.
``+hybrid`` beside them makes the model a HybridModel (`twin`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tst_megatron.corpora.blend import DATA_FORMS
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import methods
from tst_megatron.recipes.files import RecipeFile, Variant, names, nearest, read_chain
from tst_megatron.recipes.twin import HYBRID, check_beside, of_twin

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Setting:
    """A value of a flag, and where it comes from: a file, a layout or precision in it, or the user.

    ``None`` and ``False`` leave the flag out.
    """

    value: Any
    source: str

    @property
    def is_given(self) -> bool:
        """Whether the flag is on the command line at all."""
        return self.value is not None and self.value is not False


@dataclass(frozen=True)
class Recipe:
    """A recipe with a layout and a precision.

    Attributes:
        name: as it was asked for.
        about: one line.
        settings: of every flag, the values that were given in turn; the last one holds.
        layout: its name, such as ``64xh100``; None where the recipe has none.
        precision: its name; likewise.
        layouts: all that the recipe has, by name.
        precisions: likewise.
    """

    name: str
    about: str
    settings: dict[str, tuple[Setting, ...]]
    layout: str | None
    precision: str | None
    layouts: dict[str, Variant]
    precisions: dict[str, Variant]

    @property
    def values(self) -> dict[str, Any]:
        """Flags and the values that hold."""
        return {key: given[-1].value for key, given in self.settings.items()}

    @property
    def machine(self) -> tuple[int, str] | None:
        """How many GPUs the layout is for, and of which kind."""
        if self.layout is None:
            return None
        number, _, kind = self.layout.partition("x")
        return int(number), kind

    def overridden(self, words: Sequence[str], main_name: Callable[[str], str]) -> "Recipe":
        """With flags of a command line, which win.

        Args:
            words: as after the recipe: ``--lr 0.1``, ``--lr=0.1`` or ``--swiglu``.
            main_name: of the names that a flag has, the one in recipes.
        """
        given = {main_name(key): value for key, value in _flags_of(words).items()}
        return self.with_values(given, COMMAND_LINE)

    def with_values(self, given: dict[str, Any], source: str) -> "Recipe":
        """With values that take the place of its own, and of other forms of the same thing.

        Args:
            given: by flag, without dashes in front.
            source: where they come from.
        """
        return replace(self, settings=_with(self.settings, given, source))


def read(recipe: str) -> Recipe:
    """Read a recipe, and where each of its values comes from.

    Args:
        recipe: ``NAME[+LAYOUT][+PRECISION][+hybrid]``; a name or the path of a ``.yaml`` file.

    Raises:
        UserError: there is no such recipe, layout or precision, or a file is broken.
    """
    name, chosen = _split(recipe)
    is_hybrid = HYBRID in chosen
    chosen = [part for part in chosen if part != HYBRID]
    chain = read_chain(name)
    layouts = _merged(file.layouts for file in chain)
    precisions = _merged(file.precisions for file in chain)
    layout, precision = _choose(name, chain, chosen, layouts, precisions)
    settings: dict[str, tuple[Setting, ...]] = {}
    for file in chain:
        settings = _with(settings, file.flags, file.name)
    for kind, part in (("layouts", layout), ("precisions", precision)):
        for file in chain:
            here = getattr(file, kind).get(part)
            if here is not None:
                settings = _with(settings, here.flags, f"{file.name}, {part}")
    if is_hybrid:
        values = {key: given[-1].value for key, given in settings.items()}
        settings = _with(settings, of_twin(name, values), f"+{HYBRID}")
    about = next((file.about for file in reversed(chain) if file.about), "")
    return Recipe(recipe, about, settings, layout, precision, layouts, precisions)


def load(recipe: str) -> dict[str, Any]:
    """The flags of a recipe, and the value of each; see `read`.

    Raises:
        UserError: as `read`.
    """
    return read(recipe).values


def flags(recipe: dict[str, Any]) -> list[str]:
    """A recipe as a command line; ``false`` and ``null`` leave a flag out."""
    line = []
    for name, value in recipe.items():
        if not Setting(value, "").is_given:
            continue
        line.append(f"--{str(name).replace('_', '-')}")
        if value is not True:
            line.extend(str(one) for one in (value if isinstance(value, list) else [value]))
    return line


def named_recipe(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The recipe that a command line names, and the rest of it.

    Raises:
        UserError: it is named twice, or not at all after ``--recipe``.
    """
    rest, recipe = [], None
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--recipe":
            rest.append(word)
            continue
        if recipe is not None:
            raise UserError("--recipe is given twice: name one recipe")
        recipe = value if equals else next(words, None)
        if recipe is None:
            raise UserError(f"--recipe needs a name: use one of {', '.join(names())}")
    return recipe, rest


def expand_recipe(argv: list[str]) -> list[str]:
    """Replace ``--recipe NAME`` by the recipe's flags, put first so that the others win.

    Raises:
        UserError: the recipe is named twice, missing or broken.
    """
    name, rest = named_recipe(argv)
    if name is None:
        return rest
    given = _flags_of(rest)
    displaced = _displaced(given)
    values = load(name)
    check_beside(name, values, given)
    kept = {key: value for key, value in values.items() if key not in displaced}
    return [*flags(kept), *rest]


def _split(recipe: str) -> tuple[str, list[str]]:
    """The recipe's own name, and what stands behind it; a file's name may hold a plus itself."""
    found = re.fullmatch(r"(.*\.ya?ml|[^+]*)(?:\+(.*))?", recipe)
    if found is None:
        raise UserError(f"the recipe {recipe!r} is no name: use one of {', '.join(names())}")
    return found[1], [] if found[2] is None else found[2].split("+")


def _choose(
    name: str,
    chain: list[RecipeFile],
    chosen: list[str],
    layouts: dict[str, Variant],
    precisions: dict[str, Variant],
) -> tuple[str | None, str | None]:
    """The layout and the precision: those that were asked for, else the nearest file's default."""
    found: dict[str, str | None] = {}
    for part in chosen:
        kind = "layout" if part in layouts else "precision"
        if part not in layouts and part not in precisions:
            both = [*layouts, *precisions]
            advice = nearest(part, both) if both else "leave it out, as it has none"
            raise UserError(f"the recipe {name} has no layout or precision {part!r}: {advice}")
        if kind in found:
            raise UserError(f"the recipe {name} is given two {kind}s, {found[kind]} and {part}")
        found[kind] = part
    for kind, known in (("layout", layouts), ("precision", precisions)):
        default = next((d for f in reversed(chain) if (d := getattr(f, kind))), None)
        if default is not None and default not in known:
            raise UserError(
                f"the recipe {name} has {default!r} as its {kind} and none of that name: add it to "
                f"its {kind}s"
            )
        found.setdefault(kind, default)
    layout, precision = found["layout"], found["precision"]
    if layout is not None and precision is not None:
        only_on, gpu = precisions[precision].only_on, layout.partition("x")[-1]
        if only_on and gpu not in only_on:
            raise UserError(
                f"the precision {precision} needs {' or '.join(only_on)}, and the layout {layout} "
                f"is for {gpu}: choose another of either"
            )
    return layout, precision


def _merged(sections: Iterable[dict[str, Variant]]) -> dict[str, Variant]:
    merged: dict[str, Variant] = {}
    for section in sections:
        for name, part in section.items():
            before = merged.get(name, Variant({}))
            merged[name] = Variant(
                before.flags | part.flags,
                part.about or before.about,
                part.only_on or before.only_on,
            )
    return merged


def _with(
    settings: dict[str, tuple[Setting, ...]], given: dict[str, Any], source: str
) -> dict[str, tuple[Setting, ...]]:
    displaced = {key: None for key in _displaced(given) if key in settings}
    return settings | {
        key: (*settings.get(key, ()), Setting(value, source))
        for key, value in (displaced | given).items()
    }


def _flags_of(words: Sequence[str]) -> dict[str, Any]:
    """Flags of a command line as a recipe would have them; values stay text."""
    given: dict[str, list[str]] = {}
    current: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            current = given[name] = [value] if equals else []
        else:
            current.append(word)
    return {
        name: values[0] if len(values) == 1 else (values or True) for name, values in given.items()
    }


def _displaced(given: dict[str, Any]) -> set[str]:
    """Flags that stand for the same things as the given ones do, in other forms."""
    is_given = {key for key, value in given.items() if Setting(value, "").is_given}
    displaced: set[str] = set()
    for forms in _forms():
        named = [form for form in forms if form & is_given]
        if named:
            displaced.update(*(form for form in forms if form not in named))
    return displaced


@cache
def _forms() -> tuple[tuple[frozenset[str], ...], ...]:
    """Things that have several forms, each of one flag or more: one takes the others' place."""
    data = tuple(frozenset(flag.removeprefix("--") for flag in form) for form in DATA_FORMS)
    return (data, *(method.forms for method in methods() if method.forms))
