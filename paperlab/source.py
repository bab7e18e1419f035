"""Showing the reference implementation in a notebook, and knowing whether there is a notebook."""

import ast
import inspect
import sys
import textwrap

LONGEST = 45


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, which can show HTML and widgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def show_source(thing) -> None:
    """Show the source of a function or class without its docstring: at most 45 lines, the length one can read at once.

    Raises ``ValueError`` if it is longer; show its parts instead.
    """
    source = source_without_docstring(thing)
    lines = source.count("\n") + 1
    if lines > LONGEST:
        raise ValueError(f"thing={thing.__name__} has {lines} lines; show pieces of at most {LONGEST}")
    if in_notebook():
        from IPython.display import Code, display

        display(Code(source, language="python"))
    else:
        print(source)


def source_without_docstring(thing) -> str:
    """The source text of a function or class, dedented, comments kept, its own docstring removed."""
    lines = textwrap.dedent(inspect.getsource(thing)).rstrip().splitlines()
    node = ast.parse("\n".join(lines)).body[0]
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        del lines[first.lineno - 1 : first.end_lineno]
    return "\n".join(lines)
