"""Hooks of mkdocs: pages from outside docs/, and links that lead there."""

import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
_INCLUDE = re.compile(r'--8<-- "(.+)"\n')
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")
_EXTERNAL = re.compile(r"[a-z]+:|#")


def included():
    """Finds the pages that stand for a file outside docs/: `{path of the file: path of the page}`."""
    pages = {path: _INCLUDE.fullmatch(path.read_text()) for path in DOCS.glob("*.md")}
    return {match[1]: f"docs/{path.name}" for path, match in pages.items() if match}


def on_page_markdown(markdown, page, **_):
    """Puts the file in place of a page's include line and makes links between files links between pages."""
    source = f"docs/{page.file.src_uri}"
    match = _INCLUDE.fullmatch(markdown)
    if match:
        markdown = (ROOT / match[1]).read_text()
    parts = _FENCED.split(markdown)
    parts[::2] = [relinked(part, match[1] if match else source, source) for part in parts[::2]]
    return "".join(parts)


def relinked(markdown, written_in, shown_in):
    """Rewrites relative links: paths are from the repository's top, a file outside the site is only named."""
    pages = included()

    def replaced(match):
        image, text, target = match.groups()
        if _EXTERNAL.match(target):
            return match[0]
        path, hash_, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), path))
        path = pages.get(path, path)
        if not path.startswith("docs/"):
            if not (ROOT / path).exists():
                raise FileNotFoundError(f"{written_in} links to {target}, which does not exist")
            return text
        return f"{image}[{text}]({posixpath.relpath(path, posixpath.dirname(shown_in))}{hash_}{anchor})"

    return _LINK.sub(replaced, markdown)
