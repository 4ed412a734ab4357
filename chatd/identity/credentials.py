"""The secrets that sign access tokens: given in the configuration, read from a file, or made at first start.

Blocking file access, for `__main__` and `server` before the loop serves anybody. `tokens` uses what comes out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.config import ConfigError, Secret, secret_fault

if TYPE_CHECKING:
    from chatd.config import AuthOptions

FILE_NAME: Final = "secret"


@dataclass(frozen=True, slots=True)
class SigningSecrets:
    """Tokens are signed with `current`; those signed with `previous` are still accepted, for rotation."""

    current: Secret
    previous: Secret | None = None


def signing_secrets(auth: AuthOptions, data_path: Path) -> SigningSecrets:
    """Return the secrets to run with, making `<data_path>/secret` (0600) if none is given and none is there yet.

    Makes the data folder too. Several processes that start at once get the same secret; one that dies on the way
    leaves no half secret behind. Raises `ConfigError`.
    """
    found = find_signing_secrets(auth, data_path)
    if found is None:
        _make_secret(data_path)
        found = find_signing_secrets(auth, data_path)
        assert found is not None
    return found


def check_signing_secrets(auth: AuthOptions, data_path: Path, *, is_shared: bool) -> SigningSecrets | None:
    """As `find_signing_secrets`; nodes that share a database have to be given one, for none knows what others make."""
    found = find_signing_secrets(auth, data_path)
    if found is None and is_shared:
        raise ConfigError(
            "[auth] secret: nodes that share a database sign with the same secret: give it in auth.secret or "
            "auth.secret_file, 32 bytes or more, like those of `openssl rand -base64 48`"
        )
    return found


def find_signing_secrets(auth: AuthOptions, data_path: Path) -> SigningSecrets | None:
    """Return the secrets that are there, or None if one is to be made at first start. Changes nothing.

    Raises `ConfigError` for a file that is too short, cannot be read, or is open to other users.
    """
    previous = auth.previous_secret or None
    if auth.secret:
        return SigningSecrets(auth.secret, previous)
    if auth.secret_file:
        path = Path(auth.secret_file)
        return SigningSecrets(_read(path, f"[auth] secret_file {path}"), previous)
    path = data_path / FILE_NAME
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: is open to other users: run `chmod 600 {path}`")
    return SigningSecrets(_read(path, str(path)), previous)


def _read(path: Path, place: str) -> Secret:
    try:
        secret = Secret(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: is not UTF-8 text") from error
    if fault := secret_fault(secret):
        raise ConfigError(f"{place}: {fault}")
    return secret


def _make_secret(folder: Path) -> None:
    """Write the whole secret under another name first: a link to it either appears complete or not at all."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{FILE_NAME}-", dir=folder)  # mode 0600
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # FileExistsError: another process was first, and its secret counts
        with contextlib.suppress(FileExistsError):
            os.link(draft, folder / FILE_NAME)
        _sync_folder(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: the secret cannot be written: {error.strerror}") from error
    finally:
        Path(draft).unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
