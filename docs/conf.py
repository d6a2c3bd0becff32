"""How the site is built: `make docs`. Every chapter is executed; a warning is an error; nothing is fetched."""

import os
import sys
from importlib.metadata import distribution
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# The notebooks' kernels inherit these: one look for all figures, one thread a kernel, no network for data.
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
os.environ["PROBGEN_DATA"] = str(HERE / "_build" / "no-data")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from probgen.version import __version__  # noqa: E402

project, author, release, version = "probgen", "The probgen authors", __version__, __version__
copyright = "the probgen authors, MIT licence"  # the name that Sphinx reads

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "api_pages",
    "docstrings",
    "equations",
    "command_reference",
]
exclude_patterns = ["_build", "_ext"]
numfig = True  # equations are numbered by chapter
numfig_secnum_depth = 1

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
smartquotes_action = "qe"  # an option is --option, not –option
nb_execution_mode = "force"
nb_execution_timeout = 300  # seconds for one cell
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_render_markdown_format = "myst"  # tables that a cell makes
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

autodoc_default_options = {"ignore-module-all": True}  # a name is documented where it is defined
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"probgen {release}"
# Mathematics without a network: the files of MathJax come as a Python package.
html_static_path = ["_static", str(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static"))]
mathjax_path = "mathjax/tex-chtml.js"
html_css_files = ["site.css"]
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
html_copy_source = False
html_show_sphinx = False
