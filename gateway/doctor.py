"""`doctor`: what is wrong with this installation, and how to mend it. `models`: what the backends have."""

import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from gateway.backends import make_backends
from gateway.parts import Probe
from gateway.secret import find_secret, secret_file
from gateway.serve import StartError, bind
from gateway.settings import Settings, SettingsError
from gateway.store.database import HEAD, Database, StoreError, database_url, explain, read_version
from gateway.toolset import make_sandbox
from models.backend import Health, ModelError
from models.catalog import Catalog

LOW_DISK = 256 * 1024**2
"""Bytes of free disk below which the doctor warns."""


async def examine(settings: Settings) -> bool:
    """Prints a line for each check, with a hint below each that failed; True where there is nothing to mend.

    It only looks: no folder, secret or database is made.
    """
    checks = [
        ("data folder", _folder(settings)),
        ("secret", _secret(settings)),
        ("database", await _database(settings)),
        ("port", _port(settings)),
    ]
    for name, health in checks:
        _print(name, health)
    name, health = "python tool", await _python_tool(settings)
    _print(name, health)
    return await _examine_backends(settings) and all(health.ok for _, health in [*checks, (name, health)])


async def list_models(settings: Settings) -> bool:
    """Prints the models of each backend; False where there are none."""
    found = 0
    for backend in make_backends(settings):
        try:
            for info in await backend.models():
                able = " ".join(sorted(info.capabilities)) if info.capabilities is not None else "?"
                print(f"{info.id}  {backend.name}  context {info.context or '?'}  [{able}]")
                found += 1
        except ModelError as error:
            print(f"{backend.name}: {error.message}", file=sys.stderr)
        finally:
            await backend.close()
    return found > 0


async def _examine_backends(settings: Settings) -> bool:
    """One backend must answer. Others may be missing where nobody asked for them: Ollama is looked for by default."""
    catalog = Catalog(make_backends(settings))
    try:
        found = await Probe(catalog, patience=10).health()
    finally:
        await catalog.close()
    asked_for = {"backends", "ollama_host"} & settings.model_fields_set
    well = True
    for name, health in found.items():
        optional = name == "ollama" and not health.ok and not asked_for
        _print(f"backend {name}", Health(health.ok and not health.hint, health.detail, health.hint), optional=optional)
        well &= optional or (health.ok and not health.hint)
    if not any(health.ok for health in found.values()):
        print("No backend answers: there would be nothing to ask.")
        return False
    return well


def _print(name: str, health: Health, *, optional: bool = False) -> None:
    mark = "ok" if health.ok else "none" if optional else "FAIL"
    print(f"{mark:4}  {name}: {health.detail}")
    if not health.ok and health.hint:
        print(f"      {health.hint}")


def _folder(settings: Settings) -> Health:
    folder = settings.data_directory
    nearest = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not nearest.is_dir():
        return Health(False, f"{nearest} is no folder", "move it away, or set DATA_DIRECTORY")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Health(False, f"{folder} cannot be written", f"chown or chmod {nearest}, or set DATA_DIRECTORY")
    free = shutil.disk_usage(nearest).free
    if free < LOW_DISK:
        hint = "make room, or set DATA_DIRECTORY to a larger disk"
        return Health(False, f"{folder}: only {free // 1024**2} MiB are free", hint)
    there = "" if folder.exists() else "is made at the first start, "
    return Health(True, f"{folder}, {there}{free / 1024**3:.1f} GiB free")


def _secret(settings: Settings) -> Health:
    file = secret_file(settings)
    try:
        secret = find_secret(settings)
    except SettingsError as error:
        return Health(False, str(error), f"set SECRET_KEY, or remove {file}: a new secret ends all logins and API keys")
    if settings.secret_key is not None:
        return Health(True, "from the environment")
    if secret is None and (database := _database_file(settings)) is not None and database.exists():
        hint = "bring it back from a backup; with a new secret all logins and API keys are void"
        return Health(False, f"{file} is missing, but there is a database", hint)
    if secret is None:
        return Health(True, f"{file} is made at the first start")
    if (mode := file.stat().st_mode & 0o777) & 0o077:
        return Health(False, f"{file} can be read by others (mode {mode:o})", f"chmod 600 {file}")
    return Health(True, str(file))


async def _database(settings: Settings) -> Health:
    hint = "check DATABASE_URL, the folder's permissions and the disk"
    try:
        url = database_url(settings.database)
        if (file := _database_file(settings)) is not None and not file.exists():
            return Health(True, f"{file} is made at the first start")
        version = await read_version(url)
        await _try_to_write(settings)
    except StoreError as error:
        return Health(False, str(error), hint)
    except (OSError, DBAPIError) as error:
        return Health(False, explain(url, error), hint)
    if version == HEAD:
        return Health(True, "up to date")
    if version is not None and version > HEAD:
        return Health(False, f"written by a newer version of Drover ({version})", "update Drover, or restore a backup")
    return Health(True, "is brought up to date at the next start")


async def _try_to_write(settings: Settings) -> None:
    """Opens a transaction that may write, and writes nothing."""
    database = Database(settings.database)
    try:
        async with database.exclusive():
            pass
    finally:
        await database.close()


def _database_file(settings: Settings) -> Path | None:
    """The file of a SQLite database; None for another, or one that cannot be one."""
    with suppress(StoreError):
        url = database_url(settings.database)
        if url.get_backend_name() == "sqlite" and url.database:
            return Path(url.database)
    return None


async def _python_tool(settings: Settings) -> Health:
    """Whether code of models can be confined here, by trying what it must not be able to do."""
    sandbox = make_sandbox(settings)
    try:
        await sandbox.start()
        if (reason := sandbox.unavailable()) is not None:
            return Health(False, f"not offered: {reason}", "see Security in README.md for what the host must have")
        missing = f"; without {', '.join(sandbox.missing)}" if sandbox.missing else ""
        return Health(True, f"isolation {sandbox.level} ({', '.join(sandbox.layers)}){missing}")
    finally:
        await sandbox.close()


def _port(settings: Settings) -> Health:
    where = f"{settings.server_host}:{settings.server_port}"
    try:
        bind(settings).close()
    except SettingsError as error:
        return Health(False, str(error), "set SERVER_HOST to an address of this machine, or to 0.0.0.0 for all")
    except StartError as error:
        if _is_drover(settings):
            return Health(True, f"{where}: Drover is running there")
        return Health(False, str(error), "it is not Drover; see what it is: ss -ltnp")
    return Health(True, f"{where} is free")


def _is_drover(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server_host, settings.server_host)
    with suppress(OSError), socket.create_connection((host, settings.server_port), timeout=2) as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        return b"x-request-id: req_" in connection.recv(2048)
    return False
