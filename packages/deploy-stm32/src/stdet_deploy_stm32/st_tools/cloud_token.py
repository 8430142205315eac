"""The user's token of the Developer Cloud: from the environment, or a file that nobody else may read."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from stdet_deploy_stm32.st_tools.failures import ToolFailure

VARIABLE = "STEDGEAI_CLOUD_TOKEN"
FILE_VARIABLE = "STEDGEAI_CLOUD_TOKEN_FILE"
DEFAULT_FILE = "~/.config/stdet/stedgeai_token"
_HINT = (
    f"sign in to the ST Edge AI Developer Cloud and put the access token into {VARIABLE}, or into {DEFAULT_FILE} "
    "(chmod 600); this program never asks for a password"
)


@dataclass(frozen=True, repr=False)
class Token:
    """Attributes:
    access: sent with each request.
    refresh: gets a new one when that has expired; empty when there is none.
    file: where both come from; None for the environment.
    """

    access: str
    refresh: str = ""
    file: Path | None = None

    def renewed(self, access: str, refresh: str) -> Token:
        """With new secrets, which are kept in the file that the old ones came from, readable by its owner only."""
        new = Token(access, refresh or self.refresh, self.file)
        if new.file is not None:
            temporary = new.file.with_name(f".{new.file.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"access_token": new.access, "refresh_token": new.refresh}, file)
            temporary.replace(new.file)
        return new


def find_token() -> Token:
    """The token, as text or as JSON with `access_token` and maybe `refresh_token`.

    Raises:
        ToolFailure: `token` when there is none, or others may read its file.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return _token(given, None)
    file = Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE).expanduser()
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise ToolFailure("token", "there is no token for the Developer Cloud", _HINT) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ToolFailure("token", f"{file} can't be read: {error}", _HINT) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ToolFailure("token", f"others may read {file}", f"chmod 600 {file}")
    return _token(text, file)


def _token(text: str, file: Path | None) -> Token:
    where = str(file) if file is not None else VARIABLE
    access, refresh = text, ""
    if text.startswith("{"):
        try:
            found = json.loads(text)
            access, refresh = str(found["access_token"]), str(found.get("refresh_token") or "")
        except (ValueError, KeyError) as error:
            raise ToolFailure("token", f"{where} is JSON without an access_token", _HINT) from error
    if not access or not access.isascii() or not access.isprintable() or " " in access:
        raise ToolFailure("token", f"{where} holds no token: it has to be one word", _HINT)
    return Token(access, refresh, file)
