"""How the site is built: `make docs`."""

import fedstill

project = "FedStill"
version = release = fedstill.__version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["writers"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"FedStill {fedstill.__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
# Fonts of the reader's own machine: nothing is loaded from elsewhere.
html_theme_options: dict[str, list[str]] = {"footer_icons": [], "top_of_page_buttons": []}
