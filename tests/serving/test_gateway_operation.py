"""Running a gateway: keys, TLS, an orderly end, and mistakes at the start."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving_helpers import v2_request

from aeppt import AEPPT, Predictions
from aeppt.serving.configuration import ApiKeys, Configuration

Curl = Callable[..., tuple[int, Any]]
API_KEY = "an-api-key-of-some-length"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a server's and a client's certificate of it."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    authority = ("-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
    commands = [["req", "-x509", *key, *authority]]
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
        request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext")
        commands.append(["req", *key, *request])
        commands.append(["x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *by])
    for command in commands:
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder


def test_keys_and_tls(
    start: Any,
    predictor: tuple[str, str],
    rest: Any,
    curl: Curl,
    triton_grpc: Any,
    certificates: Path,
    rows: NDArray,
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"another-key-of-some-length\n{API_KEY}\n")
    ca, crt, key = (certificates / name for name in ("ca.crt", "server.crt", "server.key"))
    server = start(
        *("--predictor", predictor[0], "--output", "probs", "--api-key-file", keys),
        *("--tls-cert", crt, "--tls-key", key, "--client-ca", ca),
    )
    base = f"https://{server.http}"
    with pytest.raises(subprocess.CalledProcessError):  # no certificate of the client
        curl(f"{base}/v2/health/live", None, "--cacert", str(ca))
    own = ("--cert", str(certificates / "client.crt"), "--key", str(certificates / "client.key"))
    tls = ("--cacert", str(ca), *own)
    assert curl(f"{base}/v2/health/live", None, *tls)[0] == 200
    url, asked = f"{base}/v2/models/model/infer", v2_request(rows)
    for header, status in (
        ("X-Nothing: here", 401),
        (f"Authorization: Basic {API_KEY}", 401),
        (f"Authorization: Bearer {API_KEY}x", 401),
        ("X-API-Key: ", 401),
        (f"Authorization: Bearer {API_KEY}", 200),
        (f"X-API-Key: {API_KEY}", 200),
    ):
        assert curl(url, asked, *tls, "-H", header)[0] == status, header
    for path in ("/metrics", "/v2", "/v2/models/model"):
        assert curl(base + path, None, *tls)[0] == 401
    client = {"ca": str(ca), "certificate": own[1], "key": own[3]}
    options = {"rows": rows.tolist(), "datatype": "FP32", "outputs": [], "id": ""}
    with pytest.raises(Exception, match="UNAVAILABLE"):
        triton_grpc(server.grpc, "infer", **options)
    with pytest.raises(Exception, match="UNAUTHENTICATED"):
        triton_grpc(server.grpc, "infer", tls=client, **options)
    assert triton_grpc(server.grpc, "is_server_live", tls=client)
    headers = {"authorization": f"Bearer {API_KEY}"}
    assert "probs" in triton_grpc(server.grpc, "infer", tls=client, headers=headers, **options)
    assert API_KEY not in server.text


def test_requests_in_flight_finish_within_bounds(
    start: Any, predictor: tuple[str, str], rest: Any, curl: Curl, rows: NDArray
) -> None:
    server = start("--predictor", predictor[0], "--output", "probs", "--drain-seconds", 4)
    url = f"{server.http}/v2/models/model/infer"
    assert curl(url, v2_request(rows))[0] == 200
    statuses: dict[str, int] = {}

    def ask(how: str) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # cut off
            statuses[how] = curl(url, v2_request(rows, id=how))[0]

    # One takes two seconds, the other longer than the end may wait.
    asking = [threading.Thread(target=ask, args=(how,)) for how in ("pause", "slow")]
    for thread in asking:
        thread.start()
    time.sleep(0.8)
    server.process.terminate()
    started = time.monotonic()
    time.sleep(0.4)
    with pytest.raises(subprocess.CalledProcessError):  # nobody listens any more
        curl(url, v2_request(rows))
    server.process.join(20)
    assert server.process.exitcode == 0
    assert time.monotonic() - started < 15  # the slow answer would take 30 seconds
    for thread in asking:
        thread.join()
    assert statuses.pop("pause") == 200
    assert 200 not in statuses.values()
    assert server.log[-1]["event"] == "stopped"


def test_another_address_and_a_port_for_metrics(
    start: Any, predictor: tuple[str, str], rest: Any, curl: Curl, infer: Any, rows: NDArray
) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        port = free.getsockname()[1]
    given = ("--predictor", predictor[0], "--output", "probs", "--metrics-port", port)
    server = start(*given, host="::1")
    assert curl(f"{server.http}/v2/models/model/infer", v2_request(rows), "-g")[0] == 200
    assert set(infer(server, "grpc", rows)) == {"probs"}
    assert curl(f"{server.http}/metrics", None, "-g")[0] == 404
    status, metrics = curl(f"[::1]:{port}/metrics", None, "-g")
    assert status == 200
    assert "aeppt_request_seconds_count 2.0" in metrics
    status, answer = curl(f"[::1]:{port}/v2/models/model/infer", v2_request(rows), "-g")
    assert "outputs" not in answer  # nothing but metrics


def options(defense: Path, **changes: Any) -> Configuration:
    return Configuration(defense, **{"predictor": "127.0.0.1:80", "output": "probs"} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictor": None}, "give either --predictor"),
        ({"model": Path(__file__)}, "give either --predictor"),
        ({"predictor": "host:none"}, "must be HOST:PORT"),
        ({"predictor": "http://host"}, "must be HOST:PORT"),
        ({"output": None}, "--output must name"),
        ({"allowed_outputs": ("probs",)}, "would let the protected output leave"),
        ({"model_name": "a/b"}, "--model-name"),
        ({"tls_key": Path(__file__)}, "need each other"),
        ({"client_ca": Path(__file__)}, "--client-ca needs"),
        ({"timeout": float("nan")}, "--timeout must be positive"),
        ({"max_rows": 0}, "--max-rows must be positive"),
        ({"api_key_file": Path("none")}, "there is no file none for --api-key-file"),
    ],
)
def test_options_that_do_not_fit(defense_file: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        options(defense_file, **changes)


def test_constant_time(known: Predictions, defense_file: Path, tmp_path: Path) -> None:
    for constant in (False, True):
        path = tmp_path / f"{constant}.safetensors"
        searching = AEPPT(hidden=(8,), constant_time=constant)
        searching.fit(known.probs, known.is_member).save(path)
    options(defense_file, constant_time=True).load_defense()
    options(tmp_path / "True.safetensors", constant_time=True).load_defense()
    options(tmp_path / "False.safetensors").load_defense()
    with pytest.raises(ValueError, match="works longer on some rows"):
        options(tmp_path / "False.safetensors", constant_time=True).load_defense()


def test_another_secret_key(
    defense_file: Path,
    rows: NDArray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: Predictions,
) -> None:
    own, key = tmp_path / "key", np.random.default_rng(0).bytes(32).hex()
    own.write_text(key + "\n")
    many = known.probs
    saved = options(defense_file).load_defense().protect(many)
    by_file = options(defense_file, key_file=own).load_defense().protect(many)
    monkeypatch.setenv("AEPPT_KEY", key)
    by_variable = options(defense_file).load_defense().protect(many)
    assert not np.array_equal(saved, by_file)
    np.testing.assert_array_equal(by_file, by_variable)
    monkeypatch.setenv("AEPPT_KEY", "too short")
    with pytest.raises(ValueError) as raised:
        options(defense_file).load_defense()
    assert "too short" not in str(raised.value)


def test_api_keys_must_not_be_guessable(defense_file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    for content in ("", "\n", "short\n"):
        keys.write_text(content)
        with pytest.raises(ValueError, match="must hold API keys"):
            options(defense_file, api_key_file=keys).api_keys()
    assert ApiKeys(()).accept(b"", b"")


def test_a_mistake_at_the_start_is_one_line(defense_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = ["--defense", defense_file, "--host", "127.0.0.1", "--http-port", port]
        given += ["--grpc-port", 0, "--predictor", "127.0.0.1:80", "--output", "probs"]
        command = [sys.executable, "-c", "from aeppt.cli import main; main()", "serve"]
        done = subprocess.run([*command, *map(str, given)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"aeppt: cannot listen on 127.0.0.1, port {port}: ")
    assert len(done.stderr.splitlines()) == 1
