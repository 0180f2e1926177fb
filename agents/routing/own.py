"""Which of a message's words are the user's own: not what is quoted, pasted or code, and no talk about our modes.

A page or a mail that someone pastes may say "use debate mode!" or "compare all views"; that is no wish of the user's.
What is not covered: a pasted text without any mark, shorter than `_LONG`, is taken for the user's words.
"""

import re
from itertools import islice

from msgspec import Struct

from agents.routing.words import WORD, folded, groups_in

_LONG = 1500
"""Characters; of a longer text only the first and the last paragraph are looked at: what is wanted stands there."""
_PARAGRAPH = 600
"""Characters of each of the two that are read."""

_QUOTED = re.compile(r'"[^"]*"|“[^“”]*”|„[^„“”]*[“”]|«[^«»]*»|»[^«»]*«|「[^「」]*」|`[^`]*`|^>.*$', re.MULTILINE)
"""Each sort excludes its own opening mark from what is inside: unclosed ones would cost a look at all the rest each."""
_OPENING_TAG = re.compile(r"[<\[]\w[^<>\[\]]{0,80}[>\]]")
_CLOSING_TAG = re.compile(r"[<\[]/\w[^<>\[\]]{0,80}[>\]]")
_COLON = re.compile(r":(?=\s)")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
_CLAUSE = re.compile(r"[^.,;:!?\n]*[.,;:!?\n]*")

_MODES = r"(?:simple|react|plan(?:ning|ungs)?|plan[_-]execute|debat\w*?|auto)"
_KINDS = r"(?:mode|modus|modo|agent|agente|agent[_-]?type|router|routing)"
_MODE_TALK = re.compile(
    rf"\b{_MODES}[\s_-]{{0,3}}{_KINDS}\b"  # debate mode, Debattenmodus
    rf"|\b{_KINDS}[\s=-]{{0,3}}(?:(?:to|the|is|a|auf|de)\s)?{_MODES}\b"  # mode débat, agent_type=debate
    rf"|\b(?:use|enable|activate|switch\sto|route\sto|pick|select|nutze|utilise|usa)\s(?:the\s)?{_MODES}\s*(?:[.,;:!?\n]|$)"
    r"|(?:^|\s)(?:react|plan|debate)/\w"  # debate/qwen3
    rf"|^\s*/{_MODES}\b"
)


class Own(Struct, frozen=True):
    """What a message says in its user's own words."""

    text: str
    material: int
    """Characters of what is quoted or pasted."""
    code: bool
    """Whether there is a block of code."""


def own_words(message: str) -> Own:
    """Parts a message into the user's words and what they are about."""
    pieces = message.split("```")
    text = "\n".join(pieces[::2])  # after an unclosed fence all is code
    text = _QUOTED.sub(" … ", _untagged(text if len(text) <= 2 * _LONG else _ends(text)))
    text = _without_pasted(text)
    text = _ends(text) if len(text) > _LONG else text
    material = max(0, len(message) - len(text))
    return Own(_without_mode_talk(text).strip(), material, len(pieces) > 1)


def _untagged(text: str) -> str:
    """Without what stands between the first opening and the last closing tag."""
    opening = _OPENING_TAG.search(text)
    closings = list(_CLOSING_TAG.finditer(text)) if opening else []
    if not opening or not closings or closings[-1].start() < opening.start():
        return text
    return f"{text[: opening.start()]} … {text[closings[-1].end() :]}"


def _without_pasted(text: str) -> str:
    """Without what follows on an order to work on a text, such as `Translate into French: …`."""
    for colon in islice(_COLON.finditer(text), 3):
        if "rewriting" in groups_in(WORD.findall(folded(text[: colon.start()]))):
            return text[: colon.end()]
    return text


def _ends(text: str) -> str:
    """The beginning of the first paragraph and the end of the last one."""
    paragraphs = [paragraph for paragraph in _PARAGRAPHS.split(text) if paragraph.strip()]
    if len(paragraphs) < 2:
        return f"{text[:_PARAGRAPH]}\n{text[-_PARAGRAPH:]}"
    return f"{paragraphs[0][:_PARAGRAPH]}\n\n{paragraphs[-1][-_PARAGRAPH:]}"


def _without_mode_talk(text: str) -> str:
    """Without the clauses that speak of our modes."""
    if not _MODE_TALK.search(folded(text)):
        return text
    return "".join(clause for clause in _CLAUSE.findall(text) if not _MODE_TALK.search(folded(clause)))
