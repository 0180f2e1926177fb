"""Agents: strategies that turn a question into a stream of events.

from agents import AGENTS, Context
async for event in AGENTS["simple"](Context(backend, request)): ...
"""

from agents.context import Agent, Context
from agents.simple import simple

AGENTS: dict[str, Agent] = {"simple": simple}
"""Every agent by its name: the prefix of a model id, `agent_type`, or `X-Agent-Type`."""

__all__ = ["AGENTS", "Agent", "Context"]
