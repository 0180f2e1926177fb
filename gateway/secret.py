"""The server's secret: given by the environment, or made at first start and kept in the data folder."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.settings import Settings, SettingsError, check_secret


def load_secret(settings: Settings) -> str:
    """The secret, made where there is none yet. Of several processes at once, one makes it.

    Raises:
        SettingsError: the data folder cannot be used, or the file holds something too short.
    """
    folder, file = settings.data_directory, secret_file(settings)
    prepare_folder(folder)
    try:
        with _locked(folder):
            if (secret := find_secret(settings)) is None:
                secret = secrets.token_hex(32)
                write_private(file, secret + "\n")
    except OSError as error:
        raise SettingsError(f"DATA_DIRECTORY: {error.filename or file}: {error.strerror}") from error
    return secret


def find_secret(settings: Settings) -> str | None:
    """The secret if there is one; makes nothing.

    Raises:
        SettingsError: the file cannot be read, or holds something too short.
    """
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    file = secret_file(settings)
    try:
        secret = file.read_text(encoding="ascii").strip()
        check_secret(secret)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise SettingsError(f"SECRET_KEY: {file}: must be ASCII") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"SECRET_KEY: {file}: {reason}") from error
    return secret


def secret_file(settings: Settings) -> Path:
    """Where a secret that was made is kept."""
    return settings.data_directory / "secret.key"


def prepare_folder(folder: Path) -> None:
    """Makes the data folder, readable by nobody else.

    Raises:
        SettingsError: it cannot be made, or is no folder.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIRECTORY: {folder}: {error.strerror}") from error


def write_private(file: Path, text: str) -> None:
    """Writes a file that nobody else may read, whole or not at all."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, as far as they ask too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
