"""How Sphinx builds the documentation: ``make docs``."""

import importlib.metadata
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "src")]

import generate  # noqa: E402  # it lies beside this file

generate.write()

project = "hydratune"
copyright = "the hydratune authors, Apache-2.0"
release = importlib.metadata.version("hydratune")

extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True
smartquotes = False  # it would make one dash of --help

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links to headings, PAGE.md#heading, are checked
myst_links_external_new_tab = False

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

highlight_language = "none"  # of a block that names no language
pygments_style = "friendly"
pygments_dark_style = "monokai"
html_theme = "furo"
html_title = "hydratune"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
