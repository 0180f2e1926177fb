"""The language layer of the Python tool: code compiled by RestrictedPython, on built-ins and modules of our choice.

It is the first layer, and what it is for are readable errors and a small surface: code that does the wrong thing by
mistake is told so in words, and code that means harm has less to begin with. It is no boundary, and cannot be one next
to numpy, with which a program can write to any address of its own process. The boundary is the kernel's.

What it covers: no special attributes or names but those that ordinary code uses; no attribute of others that begins
with an underscore; no frames; no module that is not on a list, by whatever way; no text that becomes code; files by
open() in the working folder only.
What it does not cover: memory (numpy.lib, ctypes through buffers), paths that libraries open, time, and size.
"""

from tools.python.policy.cell import Cell, compile_cell
from tools.python.policy.hardening import harden
from tools.python.policy.session import make_globals
from tools.python.policy.transform import PolicyError

__all__ = ["Cell", "PolicyError", "compile_cell", "harden", "make_globals"]
