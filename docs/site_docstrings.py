"""An extension of griffe, which reads docstrings for the API reference."""

import re
import textwrap

import griffe

_DOCTEST = re.compile(r"^( *)>>> .*?(?=\n *\n|\Z)", re.DOTALL | re.MULTILINE)
_REFERENCES = re.compile(r"^References:\n((?: +.+\n?)+)", re.MULTILINE)
_NAME = re.compile(r"(?<![`\[])`(tfap\.[\w.]+)((?:\(\))?)`(?![`\]])")


def _fenced(match):
    return f"{match[1]}```pycon\n{match[0]}\n{match[1]}```"


class MarkdownDocstrings(griffe.Extension):
    """Turns what Markdown or griffe would show badly into Markdown.

    To Markdown a bare `>>>` is a quotation; griffe makes a folded box of references. Names such as
    `tfap.prune` become links where the site has an entry for them.
    """

    def on_instance(self, *, obj, **_):
        if not obj.docstring:
            return
        text = _NAME.sub(
            r'<autoref identifier="\1" optional><code>\1\2</code></autoref>', obj.docstring.value
        )
        text = re.sub(r"^Example:$", "**Example:**", text, flags=re.MULTILINE)
        text = _REFERENCES.sub(lambda match: "**References:**\n\n" + textwrap.dedent(match[1]), text)
        obj.docstring.value = _DOCTEST.sub(_fenced, text)
