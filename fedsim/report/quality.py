"""How good the final model is: every metric, the scores class by class, and pictures to judge it by."""

from typing import TYPE_CHECKING, Any

from fedsim.report import plain
from fedsim.report.canvas import Panel, draw
from fedsim.report.folds import deviation
from fedsim.report.inputs import Json, RunRecord
from fedsim.report.metrics import metric_text, metric_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 20
SCORES = ("precision", "recall", "f1")
UNDEFINED = "not defined"
GAP = 1
WHITE = 255
Pixels = list[list[list[int]]]


def metric_rows(summary: Json) -> list[tuple[str, str]]:
    """Every metric by its title, undefined and infinite ones named as such; of folds with the standard deviation."""
    metrics = (summary.get("metrics") or {}).items()
    return [
        (metric_title(name), f"{_value(name, value)} {deviation(summary, name)}".strip()) for name, value in metrics
    ]


def _value(name: str, value: object) -> str:
    size = plain.finite(value)
    if size is not None:
        return metric_text(name, size)
    return {"inf": "∞", "-inf": "-∞"}.get(str(value), UNDEFINED)


def class_rows(summary: Json) -> list[list[str]]:
    """Name, test records, precision, recall and F1 of the first classes."""
    rows = []
    for row in (summary.get("per_class") or [])[:MOST_CLASSES]:
        scores = [plain.finite(row.get(name)) for name in SCORES]
        shown = [UNDEFINED if score is None else plain.percent(score) for score in scores]
        rows.append([str(row.get("class")), plain.count(row.get("records")), *shown])
    return rows


def class_note(summary: Json) -> str:
    """What the table of classes means, and how many of them it leaves out."""
    total = len(summary.get("per_class") or [])
    left = f" The first {MOST_CLASSES} of {total:,} classes are shown." if total > MOST_CLASSES else ""
    return (
        "Precision: of the test records that the model puts into this class, the share that belong there. Recall: of "
        "the test records that belong there, the share that the model finds. F1 is the harmonic mean of the two. None "
        f"is defined for a class that does not occur.{left}"
    )


def client_columns(clients: Json) -> list[str]:
    """The heads of the table of clients."""
    measured = clients.get("metrics_by_client") or {}
    title = metric_title(str(measured.get("metric")))
    models = [f"{title}, global model", f"{title}, own model"] if _personal(measured) else [title]
    return ["Client", "Test records", *models]


def client_rows(clients: Json) -> list[list[str]]:
    """Name, test records and metric of every client (of its own model too), where the record has them."""
    measured = clients.get("metrics_by_client") or {}
    name = str(measured.get("metric"))
    return [
        [str(row.get("client")), plain.count(row.get("test_records")), *_client_values(name, row)]
        for row in measured.get("clients") or []
    ]


def _personal(measured: Json) -> bool:
    return any("personal" in row for row in measured.get("clients") or [])


def _client_values(name: str, row: Json) -> list[str]:
    values = [row.get("value"), *([row["personal"]] if "personal" in row else [])]
    return [_value(name, value) if row.get("test_records") else "not tested" for value in values]


def pictures_panel(record: RunRecord) -> Panel | None:
    """Test images above what the model makes of them."""
    above, below = (_images(record.pictures.get(name)) for name in ("inputs", "reconstructions"))
    if not above or len(above) != len(below) or {_size(image) for image in above + below} != {_size(above[0])}:
        return None
    pixels, height = _mosaic([above, below]), _size(above[0])[0]
    caption = (
        f"Above, {plain.plural(len(above), 'image')} of the held-out test records, which count as public; below, what "
        "the final model makes of each."
    )

    def paint(_: "Figure", axes: "Axes") -> None:
        axes.imshow(pixels, interpolation="none")
        axes.set_yticks([(height - 1) / 2, height + GAP + (height - 1) / 2], ["input", "output"])
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    return draw("pictures", "Test images and their reconstructions", caption, paint, 1.4)


def _images(values: Any) -> list[Pixels]:
    """The images as rows of pixels of three colours; none of them where one is not an image."""
    images = [[[_colours(pixel) for pixel in row] for row in image] for image in values or []]
    return images if all(len(pixel) == 3 for image in images for row in image for pixel in row) else []


def _colours(pixel: list[int]) -> list[int]:
    return pixel * 3 if len(pixel) == 1 else pixel


def _size(image: Pixels) -> tuple[int, int]:
    return len(image), len(image[0])


def _mosaic(rows: list[list[Pixels]]) -> Pixels:
    """The images beside and below each other, with white in between."""
    white = [WHITE] * 3
    lines: Pixels = []
    for images in rows:
        height, width = _size(images[0])
        lines += [[white] * (len(images) * (width + GAP) - GAP)] * (GAP if lines else 0)
        for y in range(height):
            parts = [[*image[y], *[white] * GAP] for image in images]
            lines.append([pixel for part in parts for pixel in part][: len(parts) * (width + GAP) - GAP])
    return lines
