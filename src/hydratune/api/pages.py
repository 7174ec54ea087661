"""Show a page in a notebook; elsewhere, say where it is."""

import html
from pathlib import Path

from hydratune.console import console, relative_path


def show_page(file: Path, height: int) -> None:
    """Show an HTML file in the cell of a notebook, ``height`` pixels high.

    The page is part of the notebook's output. Without a notebook its path is printed.
    """
    if not _is_in_notebook():
        console.print(f"page: {relative_path(file)}", soft_wrap=True, markup=False)
        return
    from IPython.display import HTML, display

    content = html.escape(file.read_text("utf-8"), quote=True)
    style = f"width: 100%; height: {height}px; border: 1px solid #8884"
    display(HTML(f'<iframe srcdoc="{content}" style="{style}"></iframe>'))


def _is_in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")
