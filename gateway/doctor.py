"""`doctor`: what is wrong with this installation, and how to mend it. `models`: what the backends have."""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress

from gateway.backends import make_backends
from gateway.secret import load_secret, secret_file
from gateway.settings import Settings, SettingsError
from gateway.store.database import StoreError, migrate
from models.backend import Health, ModelError

LOW_DISK = 1024**3
"""Bytes of free disk below which the doctor warns."""


async def examine(settings: Settings) -> bool:
    """Prints a line for each check, with a hint below each that failed; True where nothing hinders serving."""
    checks: list[tuple[str, Callable[[], Health]]] = [
        ("data folder", lambda: _folder(settings)),
        ("secret", lambda: _secret(settings)),
        ("database", lambda: _database(settings)),
        ("port", lambda: _port(settings)),
    ]
    results = [(name, await asyncio.to_thread(check)) for name, check in checks]
    for name, health in results:
        _print(name, health)
    answering = 0
    for backend in make_backends(settings):
        health = await backend.check()
        answering += health.ok
        _print(f"backend {backend.name}", health)
        await backend.close()
    if not answering:
        print("No backend answers: there would be nothing to ask.")
    return bool(answering) and all(health.ok for _, health in results)


async def list_models(settings: Settings) -> None:
    """Prints the models of each backend."""
    for backend in make_backends(settings):
        try:
            for info in await backend.models():
                able = " ".join(sorted(info.capabilities)) if info.capabilities is not None else "?"
                print(f"{info.id}  {backend.name}  context {info.context or '?'}  [{able}]")
        except ModelError as error:
            print(f"# {backend.name}: {error.message}")
        finally:
            await backend.close()


def _print(name: str, health: Health) -> None:
    print(f"{'ok  ' if health.ok else 'FAIL'}  {name}: {health.detail}")
    if not health.ok and health.hint:
        print(f"      {health.hint}")


def _folder(settings: Settings) -> Health:
    folder = settings.data_directory
    parent = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        return Health(False, f"{folder} cannot be written", f"chown or chmod {parent}, or set DATA_DIRECTORY")
    free = shutil.disk_usage(parent).free
    if free < LOW_DISK:
        return Health(False, f"only {free // 1024**2} MiB are free", "make room, or set DATA_DIRECTORY to a larger disk")
    return Health(True, f"{folder}, {free // 1024**3} GiB free")


def _secret(settings: Settings) -> Health:
    try:
        load_secret(settings)
    except SettingsError as error:
        return Health(False, str(error), "set SECRET_KEY (openssl rand -hex 32), or remove the file to have one made")
    if settings.secret_key is not None:
        return Health(True, "from the environment")
    file = secret_file(settings)
    if (mode := file.stat().st_mode & 0o777) & 0o077:
        return Health(False, f"{file} can be read by others (mode {mode:o})", f"chmod 600 {file}")
    return Health(True, str(file))


def _database(settings: Settings) -> Health:
    try:
        migrate(settings.database)
    except StoreError as error:
        return Health(False, str(error), "check DATABASE_URL, the folder's permissions and the disk")
    return Health(True, "up to date")


def _port(settings: Settings) -> Health:
    where = f"{settings.server_host}:{settings.server_port}"
    family = socket.AF_INET6 if ":" in settings.server_host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.server_host, settings.server_port))
        except OSError as error:
            holder = "Drover is running there" if _is_drover(settings) else "something else has it"
            hint = "nothing to do if that is the server you mean; else stop it, or set SERVER_PORT"
            return Health(holder.startswith("Drover"), f"{where}: {os.strerror(error.errno or 0)}; {holder}", hint)
    return Health(True, f"{where} is free")


def _is_drover(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server_host, settings.server_host)
    with suppress(OSError), socket.create_connection((host, settings.server_port), timeout=2) as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        return b"req_" in connection.recv(2048)
    return False
