"""Routing: which mode serves a request well at the least cost, how sure that is, and why.

choice = route(Situation("What's the weather in Oslo right now?", server_tools=("web_search",)))
if not choice.sure:
    messages, output = question(situation, choice)
    choice = decide(choice, answer_of_a_model)

Rules come first, then a small logistic model whose weights are in `weights.json`; `benchmarks/router.py` trains it and
tells how good it is. No I/O here but the reading of that file.
"""

from agents.routing.features import Situation
from agents.routing.question import ANSWER_TOKENS, decide, question
from agents.routing.router import MODES, Choice, Mode, route

__all__ = ["ANSWER_TOKENS", "MODES", "Choice", "Mode", "Situation", "decide", "question", "route"]
