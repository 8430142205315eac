"""Talking to one web service with a secret token: bounded in time, size and tries, and to no other host."""

from __future__ import annotations

import json
import logging
import queue
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import (
    BaseHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from stdet_deploy_stm32.st_tools.c_info import no_number
from stdet_deploy_stm32.st_tools.failures import ToolFailure

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
BUSY = (429, 503)
"""Answers that say that nothing was done; anything may be asked again then."""
BROKEN = (500, 502, 504)
MOST_WAIT_S = 60.0
"""Whatever Retry-After asks for."""
CHUNK_BYTES = 1 << 16


class NoRedirects(HTTPRedirectHandler):
    """Nobody is sent on: the next host would get the token."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Raises:
        ToolFailure: always.
        """
        raise ToolFailure(
            "service", f"{urlsplit(req.full_url).netloc} sends on to {urlsplit(newurl).netloc}, which isn't followed",
            "if you trust that host, set STEDGEAI_CLOUD_URL to it",
        )  # fmt: skip


@dataclass
class Service:
    """A web service.

    Attributes:
        address: `https://host`; `http` is for this computer only.
        timeout_s: for a request, from its first byte to its last.
        tries: of a request that may be repeated.
        pause_s: before the second try, doubled for each further one.
        most_bytes: of an answer.
    """

    address: str
    timeout_s: float = 60.0
    tries: int = 4
    pause_s: float = 1.0
    most_bytes: int = 256 << 20
    _token: str = field(default="", repr=False)
    _secrets: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ToolFailure("service", f"{self.address} is no https address", "the token goes over TLS only")
        self.address = self.address.rstrip("/")
        self._opener = self._make_opener()

    @staticmethod
    def _make_opener() -> OpenerDirector:
        handlers: list[BaseHandler] = [
            ProxyHandler(),
            HTTPSHandler(context=ssl.create_default_context()),
            NoRedirects(),
        ]
        return build_opener(*handlers)

    def get(self, path: str) -> Any:
        """The JSON at a path.

        Raises:
            ToolFailure: `token` for 401 and 403, `timeout`, `damaged_report` for what is no JSON, `service` for the rest.
        """
        return self._json(path, None, {})

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """The JSON that answers JSON. Raises as `get` does."""
        return self._json(path, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def post_form(self, path: str, fields: Mapping[str, str]) -> Any:
        """The JSON that answers a form. Raises as `get` does."""
        return self._json(path, urlencode(fields).encode(), {"Content-Type": "application/x-www-form-urlencoded"})

    def upload(self, path: str, name: str, content: bytes) -> Any:
        """The JSON that answers a file. Raises as `get` does.

        Args:
            name: letters, digits, `.`, `-` and `_`.
        """
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        return self._json(path, body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def authorise(self, token: str, *secrets: str) -> None:
        """From now on requests carry this token, or none when it is empty; neither it nor `secrets` come into a message."""
        self._token = token
        self._secrets |= {token, *secrets} - {""}

    def hide(self, text: str) -> str:
        """A text of somebody else's without our secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _json(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        answer = self._ask(path, body, headers)
        try:
            return json.loads(answer, parse_constant=no_number)
        except (ValueError, RecursionError) as error:
            told = f"{self._where(path)} answers {len(answer)} bytes that are no JSON: {self.hide(str(error))}"
            hint = "try again later; a proxy may have answered in its place"
            raise ToolFailure("damaged_report", told, hint) from error

    def _ask(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        for attempt in range(1, self.tries + 1):
            try:
                return self._once(path, body, headers)
            except _TryAgain as again:
                if attempt == self.tries or not again.may_repeat(posts=body is not None):
                    raise again.failure from again.__cause__
                wait = min(MOST_WAIT_S, max(again.wait_s, self.pause_s * 2 ** (attempt - 1)))
                log.info("%s; next try in %.0f s", again.failure.message, wait)
                time.sleep(wait)
        raise AssertionError("tries is at least 1")

    def _once(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        request = Request(self.address + path, body, {"User-Agent": "stdet", "Accept": "application/json", **headers})
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        where = self._where(path)
        try:
            return _within(self.timeout_s, lambda: self._read(request))
        except HTTPError as error:
            raise self._refused(where, error) from None
        except TimeoutError as error:
            failure = ToolFailure(
                "timeout", f"{where} didn't answer in full within {self.timeout_s:g} s", "try again later"
            )
            raise _TryAgain(failure) from error
        except (OSError, HTTPException, ValueError) as error:
            reason = self.hide(str(getattr(error, "reason", None) or error or type(error).__name__))
            hint = "check the connection, and HTTPS_PROXY where there is a proxy"
            raise _TryAgain(ToolFailure("service", f"{where} can't be reached: {reason}", hint)) from error

    def _read(self, request: Request) -> bytes:
        with self._opener.open(request, timeout=self.timeout_s) as answer:
            parts, size = [], 0
            while part := answer.read(CHUNK_BYTES):
                size += len(part)
                if size > self.most_bytes:
                    raise ToolFailure(
                        "service",
                        f"{self._where(request.selector)} answers more than {self.most_bytes} bytes",
                        "tell ST",
                    )
                parts.append(part)
            expected = answer.headers.get("Content-Length")
            if expected is not None and size != int(expected):
                raise HTTPException(f"the answer broke off after {size} of {expected} bytes")
            return b"".join(parts)

    def _refused(self, where: str, error: HTTPError) -> Exception:
        try:
            with error:
                said = self.hide(" ".join(_within(5.0, lambda: error.read(500)).decode(errors="replace").split()))
        except (OSError, HTTPException):  # the code says enough
            said = ""
        told = f"{where} answers {error.code} {error.reason}{': ' if said else ''}{said}"
        if error.code in (401, 403):
            return ToolFailure("token", told, "the token has expired or is another service's: get a new one")
        failure = ToolFailure(
            "service", told, "try again later" if error.code >= 429 else "is STEDGEAI_CLOUD_URL right?"
        )
        if error.code in (*BUSY, *BROKEN):
            return _TryAgain(failure, error.code in BUSY, _seconds(error.headers.get("Retry-After")))
        return failure

    def _where(self, path: str) -> str:
        return urlsplit(self.address).netloc + path


class _TryAgain(Exception):
    """A request that failed, and may do better next time."""

    def __init__(self, failure: ToolFailure, untouched: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(failure.message)
        self.failure, self.untouched, self.wait_s = failure, untouched, wait_s

    def may_repeat(self, posts: bool) -> bool:
        """A job that may have begun isn't begun again."""
        return self.untouched or not posts


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:  # a date
        return 0.0


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that may hang in any way: a server that drips a byte a second keeps no socket time-out busy.

    Raises:
        TimeoutError: it took longer; what it does then goes on in a thread that ends with the program.
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:  # raised again where it is awaited
            done.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
