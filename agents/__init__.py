"""Agents: strategies that turn a question into a stream of events.

from agents import AGENTS, Context
async for event in AGENTS["simple"](Context(backend, request)): ...
"""

from agents.auto import auto
from agents.context import Agent, Context
from agents.debate import debate
from agents.plan import plan
from agents.react import react
from agents.simple import simple

AGENTS: dict[str, Agent] = {"simple": simple, "react": react, "plan": plan, "debate": debate, "auto": auto}
"""Every agent by its name: the prefix of a model id, `agent_type`, or `X-Agent-Type`."""

ALIASES = {"plan_execute": "plan"}
"""Other names for agents."""

__all__ = ["AGENTS", "ALIASES", "Agent", "Context"]
