"""The frame of every page: one self-contained HTML file that fetches nothing."""

from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("page.css")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src {}; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""What browsers let the page do: show what is in it, run its own scripts, fetch nothing."""


def document(
    title: str, introduction: str, body: str, end: str = "", sources: str = "'none'"
) -> str:
    """A page that fetches nothing.

    Args:
        title: plain text.
        introduction: HTML below the title.
        body: HTML.
        end: HTML behind it, such as scripts.
        sources: what the page's policy says of scripts.

    Returns:
        HTML.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY.format(sources)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{escape(title)}</h1>
{introduction}
</header>
<main id="content">
{body}
</main>
{end}
</body>
</html>
"""
