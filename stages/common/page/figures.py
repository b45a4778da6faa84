"""Pictures embedded in a page, for the report and the sweep's page; style.css of both is beside this file."""

import base64
from collections.abc import Callable
from pathlib import Path

STYLE_FOLDER = Path(__file__).parent  # where templates find style.css


def figure_embedder(pictures: dict[str, bytes]) -> Callable[[str, str], str]:
    """Return the template function `figure(name, caption)`, which embeds a picture as a data URI."""
    from markupsafe import Markup

    html = Markup(
        '<figure><img alt="{0}" src="data:image/png;base64,{1}"><figcaption>{0}</figcaption></figure>'
    )
    return lambda name, caption: html.format(caption, base64.b64encode(pictures[name]).decode())
