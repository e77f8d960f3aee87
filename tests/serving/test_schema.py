"""Thousands of requests, most of them malformed: none gives 5xx, all answers are as declared.

``docs/openapi.yaml`` says what is declared. The predictor behind the gateways answers every valid
request, and others with an error of its own: so nothing but a client's fault is left.
"""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aeppt import PrivacyFunnel

pytestmark = pytest.mark.slow

OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.yaml"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MODEL = "classifier"
INFER = f"/v2/models/{MODEL}/infer"
#: Numbers of cases, 5,000 together: good and bad data each for V2 and for V1, and those of the last
#: two tests. The operations without a body have only one case.
V2, V1, HEADERS, BINARY = 500, 300, 1400, 2000


def cases(number: int) -> Any:
    """Hypothesis' settings: so many cases, the same each time, and no search for smaller ones."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def started(start: Any, predictor: tuple[str, str], rest: Any) -> dict[str, Any]:
    """Gateways by protocol, before the model that answers what is valid."""
    shared = ("--predictor", predictor[0], "--model-name", MODEL, "--output", "probs")
    limits = ("--max-rows", 64, "--max-request-bytes", 100_000)
    return {
        protocol: start(*shared, "--predictor-protocol", protocol, *limits)
        for protocol in ("v1", "v2")
    }


@pytest.fixture
def gateways(started: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same, which run and are ready after the test, and had no error of their own."""
    yield started
    for gateway in started.values():
        assert gateway.process.is_alive(), gateway.text
        assert requests.get(f"http://{gateway.http}/v2/health/ready", timeout=10).status_code == 200
        # Where a request was no HTTP, there is a message of the server that says so.
        assert {line["event"] for line in gateway.log} <= {"serving", "request", "message"}
        assert not [line for line in gateway.log if "exception" in line]


def described() -> Any:
    """The description, narrower where good data would else be long to make or seldom met."""
    content = yaml.safe_load(OPENAPI.read_text())
    parts = content["components"]
    parts["parameters"]["Model"]["schema"] = {"enum": [MODEL]}
    closed = {"additionalProperties": False}
    request, tensor = parts["schemas"]["InferRequest"], parts["schemas"]["Tensor"]
    numbers = {"type": "array", "items": {"type": ["number", "string", "boolean"]}, "maxItems": 6}
    tensor["properties"]["data"] = numbers
    tensor["properties"]["shape"]["maxItems"] = 3
    for schema in (request, tensor, request["properties"]["outputs"]["items"]):
        schema |= closed
    for each in (request, tensor):
        each["properties"]["parameters"] = {
            "type": "object",
            "properties": {"binary_data_size": {"type": "integer"}, "priority": {"type": "string"}},
        } | closed
    request["properties"]["inputs"]["maxItems"] = 2
    request["properties"]["outputs"]["maxItems"] = 2
    instances = {"anyOf": [numbers, {"type": "number"}, {"type": "object", "maxProperties": 1}]}
    predict = parts["schemas"]["PredictRequest"]
    predict["properties"]["instances"] |= {"items": instances, "maxItems": 3}
    predict |= closed
    return schemathesis.openapi.from_dict(content)


SCHEMA = described()
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


def test_the_cases_are_enough() -> None:
    assert len(OPERATIONS) == 11
    assert 2 * (V2 + V1) + HEADERS + BINARY >= 5000


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_answers_are_as_declared(gateways: dict[str, Any], operation: Any) -> None:
    v1 = operation.path.startswith("/v1")
    gateway = gateways["v1" if v1 else "v2"]
    number, modes = 1, [GenerationMode.POSITIVE]
    if operation.body:
        number, modes = V1 if v1 else V2, list(GenerationMode)
    statuses: Counter[int] = Counter()
    session = requests.Session()

    def check(case: Any) -> None:
        response = case.call(base_url=f"http://{gateway.http}", session=session)
        case.validate_response(response, checks=CHECKS)
        statuses[response.status_code] += 1

    for mode in modes:
        cases(number)(given(operation.as_strategy(generation_mode=mode))(check))()
    assert statuses.total() >= number * len(modes)
    assert max(statuses) < 500


def is_declared(status: int, content_type: str, body: bytes) -> bool:
    """Whether an answer is one line of error, or what the gateway says without being asked much."""
    if status == 400 and content_type.startswith("text/plain"):  # it was no HTTP
        return body == b"Invalid HTTP request received."
    if status == 200:
        return True
    return 400 <= status < 500 and (body == b"" or list(json.loads(body)) == ["error"])


#: What a header may hold on the wire.
values = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")),
    st.sampled_from(["0", "-1", "9" * 5000, "application/json", "gzip", "bytes=0-1", "Bearer "]),
)
names = st.one_of(
    st.sampled_from(
        [
            *("Accept", "Accept-Encoding", "Content-Encoding", "Content-Type", "Range", "TE"),
            *("Inference-Header-Content-Length", "Authorization", "X-API-Key", "Expect"),
            *("Connection", "Upgrade", "Host", "X-Forwarded-For", "Traceparent", "Cookie"),
        ]
    ),
    st.text("abcXYZ-_.!#$%&'*+^`|~0189", min_size=1),
)
VALID = {"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [0, 1, 2]}]}


def test_methods_and_headers(gateways: dict[str, Any]) -> None:
    statuses: Counter[int] = Counter()
    connections = {
        protocol: http.client.HTTPConnection(gateway.http, timeout=20)
        for protocol, gateway in gateways.items()
    }
    paths = [operation.path.replace("{model}", MODEL) for operation in OPERATIONS]
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE"]

    @cases(HEADERS)
    @given(
        st.sampled_from(sorted(connections)),
        st.sampled_from([*paths, "/v2/", "//v2", "/v2/../metrics", "/%00", "/v2?x=%ff", "*"]),
        st.sampled_from(methods),
        st.dictionaries(names, values, max_size=4),
        st.sampled_from([b"", b"{}", json.dumps(VALID).encode()]),
    )
    def check(protocol: str, path: str, method: str, headers: dict[str, str], body: bytes) -> None:
        connection = connections[protocol]
        encoded = {name: value.strip().encode("latin-1") for name, value in headers.items()}
        connection.request(method, path, body, encoded)
        response = connection.getresponse()
        content = response.read()
        answer = response.status, response.getheader("content-type") or "", content
        assert is_declared(*answer), (method, path, headers, answer)
        statuses[response.status] += 1
        connection.close()

    check()
    assert statuses.total() >= HEADERS
    assert {200, 400, 404, 405} <= set(statuses)


def mostly(right: Any, wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """So that often only one thing is wrong, and sometimes none."""
    return st.integers(0, 5).flatmap(lambda drawn: wrong if drawn == 0 else st.just(right))


binary_requests = st.fixed_dictionaries(
    {
        "rows": st.integers(0, 3),
        "shape": mostly(None, st.lists(st.integers(-2, 2**65), max_size=3)),
        "datatype": mostly(
            "FP32", st.sampled_from(["FP16", "FP64", "INT64", "BYTES", "BOOL", "?"])
        ),
        "name": mostly("features", st.sampled_from(["", "other"])),
        "size": mostly(0, st.sampled_from([-1, 1, 12, 2**31, 2**63, -(2**63)])),
        "header": mostly("right", st.sampled_from(["absent", "", "-1", "1e3", "0", "7", "9" * 20])),
        "cut": mostly(0, st.integers(0, 40)),
        "more": mostly(b"", st.binary(max_size=40)),
        "numbers": st.binary(max_size=36),
        "outputs": st.sampled_from([None, True, False]),
    }
)


def probabilities(response: http.client.HTTPResponse) -> NDArray[np.float32]:
    """The one output of an answer, binary or in JSON."""
    content = response.read()
    length = int(response.getheader("inference-header-content-length") or len(content))
    (output,) = json.loads(content[:length])["outputs"]
    assert output["name"] == "probs"
    numbers = output["data"] if length == len(content) else np.frombuffer(content[length:], "<f4")
    return np.array(numbers, np.float32).reshape(output["shape"])


def test_binary_tensors(
    gateways: dict[str, Any], predictor: tuple[str, str], defense: PrivacyFunnel
) -> None:
    connection = http.client.HTTPConnection(gateways["v2"].http, timeout=20)
    directly = http.client.HTTPConnection(predictor[0], timeout=20)
    statuses: Counter[int] = Counter()

    @cases(BINARY)
    @given(binary_requests)
    def check(asked: dict[str, Any]) -> None:
        raw = (asked["numbers"] + bytes(36))[: 12 * asked["rows"]]
        tensor = {
            "name": asked["name"],
            "shape": [asked["rows"], 3] if asked["shape"] is None else asked["shape"],
            "datatype": asked["datatype"],
            "parameters": {"binary_data_size": len(raw) + asked["size"]},
        }
        request: dict[str, Any] = {"inputs": [tensor]}
        if asked["outputs"] is not None:
            request["parameters"] = {"binary_data_output": asked["outputs"]}
        head = json.dumps(request).encode()
        body = head + raw + asked["more"]
        body = body[: len(body) - asked["cut"]]
        length = str(len(head)) if asked["header"] == "right" else asked["header"]
        headers = {} if length == "absent" else {"Inference-Header-Content-Length": length}
        connection.request("POST", INFER, body, headers)
        response = connection.getresponse()
        statuses[response.status] += 1
        if response.status != 200:
            content = response.read()
            assert response.status < 500, (asked, content)
            assert list(json.loads(content)) == ["error"]
            connection.close()
            return
        released = probabilities(response)
        connection.close()
        in_binary = json.dumps(request | {"parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(in_binary))}
        directly.request("POST", INFER, in_binary + body[len(head) :], headers)
        bare = probabilities(directly.getresponse())
        directly.close()
        np.testing.assert_array_equal(released, defense.protect(bare.reshape(-1, 5)))

    check()
    assert statuses.total() >= BINARY
    assert min(statuses[200], statuses[400]) > BINARY / 20
