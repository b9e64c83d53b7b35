"""``gpu-report.json``: where the checks ran, and what became of each.

The one idea: the file is whole after every check, and a check's result replaces its own earlier one
alone, so that a session may be cut off, or split over several calls on several machines. Every
result names the machine that it is of.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gpu.figures import FAILED, NOT_RUN, PASSED, SKIPPED
from tst_megatron.files import replace_when_whole

SCHEMA_VERSION = 1
STATES = (PASSED, FAILED, SKIPPED, NOT_RUN)


class ReportError(Exception):
    """A file is no report that can be read here; the message is a sentence."""


@dataclass
class Report:
    """All results so far.

    Attributes:
        environments: machines with what they had installed, in the order of their first result.
        checks: results in the order of the checks' numbers; ``environment`` is an index.
    """

    environments: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)

    def add(self, check: dict[str, Any], environment: dict[str, Any]) -> None:
        """Put a result in the place of an earlier one of the same check."""
        if environment not in self.environments:
            self.environments.append(environment)
        result = check | {"environment": self.environments.index(environment)}
        others = [one for one in self.checks if one["name"] != check["name"]]
        self.checks = sorted([*others, result], key=lambda one: one["number"])

    def result(self, name: str) -> dict[str, Any] | None:
        """Of a check, if there is one."""
        return next((one for one in self.checks if one["name"] == name), None)

    def number_in(self, state: str) -> int:
        """How many checks are in a state."""
        return sum(one["state"] == state for one in self.checks)

    @property
    def on_gpus(self) -> "Report":
        """What of it ran on a GPU, and not as a dry run."""
        own = [one for one in self.checks if not self.environments[one["environment"]]["dry_run"]]
        return Report(self.environments, own)

    def write(self, path: Path) -> None:
        """Write the file, whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        used = sorted({one["environment"] for one in self.checks})
        content = {
            "schema_version": SCHEMA_VERSION,
            "environments": [self.environments[number] for number in used],
            "checks": [
                one | {"environment": used.index(one["environment"])} for one in self.checks
            ],
        }
        with replace_when_whole(path) as file:
            file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_report(path: Path) -> Report:
    """Read one.

    Raises:
        ReportError: it is missing, no report, or of another schema.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ReportError(f"{path} is no report: it is not JSON") from None
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise ReportError(f"{path} is no report of schema {SCHEMA_VERSION}")
    return Report(content["environments"], content["checks"])
