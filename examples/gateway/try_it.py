"""The gateway without Docker: starts what docker-compose.yml starts, asks it, and compares.

    python try_it.py

Needs the extra serve. Both processes run on free ports of this machine, and end with this program.
"""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import yaml
from sklearn.datasets import load_digits

from aeppt import load_defense
from aeppt.serving.model_files import load_model_file

HERE = Path(__file__).resolve().parent
IMAGES = load_digits().data[:5]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def answers(url: str) -> bool:
    """Whether there is a server that says yes."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


with tempfile.TemporaryDirectory() as temporary, ExitStack() as at_the_end:
    # The example beside this one makes the model and the defense.
    subprocess.run([sys.executable, HERE.parent / "scikit_learn.py"], cwd=temporary, check=True)
    files = Path(temporary) / "digits"

    # The commands of the file; what they name of containers is elsewhere here.
    services = yaml.safe_load((HERE / "docker-compose.yml").read_text())["services"]
    ports = {name: free_port() for name in services}
    places = {
        "/app": str(HERE),
        "/mnt/models": str(files),
        "/run/secrets": str(files),
        "predictor:8080": f"127.0.0.1:{ports['predictor']}",
    }
    scripts = sysconfig.get_path("scripts")  # of this Python: aeppt, and Python itself
    for name, service in services.items():
        command = service["command"]
        for inside, here in places.items():
            command = [part.replace(inside, here) for part in command]
        process = subprocess.Popen(
            [*command, f"--http_port={ports[name]}", f"--grpc_port={free_port()}"],
            env=os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        at_the_end.callback(process.wait)
        at_the_end.callback(process.terminate)

    url = f"http://127.0.0.1:{ports['gateway']}/v2/models/digits"
    deadline = time.monotonic() + 60
    while not answers(f"{url}/ready"):
        assert time.monotonic() < deadline, "the gateway did not become ready"
        time.sleep(0.1)

    tensor = {"name": "input", "datatype": "FP64", "shape": IMAGES.shape, "data": IMAGES.tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    with urllib.request.urlopen(f"{url}/infer", data=body, timeout=30) as response:
        [output] = json.load(response)["outputs"]
    released = np.reshape(output["data"], output["shape"])

    probs = load_model_file(files / "model.skops")({"input": IMAGES})["probabilities"]
    expected = load_defense(files / "defense.safetensors").protect(probs)
    print("the model says:    ", probs[0].round(3))
    print("the gateway says:  ", released[0].round(3))
    print("the defense's own answer:", np.allclose(released, expected, rtol=0, atol=1e-12))
    print("every label stays:", np.array_equal(released.argmax(axis=1), probs.argmax(axis=1)))
