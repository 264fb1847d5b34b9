"""What tests of several rooms stand before."""

import pytest

from tests.faultproxy import proxying


@pytest.fixture
def proxy(s3_server):
    """A proxy in front of the S3 server, told by each test what it does to requests; without a word, nothing."""
    with proxying(s3_server) as running:
        yield running
