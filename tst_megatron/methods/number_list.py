"""Lists of numbers and ranges on a command line, such as ``2,4,8-12``."""

from tst_megatron.errors import UserError


def numbers_in(
    flag: str, text: str, none: str, write: str, least: int, most: int | None = None, one: str = ""
) -> tuple[int, ...]:
    """The numbers that a flag's value names, in order.

    Args:
        flag: with its dashes.
        text: its value.
        none: what a word that is wrong does not name, such as ``blocks``.
        write: what to write in its place.
        least: the smallest number.
        most: the largest; None where there is none.
        one: what a number is called before it, with a space behind; may be empty.

    Raises:
        UserError: it is no such list, or names a number twice.
    """
    found: list[int] = []
    for word in text.split(","):
        first, dash, last = word.partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = least - 1, least - 1
        if not least <= low <= high or (most is not None and high > most):
            raise UserError(f"{flag} {text}: {word or 'nothing'} names no {none}: write {write}")
        found += range(low, high + 1)
    twice = sorted({number for number in found if found.count(number) > 1})
    if twice:
        raise UserError(f"{flag} {text} names {one}{twice[0]} twice: leave one out")
    return tuple(sorted(found))
