"""The population's figures in a file of their own: a page or a picture."""

from pathlib import Path
from typing import Any

from fedsim.errors import BadInput
from fedsim.report import population_figures
from fedsim.report.canvas import Panel, picture

HERE = Path(__file__).parent


def write_population(description: dict[str, Any], file: Path) -> Path:
    """Write the figures of a population (``fedsim.describe``) to a file that ends with .html or .png.

    Raises ``BadInput`` for another ending, for a file that exists already, and where it cannot be written.
    """
    suffix = file.suffix.lower()
    if suffix not in (".html", ".png"):
        raise BadInput(f"--out {file}: a plot can be written as .html or .png.")
    if file.exists():
        raise BadInput(f"--out {file}: it exists already; name another file.")
    panels = [population_figures.sizes_panel(description), population_figures.labels_panel(description)]
    shown = [panel for panel in panels if panel is not None]
    content = picture(shown) if suffix == ".png" else _page(description, shown).encode()
    try:
        file.write_bytes(content)
    except OSError as error:
        raise BadInput(f"--out {file}: it cannot be written: {error.strerror}.") from error
    return file


def _page(description: dict[str, Any], panels: list[Panel]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    template = environment.get_template("population.html.j2")
    return template.render(style=style, markup=Markup, description=description, panels=panels)
