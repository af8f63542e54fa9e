"""A Logweir broker for pytest: started once for all tests, in memory, on ports of the system's choice.

The broker stops when this process ends, however it ends, because its standard input closes then
(`--exit-with-parent`). The program is `logweir` on the path, or what the variable LOGWEIR names.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import grpc
import pytest
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"
START_SECONDS = 30


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """What the broker says when it is ready: a dict with pid, grpc, http and kafka."""
    folder = tmp_path_factory.mktemp("logweir")
    ready, log = folder / "ready.json", folder / "log"
    command = [os.environ.get("LOGWEIR", "logweir"), "serve", "--in-memory"]
    command += ["--kafka", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "off"]
    command += ["--ready-file", str(ready), "--exit-with-parent"]
    # A new group need not wait three seconds for members that are not to come.
    command += ["--set", "groups.initial_rebalance_delay_ms=0"]
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the broker did not start:\n{log.read_text()}")
        time.sleep(0.005)
    yield json.loads(ready.read_text())
    process.stdin.close()
    assert process.wait(START_SECONDS) == 0, log.read_text()


@pytest.fixture
def kafka(broker):
    """The settings of a Kafka client (confluent-kafka), whichever it is."""
    return {"bootstrap.servers": broker["kafka"]}


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """Makes the Python modules of the gRPC contract importable; generated anew, so nothing is kept."""
    into = tmp_path_factory.mktemp("stubs")
    files = sorted(str(path) for path in (PROTO / "logweir" / "v1").glob("*.proto"))
    arguments = ["protoc", f"-I{PROTO}", f"--python_out={into}", f"--grpc_python_out={into}"]
    assert protoc.main(arguments + files) == 0, "the stubs cannot be generated"
    sys.path.insert(0, str(into))


@pytest.fixture
def channel(broker, stubs):
    """A connection to the broker."""
    with grpc.insecure_channel(broker["grpc"]) as channel:
        yield channel


@pytest.fixture
def topic(channel):
    """A topic of three partitions that no other test has."""
    from logweir.v1 import topics_pb2, topics_pb2_grpc

    name = f"test-{uuid.uuid4().hex[:12]}"
    new = topics_pb2.NewTopic(name=name, partitions=3)
    request = topics_pb2.CreateTopicsRequest(topics=[new])
    created = topics_pb2_grpc.TopicServiceStub(channel).CreateTopics(request, timeout=30)
    assert not created.results[0].HasField("error"), created
    return name
