"""The web as tools see it: search it, read its pages. What comes from there is hostile.

from tools.web.web import Web
web = Web(Tavily(key))
result = await Toolbox([web]).run("web_fetch", {"url": "https://example.org"}, Session(folder))
"""
