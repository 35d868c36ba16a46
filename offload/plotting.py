"""Figures drawn by matplotlib, an optional package: opened, checked and written in one place."""

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from .errors import OptionError

SUFFIXES = (".png", ".svg", ".html")


def check_plot(path: Path) -> None:
    """To be called before anything is measured.

    Raises:
        OptionError: another kind of file, a folder that is not there, or no matplotlib.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"--plot {path}: the name must end in {', '.join(SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        raise OptionError(f"--plot {path}: there is no folder {path.resolve().parent}")
    _matplotlib()


def new_figure(rows: int, columns: int, title: str) -> tuple[Any, Any]:
    """A figure and its axes, (rows, columns)."""
    figure = _matplotlib().Figure(figsize=(7 * columns, 4.6 * rows), layout="constrained")
    figure.suptitle(title, parse_math=False)  # a model's name may hold any sign
    return figure, figure.subplots(rows, columns, squeeze=False)


def write_plot(figure: Any, path: Path) -> None:
    """Writes the figure; an HTML page holds it within itself and opens without a network.

    Raises:
        OptionError: the file cannot be written.
    """
    kind = path.suffix.lower()[1:]
    buffer = BytesIO()
    figure.savefig(buffer, format="svg" if kind == "svg" else "png", dpi=120)
    content = buffer.getvalue()
    if kind == "html":
        image = b64encode(content).decode()
        title = escape(figure.get_suptitle())
        content = (
            f'<!doctype html><meta charset="utf-8"><title>{title}</title>\n'
            f'<img alt="{title}" style="max-width:100%" src="data:image/png;base64,{image}">\n'
        ).encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OptionError(f"--plot {path}: {error.strerror}") from None


def _matplotlib() -> Any:
    try:
        from matplotlib import figure
    except ImportError:
        raise OptionError("--plot needs matplotlib: pip install 'moe-offload[plot]'") from None
    return figure
