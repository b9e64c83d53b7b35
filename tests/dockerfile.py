"""Read a Dockerfile in tests: its instructions, as a builder would run them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction; the lines of a continued one are joined as the builder joins them."""

    name: str
    text: str

    @property
    def options(self) -> list[dict[str, str]]:
        """``--mount=type=cache,target=/x`` as ``{"": "mount", "type": "cache", ...}``."""
        found = []
        for word in self.text.split():
            if not word.startswith("--"):
                break
            name, _, values = word.removeprefix("--").partition("=")
            pairs = [pair.partition("=") for pair in values.split(",")]
            found.append({"": name} | {key: value for key, _, value in pairs})
        return found

    @property
    def command(self) -> str:
        """The text without its options."""
        return re.sub(r"^(--\S+\s+)*", "", self.text)

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    image: str
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name == name]


def read(path: Path) -> list[Stage]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    # A continued line ends in a backslash, and is joined without the line's end.
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    instructions = [
        Instruction(name.upper(), text.strip())
        for name, _, text in (line.strip().partition(" ") for line in joined.splitlines())
        if name
    ]
    stages: list[Stage] = []
    for one in instructions:
        if one.name == "FROM":
            image, *rest = one.words
            stages.append(Stage(image, rest[1] if rest else "", ()))
        else:
            last = stages.pop()
            stages.append(Stage(last.image, last.name, (*last.instructions, one)))
    return stages
