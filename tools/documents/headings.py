"""The headings above a place in a document, and text that is divided by them."""

from tools.documents.text import one_line

_LONGEST = 200
_DEEPEST = 9


class Headings:
    """The headings that are open at a place."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    @property
    def path(self) -> tuple[str, ...]:
        """The outermost first."""
        return tuple(title for _, title in self._open)

    def enter(self, level: int, title: str) -> None:
        """A heading begins, which ends all of its level and below.

        Args:
            level: 1 is the outermost.
            title: what it says.
        """
        level = min(level, _DEEPEST)
        self._open = [each for each in self._open if each[0] < level]
        if line := one_line(title, _LONGEST):
            self._open.append((level, line))
