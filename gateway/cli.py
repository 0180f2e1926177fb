"""The commands of server.py."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from auth.errors import AuthError, NotFound
from gateway.settings import Settings, SettingsError, load

# What costs a second to import is imported by the commands that need it.
if TYPE_CHECKING:
    from auth.users import Role, User
    from gateway.access import Access


def main() -> int:
    """Runs the command line; gives the exit code: 0, 1 where something failed, 2 where it was asked wrongly."""
    try:
        code: int | None = cli.main(prog_name="server.py", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as `head`, has what it wanted. What is left in the buffer must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except AuthError as error:
        print(error.message, file=sys.stderr)
        return 1


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(context: click.Context) -> None:
    """Drover: one OpenAI-compatible endpoint over local language models. Without a command it serves."""
    if context.invoked_subcommand is None:
        context.invoke(serve)


@cli.command()
def serve() -> None:
    """Serve until stopped."""
    # Until the server listens to signals itself there is nothing to tidy up, and an interrupted import says odd things.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    settings, secret = _settings()
    from gateway.serve import StartError
    from gateway.serve import serve as run

    try:
        with _store_errors():
            run(settings, secret)
    except StartError as error:
        raise click.ClickException(str(error)) from error


@cli.group()
def users() -> None:
    """Manage users."""


@users.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(["user", "admin"]), default="user", show_default=True)
@click.option("--no-password", is_flag=True, help="The user can come with an API key only.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
def users_add(name: str, role: "Role", no_password: bool, password_stdin: bool) -> None:
    """Add a user, or give one that exists a new password."""
    password = None if no_password else _password(password_stdin)

    async def work(access: "Access") -> None:
        try:
            user = await access.users.by_name(name)
        except NotFound:
            user = await access.users.add(name, password, role)
            print(f"added {user.name} ({user.role}), id {user.id}")
        else:
            if password is None:
                raise click.ClickException(f"There is a user {user.name} already.")
            await access.users.update(user.id, password=password)
            print(f"{user.name} exists; the password was changed and all logins ended")

    _with_access(work)


@users.command("list")
def users_list() -> None:
    """List all users."""

    async def work(access: "Access") -> None:
        offset = 0
        while page := await access.users.page(100, offset):
            for user in page:
                print(f"{user.id}  {user.role:5}  {'disabled' if user.disabled else 'enabled ':8}  {user.name}")
            offset += len(page)

    _with_access(work)


@users.command("disable")
@click.argument("name")
@click.option("--enable", is_flag=True, help="Let the user in again.")
def users_disable(name: str, enable: bool) -> None:
    """Shut a user out, at once: tokens and API keys too."""

    async def work(access: "Access") -> None:
        user = await access.users.by_name(name)
        await access.users.update(user.id, disabled=not enable)
        print(f"{user.name} is {'enabled' if enable else 'disabled'}")

    _with_access(work)


@cli.group()
def keys() -> None:
    """Manage API keys."""


@keys.command("create")
@click.argument("user")
@click.argument("name", default="cli")
@click.option("--scope", "scopes", multiple=True, help="Limit the key to this scope; may be repeated.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires; default: never.")
def keys_create(user: str, name: str, scopes: tuple[str, ...], days: float | None) -> None:
    """Create an API key for USER, called NAME. It is printed once."""

    async def work(access: "Access") -> None:
        owner = await access.users.by_name(user)
        expires_at = time.time() + days * 86400 if days else None
        key, secret = await access.keys.create(owner.id, name, scopes, expires_at)
        print(f"{key.id} for {owner.name}; shown only now:\n{secret}")

    _with_access(work)


@keys.command("list")
@click.argument("user", required=False)
def keys_list(user: str | None) -> None:
    """List the API keys of USER, or of all users."""

    async def work(access: "Access") -> None:
        owners = [await access.users.by_name(user)] if user else await _all_users(access)
        for owner in owners:
            for key in await access.keys.of_user(owner.id):
                state = "revoked" if key.revoked_at else "expired" if _past(key.expires_at) else "valid"
                scopes = " ".join(sorted(key.scopes)) or "all"
                print(f"{key.id}  {key.prefix}…  {state:7}  {owner.name}  {key.name}  [{scopes}]")

    _with_access(work)


@keys.command("revoke")
@click.argument("key_id")
def keys_revoke(key_id: str) -> None:
    """Revoke an API key, at once."""

    async def work(access: "Access") -> None:
        await access.keys.revoke(key_id)
        print(f"{key_id} is revoked")

    _with_access(work)


@cli.command()
def models() -> None:
    """List the models of all backends."""
    settings = load()
    from gateway.doctor import list_models

    if not asyncio.run(list_models(settings)):
        raise click.exceptions.Exit(1)


@cli.command()
def doctor() -> None:
    """Check backends, data folder, database, port and secret, and say how to mend what is wrong."""
    settings = load()
    from gateway.doctor import examine

    if not asyncio.run(examine(settings)):
        raise click.exceptions.Exit(1)


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from gateway.app import api_handlers
    from gateway.openapi import document

    sys.stdout.buffer.write(document(api_handlers(load())) + b"\n")


def _settings() -> tuple[Settings, str]:
    """The settings, with a database that can be one, and the secret."""
    from gateway.secret import load_secret
    from gateway.store.database import StoreError, database_url, open_engine

    settings = load()
    try:
        open_engine(database_url(settings.database))
    except StoreError as error:
        raise SettingsError(f"DATABASE_URL: {error}") from error
    return settings, load_secret(settings)


def _with_access(work: Callable[["Access"], Awaitable[None]]) -> None:
    """Runs some work on the users and keys of the database, brought up to date."""
    settings, secret = _settings()
    from gateway.access import Access
    from gateway.store.database import Database, migrate

    async def run() -> None:
        database = Database(settings.database)
        access = Access(settings, secret, database)
        try:
            await work(access)
        finally:
            await database.close()

    with _store_errors():
        migrate(settings.database)
        asyncio.run(run())


@contextmanager
def _store_errors() -> Iterator[None]:
    """Tells of a database that cannot be used in one line."""
    from gateway.store.database import StoreError

    try:
        yield
    except StoreError as error:
        raise click.ClickException(str(error)) from error


async def _all_users(access: "Access") -> "list[User]":
    found: list[User] = []
    while page := await access.users.page(100, len(found)):
        found += page
    return found


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


def _past(moment: float | None) -> bool:
    return moment is not None and moment <= time.time()
