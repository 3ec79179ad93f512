"""A local S3 server, and a Ray of two CPUs for each file; without the extra `cluster` the tests are skipped by name."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunetune.cluster.engine import started

try:
    import moto.server
    import ray  # noqa: F401
except ModuleNotFoundError as error:
    MISSING = error.name
else:
    MISSING = None


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Return the address of a local S3 server with the bucket `lab`; workers that start later know it too."""
    if MISSING:
        pytest.skip(f"{MISSING} is not installed; pip install -e '.[cluster,cluster-tests]'")
    server = moto.server.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        # Workers import the helpers of the tests too.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield settings["AWS_ENDPOINT_URL"]
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def on_ray(s3) -> Iterator[None]:
    """Start Ray with two CPUs as a run starts it; the runs of this process use it."""
    with started(num_cpus=2):
        yield
