"""Part of `make publish`: pictures inside executed notebooks get a palette of 128 colours, so that each file stays small,
and controls, which need a running notebook, are left out."""

import base64
import io
import sys

import nbformat
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"


def with_palette(png, colours=128):
    """A base64 PNG with at most that many colours; as it was where that is smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return min(png, base64.b64encode(buffer.getvalue()).decode() + "\n", key=len)


def shrink(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = with_palette(output["data"]["image/png"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        shrink(path)
