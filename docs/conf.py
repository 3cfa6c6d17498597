"""How the book is built: `python -m sphinx -W --keep-going docs docs/_build`.  `-D draw_figures=0` draws no figures."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the directives in `book`; the sources that they show

project = "nanogen"
html_title = "nanogen: how deep generative models work"
extensions = ["myst_parser", "book"]
exclude_patterns = ["_build", "_figures", "figures", "examples"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
smartquotes = False

html_theme = "furo"
html_math_renderer = "mathml"
# Few phones have a font with growing brackets; ziamath has one.
fonts = importlib.util.find_spec("ziamath").submodule_search_locations[0] + "/fonts"
html_static_path = ["_static", fonts]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
