"""Lets the API reference render docstrings as they read in the sources."""

import re
from typing import Any

import griffe

REPLACEMENTS = (
    (r"^Example:$", "Examples:"),  # the section whose doctests griffe shows as code
    (r"^Reference:\n((?:    .*\n?)+)", r"**Reference:**\n\1"),  # a paragraph, and no box
    (r"<(\w+\*?, [^<>\n]*)>", r"⟨\1⟩"),  # an inner product is no HTML tag
    (r"(?<=\w)\*(?=[\s,.;:)|'⟩])", r"\\*"),  # nor is w* the beginning of italics
)


class ReadableDocstrings(griffe.Extension):
    """Change docstrings when an object is loaded; the sources stay as they are."""

    def on_object(self, *, obj: griffe.Object, **options: Any) -> None:
        """Change the docstring of one module, class, function or attribute."""
        del options
        if obj.docstring:
            for pattern, new in REPLACEMENTS:
                obj.docstring.value = re.sub(pattern, new, obj.docstring.value, flags=re.MULTILINE)
