"""The Developer Cloud as a loopback server plays it: every state, every fault, and a token that is seen nowhere."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stdet.errors import ConfigError
from stdet.interfaces.deploy import BenchReport
from stdet_deploy_stm32.bench.cloud import bench_cloud
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.sections import Stedgeai
from stdet_deploy_stm32.st_tools.cloud import STATES, Cloud
from stdet_deploy_stm32.st_tools.cloud_token import Token, find_token
from stdet_deploy_stm32.st_tools.failures import ToolFailure
from stdet_deploy_stm32.st_tools.web_service import Service

SECRET = "s3cret-t0ken"
VERSIONS, BOARDS = "/assets/versions.json", "/api/benchmark/boards"
MODELS, BEGIN, JOB = "/api/file/files/models", "/api/benchmark/benchmark/stm32n6570-dk", "/api/benchmark/benchmark/77"
Reply = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Played:
    """Attributes:
    asked: method, path and body of each request, and whether it had the token.
    faults: by path, what is done instead of an answer, once each; the last one for ever.
    states: that the job goes through.
    """

    address: str = ""
    asked: list[tuple[str, str, bytes, bool]] = field(default_factory=list)
    faults: dict[str, list[Reply]] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    token: str = SECRET

    def paths(self, method: str = "") -> list[str]:
        return [path for how, path, _, _ in self.asked if method in ("", how)]


def answer(status: int, body: Any = b"", **headers: str) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return reply


def silence(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Never so long without a byte that a socket would mind."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def half(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"state": "do')
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def played(c_info: Callable[..., dict[str, Any]], texts: Callable[..., str]) -> Iterator[Played]:
    stage = Played()
    info = c_info(version="4.0.1-20581")
    info["graphs"][0]["exec_time"] = {"duration_ms": 21.5, "cycles": 17200000, "device": "STM32N6570-DK"}
    result = {"info": info, "report": texts("validate", "4.0.1-20581", True), "graph": {}, "echo": SECRET}
    stage.states = [{"state": s} for s in STATES[:-1]] + [{"state": "done", "benchmark": result, "memoryMapping": {}}]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = self.headers.get("Authorization") == f"Bearer {stage.token}"
            stage.asked.append((self.command, self.path, body, known))
            faults = stage.faults.get(self.path)
            try:
                if faults:
                    (faults.pop(0) if len(faults) > 1 else faults[0])(self)
                elif self.path != VERSIONS and "/login/" not in self.path and not known:
                    answer(401, {"error": "no"})(self)
                else:
                    self.play(body)
            except OSError:  # the client has had enough
                pass

        do_GET = do_POST = do_CONNECT = handle_any  # noqa: N815

        def play(self, body: bytes) -> None:
            if self.path == MODELS and self.command == "POST":
                stage.models.append(body.split(b'filename="')[1].split(b'"')[0].decode())
            job = stage.states[0]
            if self.path == JOB and len(stage.states) > 1:
                job = stage.states.pop(0)
            replies: dict[tuple[str, str], Any] = {
                ("GET", VERSIONS): [
                    {"version": "10.0.0", "platform": {"stm32": "2.0.0"}},
                    {"version": "4.0.1", "isLatest": True, "platform": {"stm32": "4.0.1"}},
                ],
                ("GET", BOARDS): {"STM32N6570-DK": {"boardCount": 3}, "STM32H747I-DISCO": {}, "NUCLEO-F401RE": {}},
                ("GET", MODELS): [{"name": name} for name in stage.models],
                ("POST", MODELS): {"upload": True},
                ("POST", BEGIN): {"benchmarkId": 77, "model": "m", "args": {}},
                ("GET", JOB): job,
            }
            found = replies.get((self.command, self.path))
            (answer(200, found) if found is not None else answer(404))(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stage.address = f"http://127.0.0.1:{server.server_port}"
    yield stage
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bench(saved: Path, tmp_path: Path, played: Played) -> Callable[..., BenchReport]:
    """The farm's report on the miniature detector; everything that waits waits for moments only."""

    def run(board: str = "stm32n6570-dk", token: Token | None = None, pool: Path | None = None, progress: Any = None,
            **keys: Any) -> BenchReport:  # fmt: skip
        service = Service(played.address, timeout_s=0.6, tries=3, pause_s=0.01, most_bytes=100000)
        section = Stedgeai(timeout_s=keys.pop("timeout_s", 5), **keys)
        return bench_cloud(
            saved,
            boards()[board],
            section,
            pool,
            tmp_path / "logs",
            progress,
            Cloud(service, token or Token(SECRET), 0.01),
        )

    return run


Bench = Callable[..., BenchReport]


def test_a_board_of_the_farm_measures(bench: Bench, played: Played, saved: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    report = bench(progress=lambda done, total: told.append((done, total)))
    assert (report.backend, report.latency_kind, report.latency_ms) == ("cloud", "measured", 21.5)
    assert (report.weights_bytes, report.activations_bytes, report.macc) == (5000, 3000, 90800)
    assert report.operators == {"NPU": 1, "NPU + CPU": 1, "CPU": 1}
    assert told == [(i + 1, 9) for i in range(9)]
    lines = (tmp_path / "logs" / "cloud" / "float" / "cloud.log").read_text().splitlines()
    assert [line.split("state ")[1] for line in lines if "state " in line] == list(STATES)
    name = hashlib.sha256(saved.read_bytes()).hexdigest() + ".onnx"
    assert played.models == [name]
    assert saved.read_bytes() in next(body for how, path, body, _ in played.asked if (how, path) == ("POST", MODELS))
    job = json.loads(next(body for how, path, body, _ in played.asked if path == BEGIN))
    assert job == {"model": name, "version": "4.0.1", "target": "stm32n6", "stNeuralArt": "default",
                   "atonnOptions": {"enable_epoch_controller": True}}  # fmt: skip
    assert all(known for _, path, _, known in played.asked)


def test_what_is_there_already_is_not_sent_again(bench: Bench, played: Played) -> None:
    bench()
    done = played.states[-1]
    played.states = [done]
    bench()
    assert played.paths("POST").count(MODELS) == 1


def test_keys_of_the_config_reach_the_farm(bench: Bench, played: Played, tmp_path: Path) -> None:
    (tmp_path / "a.mpool").write_text('{"memory": {"mempools": []}}')
    bench(version="2.0", profile="profile_O3", pool=tmp_path / "a.mpool")
    job = json.loads(next(body for _, path, body, _ in played.asked if path == BEGIN))
    assert (job["version"], job["stNeuralArt"], job["mpool"]) == ("10.0.0", "profile_O3", {"memory": {"mempools": []}})
    with pytest.raises(ConfigError, match="names of its own profiles only"):
        bench(profile="mine@file.json")
    played.faults["/api/benchmark/benchmark/stm32h747i-disco"] = [answer(200, {"benchmarkId": 77})]
    bench("stm32h747i-disco", optimization="ram")
    job = json.loads([body for _, path, body, _ in played.asked if path.endswith("disco")][-1])
    assert (job["optimization"], job["target"]) == ("ram", "stm32h7")


def test_what_the_cloud_does_not_have_is_told_with_what_it_has(bench: Bench) -> None:
    with pytest.raises(ToolFailure, match=r"no version 7\.0\nhint: it has 10\.0\.0, 4\.0\.1") as failure:
        bench(version="7.0")
    assert failure.value.kind == "version"
    with pytest.raises(ToolFailure, match="no NUCLEO-G474RE\nhint: close: NUCLEO-F401RE") as failure:
        bench("nucleo-g474re")
    assert failure.value.kind == "board"


@pytest.mark.parametrize(
    ("path", "faults", "kind", "times"),
    [
        (VERSIONS, [answer(401)], "token", 1),
        (BOARDS, [answer(403, {"error": "blocked"})], "token", 1),
        (VERSIONS, [answer(404)], "service", 1),
        (BOARDS, [answer(429, Retry_After="0.05")], "service", 3),
        (MODELS, [answer(500)], "service", 3),
        (JOB, [answer(502)], "service", 3),
        (BEGIN, [answer(500)], "service", 1),  # the job may have begun
        (BEGIN, [answer(503)], "service", 3),
        (BOARDS, [hang_up], "service", 3),
        (BOARDS, [half], "service", 3),
        (BEGIN, [hang_up], "service", 1),
        (BOARDS, [drip], "timeout", 3),
        (VERSIONS, [silence], "timeout", 3),
        (BOARDS, [answer(200, b"<html>proxy</html>")], "damaged_report", 1),
        (BOARDS, [answer(200, b'{"a": ')], "damaged_report", 1),
        (BOARDS, [answer(200, [])], "damaged_report", 1),
        (VERSIONS, [answer(200, {})], "damaged_report", 1),
        (BOARDS, [answer(200, b"[" + b" " * 200000 + b"]")], "service", 1),
        (MODELS, [answer(200, []), answer(200, {"upload": False, "error": "quota"})], "service", 2),
        (BEGIN, [answer(200, {"errors": "Unsupported layer types: Einsum"})], "operator", 1),
        (BEGIN, [answer(200, {"benchmarkId": "../../boards"})], "failed", 1),
        (JOB, [answer(200, {"state": "error", "message": "not enough memory in npuRAM5"})], "memory", 1),
        (JOB, [answer(200, {"state": "error", "error": "E801(HwIOError): Invalid firmware"})], "board", 1),
        (JOB, [answer(200, {"state": "error"})], "failed", 1),
        (JOB, [answer(200, {"state": "done"})], "damaged_report", 1),
        (JOB, [answer(200, {"state": "done", "benchmark": {"info": {"json_schema_version": "8"}}})], "schema", 1),
    ],
)
def test_every_fault_ends_and_has_its_kind(
    bench: Bench, played: Played, path: str, faults: list[Reply], kind: str, times: int
) -> None:
    played.faults[path] = faults
    begun = time.monotonic()
    with pytest.raises(ToolFailure) as failure:
        bench()
    assert failure.value.kind == kind
    assert failure.value.hint
    assert played.paths().count(path) == times
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("fault", [answer(429, Retry_After="0.05"), answer(500), hang_up, half])
def test_a_passing_fault_passes(bench: Bench, played: Played, fault: Reply) -> None:
    played.faults[JOB] = [fault, answer(200, {"state": "building"}), answer(200, played.states[-1])]
    assert bench().latency_ms == 21.5


def test_a_queue_for_ever_ends(bench: Bench, played: Played) -> None:
    """And a change of state doesn't start the time anew."""
    played.faults[JOB] = [answer(200, {"state": state}) for state in (*STATES[:4], "in_queue")]
    begun = time.monotonic()
    with pytest.raises(ToolFailure, match=r"the job 77 is in_queue after 0\.5 s, and was left there") as failure:
        bench(timeout_s=0.5)
    assert failure.value.kind == "timeout"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("path", [BOARDS, BEGIN])
def test_nobody_is_sent_on(bench: Bench, played: Played, status: int, path: str) -> None:
    """To whichever host: the next one would get the token."""
    other = played.address.replace("127.0.0.1", "localhost")
    played.faults[path] = [answer(status, Location=f"{other}/elsewhere")]
    with pytest.raises(ToolFailure, match=r"sends on to localhost:\d+, which isn't followed"):
        bench()
    assert "/elsewhere" not in played.paths()


def test_the_token_is_seen_nowhere(
    bench: Bench, played: Played, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where the service sends it back."""
    caplog.set_level(logging.DEBUG)
    report = bench()
    played.faults[BOARDS] = [answer(403, {"error": f"who is {SECRET}?"})]
    with pytest.raises(ToolFailure) as failure:
        bench()
    service = Service(played.address)
    service.authorise(SECRET)
    texts = [caplog.text, str(failure.value), repr(report), repr(Token(SECRET)), repr(service)]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".onnx"]
    assert len(texts) > 6
    assert not [text for text in texts if SECRET in text]
    assert "who is ***?" in str(failure.value)


@pytest.mark.parametrize(
    "address", ["http://stedgeai-dc.st.com", "ftp://127.0.0.1", "stedgeai-dc.st.com", "http://127.0.0.1.evil.com"]
)
def test_the_token_goes_over_tls_only(address: str) -> None:
    with pytest.raises(ToolFailure, match="no https address"):
        Service(address)


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """There is no switch for it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]),
    )
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, *form)
    (tmp_path / "server.pem").write_bytes(
        pem + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while server.fileno() >= 0:
                with contextlib.suppress(OSError), server.accept()[0] as connection:
                    context.wrap_socket(connection, server_side=True)

        threading.Thread(target=serve, daemon=True).start()
        service = Service(f"https://localhost:{server.getsockname()[1]}", tries=1, timeout_s=5)
        service.authorise(SECRET)
        with pytest.raises(ToolFailure, match="CERTIFICATE_VERIFY_FAILED") as failure:
            service.get(VERSIONS)
    assert failure.value.kind == "service"


def test_a_proxy_is_asked_for_a_tunnel_and_never_gets_the_token(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", played.address)
    monkeypatch.setenv("no_proxy", "")
    played.faults["stedgeai-dc.st.com:443"] = [answer(407)]
    service = Service("https://stedgeai-dc.st.com", tries=1, timeout_s=20)
    service.authorise(SECRET)
    with pytest.raises(ToolFailure, match="407"):
        service.get(VERSIONS)
    assert played.asked == [("CONNECT", "stedgeai-dc.st.com:443", b"", False)]


# --- the token ----------------------------------------------------------------------------------------------------------


def test_the_token_comes_from_the_environment_or_a_file_of_the_users_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    monkeypatch.setenv("STEDGEAI_CLOUD_TOKEN_FILE", str(file))
    with pytest.raises(ToolFailure, match="there is no token") as failure:
        find_token()
    assert failure.value.kind == "token"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o644)
    with pytest.raises(ToolFailure, match=f"others may read {file}\nhint: chmod 600"):
        find_token()
    file.chmod(0o600)
    assert find_token() == Token(SECRET, "", file)
    file.write_text(json.dumps({"access_token": SECRET, "refresh_token": "again", "expires_at": 1}))
    assert find_token() == Token(SECRET, "again", file)
    monkeypatch.setenv("STEDGEAI_CLOUD_TOKEN", "of-the-environment")
    assert find_token() == Token("of-the-environment")


@pytest.mark.parametrize("text", ["", "two words", "line\nbreak", "{}", "{", '["a"]x y', "schlüssel"])
def test_what_is_no_token_is_told_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    monkeypatch.setenv("STEDGEAI_CLOUD_TOKEN_FILE", str(file))
    with pytest.raises(ToolFailure) as failure:
        find_token()
    assert failure.value.kind == "token"
    assert not text or text == "{" or text not in str(failure.value)


def test_an_expired_token_is_renewed_once_and_kept_for_its_owner_only(
    bench: Bench, played: Played, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    played.token = "new-t0ken"
    played.faults[VERSIONS] = [
        answer(401),
        answer(200, [{"version": "4.0.1", "isLatest": True}]),
    ]  # at the first request
    refresh = "/api/user_service/login/refresh"
    played.faults[refresh] = [answer(200, {"access_token": "new-t0ken", "refresh_token": "again-2"})]
    assert bench(token=Token("expired", "again-1", file)).latency_ms == 21.5
    assert [body for _, path, body, _ in played.asked if path == refresh] == [b"refresh_token=again-1"]
    assert json.loads(file.read_text()) == {"access_token": "new-t0ken", "refresh_token": "again-2"}
    assert file.stat().st_mode & 0o777 == 0o600
    played.token = "another"
    with pytest.raises(ToolFailure, match="401"):
        bench(token=Token("expired", "again-1", file))
    assert played.paths().count(refresh) == 2
