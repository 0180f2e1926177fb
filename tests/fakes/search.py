"""Answers in the words of the search providers."""

from typing import Any


def results(*hits: tuple[str, str, str]) -> dict[str, Any]:
    """What Tavily and SearXNG answer, from titles, URLs and passages."""
    found = [
        {"title": title, "url": url, "content": content, "score": 0.9, "engine": "x"} for title, url, content in hits
    ]
    return {"query": "q", "results": found, "response_time": 0.1}


def brave(*hits: tuple[str, str, str]) -> dict[str, Any]:
    """What Brave Search answers."""
    found = [{"title": title, "url": url, "description": passage, "type": "x"} for title, url, passage in hits]
    return {"type": "search", "web": {"type": "search", "results": found}}
