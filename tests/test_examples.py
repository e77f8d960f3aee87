"""The examples run as a user runs them, and what they print is true of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kserve
import kubernetes.client
import pytest
import typer
import yaml

from aeppt.cli.main import app

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GATEWAY = EXAMPLES / "gateway"


def run(name: str, folder: Path) -> str:
    """What an example prints, run in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLES / name)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_torchvision(tmp_path: Path) -> None:
    printed = run("torchvision_model.py", tmp_path)
    assert "every label stays: True" in printed
    rows = {
        name.strip(): [float(value) for value in values.split()]
        for name, values in re.findall(r"^(\D+?)((?: +0\.\d+){3})$", printed, re.MULTILINE)
    }
    floor = rows["correctness (label only)"]
    assert f"label-only floor: {floor[0]:.3f}" in printed
    assert floor[0] == floor[1] == floor[2]
    undefended, static, adaptive = rows["neural network"]
    assert undefended > floor[0], "nothing leaked in the first place"
    assert max(static, adaptive) < undefended
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_hugging_face(tmp_path: Path) -> None:
    printed = run("hugging_face.py", tmp_path)
    assert "every label stays: True" in printed
    assert "defense's own: 400 of 400" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ray_batch(tmp_path: Path) -> None:
    printed = run("ray_batch.py", tmp_path)
    assert "rows in: 40,000   rows out: 40,000   files: 8" in printed
    assert "same records: True" in printed
    assert "the defense's own answers: True" in printed
    assert "again: 0 files protected, 8 were finished" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_scikit_learn_and_the_gateway_that_serves_it(tmp_path: Path) -> None:
    printed = run("gateway/try_it.py", tmp_path)
    # It runs scikit_learn.py, whose model and defense it serves.
    before, after = re.findall(
        r"(undefended|protected): ([\d.]+)% right; .* ([\d.]+)$", printed, re.M
    )
    assert before[1] == after[1]
    assert float(after[2]) < float(before[2])
    assert "give the same answers" in printed
    assert "the defense's own answer: True" in printed
    assert "every label stays: True" in printed
    assert list(tmp_path.iterdir()) == []


# --- what describes the containers ------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((GATEWAY / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((GATEWAY / "inference_service.yaml").read_text())
    return loaded


def test_compose_lets_nobody_reach_the_model_server(compose: dict[str, Any]) -> None:
    predictor, gateway = compose["services"]["predictor"], compose["services"]["gateway"]
    assert "ports" not in predictor
    assert predictor["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])
    assert "secrets" not in predictor, "the defense is the gateway's alone"


def test_the_image_is_built_from_files_that_there_are(compose: dict[str, Any]) -> None:
    build = compose["services"]["gateway"]["build"]
    root = (GATEWAY / build["context"]).resolve()
    dockerfile = root / build["dockerfile"]
    copied = re.findall(r"^COPY (?!\.)(\S+) ", dockerfile.read_text(), re.MULTILINE)
    sent = re.findall(
        r"^!(\S+)$", dockerfile.with_name("Dockerfile.dockerignore").read_text(), re.M
    )
    assert copied and set(copied) <= set(sent)
    assert all((root / name).exists() for name in sent)
    pinned = re.search(r"^torch==\S+$", (root / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned and pinned[0] in dockerfile.read_text()


def unknown_fields(value: Any, kind: str, where: str) -> list[str]:
    """Fields that the models of kserve or Kubernetes for that kind of object do not have."""
    if inner := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        return [bad for item in value for bad in unknown_fields(item, inner[1], where)]
    model = getattr(kserve, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:  # a string, a number or free-form
        return []
    kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    return [f"{where}.{name}" for name in value if name not in kinds] + [
        bad
        for name in value
        if name in kinds
        for bad in unknown_fields(value[name], kinds[name], f"{where}.{name}")
    ]


def test_the_inference_service_has_fields_that_kserve_knows(manifest: dict[str, Any]) -> None:
    assert manifest["apiVersion"] == "serving.kserve.io/v1beta1"
    assert manifest["kind"] == "InferenceService"
    assert unknown_fields(manifest, "V1beta1InferenceService", "") == []
    broken = json.loads(json.dumps(manifest).replace("mountPath", "mountpath"))
    [bad] = unknown_fields(broken, "V1beta1InferenceService", "")
    assert bad.endswith("volumeMounts.mountpath")


def options(arguments: list[str]) -> dict[str, Any]:
    """What ``aeppt serve`` makes of its arguments."""
    command: Any = typer.main.get_command(app)
    given: dict[str, Any] = command.commands["serve"].make_context("serve", arguments).params
    return given


def test_kserve_and_compose_start_the_same(
    compose: dict[str, Any], manifest: dict[str, Any]
) -> None:
    name = manifest["metadata"]["name"]
    [predictor], [transformer] = (
        manifest["spec"][part]["containers"] for part in ("predictor", "transformer")
    )
    commands = {part: service["command"] for part, service in compose["services"].items()}
    assert predictor["command"] + predictor["args"] == commands["predictor"]
    assert f"--model_name={name}" in predictor["args"]
    assert transformer["command"] == commands["gateway"][:2]
    # What KServe's controller appends to a transformer's arguments.
    appended = ["--model_name", name, "--predictor_host", f"{name}-predictor.default"]
    on_kserve = options([*transformer["args"], *appended, "--http_port", "8080"])
    in_compose = options(commands["gateway"][2:])
    assert on_kserve["predictor"] == "digits-predictor.default"
    places = {"predictor", "defense"}
    assert {key: value for key, value in on_kserve.items() if key not in places} == {
        key: value for key, value in in_compose.items() if key not in places
    }
    [mount] = transformer["volumeMounts"]
    assert str(on_kserve["defense"].parent) == mount["mountPath"]
