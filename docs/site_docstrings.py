"""An extension of griffe, which reads docstrings for the API reference."""

import re

import griffe

_DOCTEST = re.compile(r"^( *)>>> .*?(?=\n *\n|\Z)", re.DOTALL | re.MULTILINE)


def _fenced(match):
    return f"{match[1]}```pycon\n{match[0]}\n{match[1]}```"


class FencedDoctests(griffe.Extension):
    """Shows examples as code: to Markdown a bare `>>>` is a quotation."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = _DOCTEST.sub(_fenced, obj.docstring.value)
