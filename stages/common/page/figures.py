"""What the report and the sweep's page share: the style, and pictures inside the page."""

import base64
from collections.abc import Callable
from pathlib import Path

STYLE_FOLDER = Path(__file__).parent  # where templates find style.css


def figure_embedder(pictures: dict[str, bytes]) -> Callable[[str, str], str]:
    """The template's `figure(name, caption)`: a picture inside the page."""
    from markupsafe import Markup

    form = Markup(
        '<figure><img alt="{0}" src="data:image/png;base64,{1}"><figcaption>{0}</figcaption></figure>'
    )
    return lambda name, caption: form.format(caption, base64.b64encode(pictures[name]).decode())
