"""Settings: one frozen value, read once from the environment, then `.env`, then these defaults."""

import ipaddress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.duration import seconds

ROOT = Path(__file__).resolve().parent.parent
BUILTIN_MODEL = ROOT / "models" / "builtin" / "tiny.gguf"

PLACEHOLDERS = (
    "changeme",
    "change-me",
    "change_me",
    "your-secret",
    "your_secret",
    "secret-key",
    "placeholder",
    "example",
)

List = Annotated[tuple[str, ...], NoDecode]
"""Several values in one variable, separated by commas."""


class SettingsError(Exception):
    """One line for each wrong value."""


class Settings(BaseSettings):
    """Everything that can be set. Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    server_host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    server_port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    data_directory: Path = Path("data")
    """Folder of everything that Drover keeps: database, secret, admin's key."""
    database_url: str = ""
    """`sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`; empty: `drover.db` in the data folder."""
    secret_key: SecretStr | None = None
    """Signs tokens and peppers API keys: 32 characters or more. Unset: one is made and kept in the data folder."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged."""
    log_format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""
    shutdown_grace: float = Field(5.0, ge=0, le=300)
    """Seconds that open answers get to finish after SIGTERM."""

    registration: Literal["closed", "open"] = "closed"
    """Whether people may register themselves; the first user always may."""
    access_token_lifetime: int = Field(3600, ge=60, le=86400)
    """Seconds until a login's access token expires."""
    refresh_token_lifetime: int = Field(30 * 86400, ge=3600, le=365 * 86400)
    """Seconds until a refresh token expires."""
    jwt_issuer: str = "drover"
    """`iss` that a token must carry."""
    jwt_audience: str = "drover"
    """`aud` that a token must carry."""
    jwks: str = ""
    """File or URL with an identity provider's public keys: then its tokens (RS256, ES256) are taken too."""
    jwks_issuer: str = ""
    """`iss` of the identity provider's tokens."""
    jwks_audience: str = ""
    """`aud` of the identity provider's tokens."""
    openwebui_jwt_secret: SecretStr | None = None
    """Open WebUI's FORWARD_USER_INFO_HEADER_JWT_SECRET: its header names the user behind a key with scope `service`."""

    cors_origins: List = ()
    """Origins whose pages may call from a browser, by commas; empty: none."""
    cors_credentials: bool = False
    """Whether such pages may send cookies; refused together with `*`."""
    trusted_proxies: List = ()
    """Addresses of reverse proxies whose X-Forwarded-For and -Proto headers are believed."""
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """Largest request body in bytes."""

    rate_limit_requests: int = Field(0, ge=0)
    """Requests a minute for each API key or user; 0: no limit."""
    rate_limit_tokens: int = Field(0, ge=0)
    """Tokens a minute for each API key or user, prompt and answer together; 0: no limit."""
    rate_limit_streams: int = Field(0, ge=0)
    """Answers under way at once for each API key or user; 0: no limit."""
    rate_limit_storage: str = "async+memory://"
    """Where counts are kept: `async+memory://`, or `async+redis://host:port/0` for several servers."""

    backends: List = ("llama_cpp", "ollama", "openai")
    """The backends to use, in this order where two have the same model: `llama_cpp`, `ollama`, `openai`, `scripted`."""
    default_model: str = ""
    """Model for requests that name only an agent; empty: the first one found, the built-in one last."""
    backend_timeout: float = Field(600.0, gt=0, le=86400)
    """Seconds that a backend may stay silent, before its first byte or between two."""
    connect_timeout: float = Field(3.0, gt=0, le=60)
    """Seconds until a connection to a backend must stand."""
    ollama_host: List = ("http://127.0.0.1:11434",)
    """Ollama servers, by commas: one pool."""
    ollama_num_ctx: bool = False
    """Whether requests may set `num_ctx` (each value makes Ollama load the model anew)."""
    upstream_base_url: List = ()
    """OpenAI-compatible servers with their `/v1`, by commas: one pool."""
    upstream_api_key: SecretStr | None = None
    """Bearer token for those servers."""
    llamacpp_model_path: List = ()
    """GGUF files, by commas."""
    llamacpp_models_directory: Path = Path("data/models")
    """Folder that is searched for GGUF files."""
    llamacpp_n_ctx: int = Field(8192, ge=0)
    """Context of a model in tokens, at most what it was trained for; 0: all that it was trained for."""
    llamacpp_n_gpu_layers: int = Field(-1, ge=-1)
    """Layers on the GPU, where llama.cpp was built for one; -1: all."""
    llamacpp_threads: int = Field(0, ge=0)
    """Threads of an engine; 0: one for each physical core."""
    llamacpp_mmap: bool = True
    """Map the file into memory rather than read it."""
    llamacpp_mlock: bool = False
    """Keep the model from being swapped out."""
    llamacpp_parallel: int = Field(8, ge=1, le=256)
    """Requests that a model works on at once."""
    llamacpp_cache: int = Field(0, ge=0)
    """Tokens that a model remembers for all its requests together, at least the context; 0: just that."""
    llamacpp_image_pixels: int = Field(25_000_000, ge=1, le=100_000_000)
    """Pixels that a picture may have; decoding takes up to 25 bytes for each."""
    llamacpp_queue: int = Field(32, ge=1)
    """Requests that may wait for a model besides; one more gets 429."""
    llamacpp_keep_alive: str = "5m"
    """How long a model stays loaded without work: seconds, or such as `90s` and `2h`; below zero: for ever."""
    llamacpp_max_loaded: int = Field(3, ge=1)
    """Models that may be loaded at once; for one more, the least recently used goes."""
    builtin_model: bool = True
    """Whether the built-in demonstration model is offered."""

    session_retention_days: float = Field(30.0, ge=0)
    """Days after its last use that a session, its conversation and its files are kept; 0: for ever."""
    upload_max_bytes: int = Field(100 * 1024**2, ge=1)
    """Largest file that may be uploaded."""
    session_max_bytes: int = Field(500 * 1024**2, ge=1)
    """Bytes that the files of a session may have together."""
    user_max_bytes: int = Field(5 * 1024**3, ge=1)
    """Bytes that the files of a user may have together."""

    tools: List = ()
    """The tools that are offered, by commas; `server.*` for all of an MCP server. Empty: all."""
    tool_timeout: float = Field(60.0, gt=0, le=86400)
    """Seconds that a call of a tool may take, where the tool has no limit of its own."""
    tool_max_output: int = Field(20_000, ge=1000)
    """Characters of a tool's output; from a longer one the middle is left out."""
    agent_max_calls: int = Field(64, ge=2)
    """Calls of models that one answer of an agent may take."""
    agent_max_tool_calls: int = Field(64, ge=0)
    """Calls of tools that one answer of an agent may take."""
    agent_max_tokens: int = Field(500_000, ge=1000)
    """Tokens, of prompts too, that one answer of an agent may take."""
    agent_max_seconds: float = Field(900.0, gt=1)
    """Seconds that one answer of an agent may take; 15 % of them are kept for the answer itself."""
    react_max_iterations: int = Field(6, ge=1, le=20)
    """Steps of a ReAct loop, where the request does not say."""
    auto_max_mode: Literal["simple", "react", "plan", "debate"] = "debate"
    """The most costly agent that `auto` may choose."""
    python_tool_isolation: Literal["auto", "full", "kernel", "none"] = "auto"
    """How well the Python tool must be confined: all that the host can, at least `kernel`; `full`; or, on a loopback
    address only, `none`: code that models write then runs with your rights."""
    python_tool_timeout: float = Field(30.0, gt=0, le=3600)
    """Seconds that a call of the Python tool may take."""
    python_tool_memory: int = Field(1024**3, ge=64 * 1024**2)
    """Bytes of memory that a session's Python may use."""
    python_tool_cpu: int = Field(600, ge=1)
    """Seconds of CPU that a session's Python may use in all."""
    python_tool_file_bytes: int = Field(50 * 1024**2, ge=1024)
    """Largest file that a session's Python may write."""
    python_tool_files: int = Field(500, ge=1)
    """Files that a session's folder may hold."""
    python_tool_sessions: int = Field(16, ge=1, le=1000)
    """Sessions whose Python may be live at once; for one more, the least recently used loses its variables."""
    python_tool_idle: str = "15m"
    """How long a session's Python lives without a call: seconds, or such as `90s` and `2h`."""
    python_tool_preload: List = ("numpy", "pandas", "matplotlib")
    """Packages that are loaded ahead, by commas."""
    web_search_provider: Literal["", "tavily", "searxng", "brave"] = ""
    """Who searches the web; empty: nobody."""
    tavily_api_key: SecretStr | None = None
    """Tavily's API key."""
    brave_api_key: SecretStr | None = None
    """Brave Search's API key."""
    searxng_url: str = ""
    """Address of a SearXNG server whose JSON format is enabled."""
    web_private_hosts: List = ()
    """Hosts that `web_fetch` may read although their addresses are private, by commas."""
    vision_model: str = ""
    """The model that looks at pictures for others; empty: the first one that can."""
    embedding_model: str = ""
    """The model that makes the vectors of knowledge; empty: search is by words alone."""
    knowledge_chunk_tokens: int = Field(400, ge=50, le=4000)
    """Tokens of a chunk, about."""
    knowledge_chunk_overlap: int = Field(60, ge=0, le=1000)
    """Of these, how many are repeated from the chunk before."""
    knowledge_rerank: bool = False
    """Whether the chat model puts what was found into a better order."""
    mcp_servers: Path | None = None
    """JSON file that names MCP servers, in the form that Claude Desktop and others use: `{"mcpServers": {…}}`."""

    status_public: bool = True
    """Whether /metrics and /health/status, which tell of models and traffic but not of people, need no credentials."""
    advertise_modes: bool = False
    """Whether /v1/models lists each agent's variant of each model too."""
    reasoning_field: Literal["reasoning_content", "reasoning", "think_tags", "none"] = "reasoning_content"
    """Where a model's thoughts go in an answer."""
    keep_alive_seconds: float = Field(10.0, gt=0)
    """Seconds of silence in a stream after which a keep-alive comment is sent."""
    run_timeout: float = Field(3600.0, gt=0)
    """Seconds that a run may take."""
    run_retention_days: float = Field(30.0, ge=0)
    """Days that runs and their events are kept; 0: for ever."""

    @field_validator(
        "cors_origins",
        "trusted_proxies",
        "backends",
        "ollama_host",
        "upstream_base_url",
        "llamacpp_model_path",
        "tools",
        "python_tool_preload",
        "web_private_hosts",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value

    @field_validator("backends")
    @classmethod
    def _known_backends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = ("llama_cpp", "ollama", "openai", "scripted")
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"unknown backend {unknown[0]!r}; known are {', '.join(known)}")
        return value

    @field_validator("secret_key", "openwebui_jwt_secret")
    @classmethod
    def _strong_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_secret(value.get_secret_value())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if origin != "*" and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path):
                raise ValueError(f"{origin!r} is not an origin such as https://chat.example.org")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ipaddress.ip_network(address, strict=False)
        return value

    @field_validator("upstream_base_url")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(is_url(url) for url in value):
            raise ValueError("each must be a URL such as http://127.0.0.1:8080/v1")
        return value

    @field_validator("ollama_host")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # What Ollama itself takes: also a host alone, a port alone, or both.
        named = (f"host{host}" if host.startswith(":") else host for host in value)
        if not all(is_url(host if "://" in host else f"http://{host}") for host in named):
            raise ValueError("each must be like http://127.0.0.1:11434 or 127.0.0.1:11434")
        return value

    @field_validator("jwks")
    @classmethod
    def _keys_are_there(cls, value: str) -> str:
        if value and not is_url(value) and not Path(value).is_file():
            raise ValueError("is neither a file nor an http(s) URL")
        return value

    @field_validator("rate_limit_storage")
    @classmethod
    def _storage(cls, value: str) -> str:
        scheme = value.partition("://")[0]
        if scheme not in ("async+memory", "async+redis", "async+rediss"):
            raise ValueError("must be async+memory:// or async+redis://host:port/0")
        if scheme != "async+memory" and find_spec("redis") is None:
            raise ValueError("the package redis is not installed: uv sync --extra redis")
        return value

    @field_validator("searxng_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not is_url(value):
            raise ValueError("must be a URL such as http://127.0.0.1:8888")
        return value

    @field_validator("mcp_servers")
    @classmethod
    def _file_is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.expanduser().is_file():
            raise ValueError("is not a file")
        return value and value.expanduser()

    @field_validator("upstream_api_key", "tavily_api_key", "brave_api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all("!" <= character <= "~" for character in value.get_secret_value()):
            raise ValueError("has spaces or characters that no HTTP header can carry")
        return value

    @field_validator("llamacpp_keep_alive", "python_tool_idle")
    @classmethod
    def _duration(cls, value: str) -> str:
        seconds(value)
        return value

    @field_validator("data_directory", "llamacpp_models_directory")
    @classmethod
    def _at_home(cls, value: Path) -> Path:
        return value.expanduser()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if "*" in self.cors_origins and self.cors_credentials:
            raise ValueError(
                "CORS_ORIGINS=* with CORS_CREDENTIALS would let any page act as its visitor; name the origins"
            )
        if self.python_tool_isolation == "none" and not is_loopback(self.server_host):
            raise ValueError(
                "PYTHON_TOOL_ISOLATION=none: models run code with your rights; SERVER_HOST must be a loopback address"
            )
        if missing := [name for name in _NEEDS[self.web_search_provider] if not getattr(self, name)]:
            raise ValueError(f"WEB_SEARCH_PROVIDER={self.web_search_provider} needs {missing[0].upper()}")
        if self.jwks and not (self.jwks_issuer and self.jwks_audience):
            raise ValueError("JWKS needs JWKS_ISSUER and JWKS_AUDIENCE")
        if self.jwks and self.jwks_issuer == self.jwt_issuer:
            raise ValueError(
                "JWKS_ISSUER must differ from JWT_ISSUER: the issuer tells whose keys a token is checked with"
            )
        return self

    @property
    def database(self) -> str:
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_directory.resolve() / 'drover.db'}"


def check_secret(secret: str) -> None:
    """Refuses a secret that is short or looks copied from an example.

    Raises:
        ValueError: why it is no good; never the secret itself.
    """
    if len(secret) < 32:
        raise ValueError("must have 32 characters or more (try: openssl rand -hex 32)")
    if len(set(secret)) < 10 or any(word in secret.lower() for word in PLACEHOLDERS):
        raise ValueError("looks like a placeholder; make a random one (try: openssl rand -hex 32)")


_NEEDS = {"": (), "tavily": ("tavily_api_key",), "brave": ("brave_api_key",), "searxng": ("searxng_url",)}
"""What each search provider needs to be set."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_url(text: str) -> bool:
    """Whether it is an http(s) URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def load(**values: Any) -> Settings:
    """The settings, with `values` before everything else.

    Raises:
        SettingsError: a line for each value that is wrong, with its variable's name, not its value: it may be secret.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_lines(error))) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f".env cannot be read: {reason}") from None


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        name = str(item["loc"][0]).upper() if item["loc"] else ""
        text = item["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {text}" if name else text)
    return lines
