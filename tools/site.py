"""A hook of mkdocs: what pages link to outside docs/ is on the site too.

The one idea: on the site docs/ is the top, and what pages link to elsewhere in the repository lies
below it under its own path. So a link is the same on the site, in a clone and on a forge.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
_DOCS = "docs/"
# Of a link: its target, without the heading.
_TARGET = re.compile(r"(?<=\]\()(?![a-z]+:)[^)#\s]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what those pages link to."""
    wanted = list(files.documentation_pages())
    while wanted:
        file = wanted.pop()
        for target in _TARGET.findall(file.content_string):
            path = _on_site(_linked(_in_repository(file), target))
            there = REPOSITORY / path
            if files.get_file_from_path(path) is None and there.is_file():
                added = File(path, str(REPOSITORY), config.site_dir, config.use_directory_urls)
                added.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(added)
                if added.is_documentation_page():
                    wanted.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead a page's links to where their targets are on the site."""
    folder = PurePosixPath(page.file.src_uri).parent.as_posix()

    def led(link: re.Match[str]) -> str:
        target = _on_site(_linked(_in_repository(page.file), link[0]))
        return os.path.relpath(target, folder)

    return _TARGET.sub(led, markdown)


def _in_repository(file: File) -> str:
    """A file's path in the repository."""
    source = file.abs_src_path or ""
    return Path(source).resolve().relative_to(REPOSITORY).as_posix()


def _linked(page: str, target: str) -> str:
    """The path in the repository that a page's link leads to."""
    return os.path.normpath(os.path.join(os.path.dirname(page), target))  # noqa: PTH118, PTH120


def _on_site(path: str) -> str:
    return path.removeprefix(_DOCS)
