"""Charts become files: what a cell has drawn with matplotlib and not saved itself is saved as plot_<cell>_<n>.png."""

import os
import sys
from itertools import count
from typing import Any


class Charts:
    """The figures of a session."""

    def __init__(self) -> None:
        self._cell = 0
        self._number = count(1)
        self._saved: set[int] = set()
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            self._watch(pyplot)

    def begin(self, cell: int) -> None:
        """A new cell."""
        self._cell = cell
        self._number = count(1)
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
            pyplot.close("all")  # those of a cell that has failed
        self._saved.clear()

    def save_all(self) -> None:
        """Saves and closes the open figures; what the cell has saved itself is only closed."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            if id(figure) not in self._saved and figure.axes:
                figure.savefig(self._free_name(), bbox_inches="tight")
        pyplot.close("all")
        self._saved.clear()

    def _free_name(self) -> str:
        """One that no file has: numbers begin anew in a new process, files stay."""
        return next(name for n in self._number if not os.path.lexists(name := f"plot_{self._cell}_{n}.png"))

    def _watch(self, pyplot: Any) -> None:
        save = pyplot.Figure.savefig

        def savefig(figure: Any, *args: Any, **kwargs: Any) -> Any:
            self._saved.add(id(figure))
            return save(figure, *args, **kwargs)

        pyplot.Figure.savefig = savefig
        pyplot.show = lambda *_, **__: self.save_all()
