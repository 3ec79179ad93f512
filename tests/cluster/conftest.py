"""One Ray of two workers for all tests of this folder; without the extra `cluster` they are skipped by name."""

import os
from collections.abc import Iterator

import pytest

try:
    import moto.server
    import ray
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
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield settings["AWS_ENDPOINT_URL"]
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def on_ray(s3) -> Iterator[None]:
    """Start Ray with two CPUs and a small object store; runs of this process use it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=300_000_000,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()
