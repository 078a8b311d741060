"""Part of `make publish`: makes executed notebooks small, and takes out what needs a kernel."""

import base64
import io
import sys

import nbformat
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"


def with_palette(png, colours=128):
    """Return a base64 PNG with at most `colours` colours, or as it was where that is smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    smaller = base64.b64encode(buffer.getvalue()).decode() + "\n"
    return min(png, smaller, key=len)


def without_controls(outputs):
    """Return a cell's outputs without the widgets among them."""
    return [output for output in outputs if WIDGET not in output.get("data", {})]


def shrink(path):
    """Rewrite a notebook: pictures get a palette, widgets go."""
    notebook = nbformat.read(path, as_version=4)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code_cells:
        cell.outputs = without_controls(cell.outputs)
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = with_palette(data["image/png"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        shrink(path)
