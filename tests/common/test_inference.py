"""What describes the host."""

import socket

from fedstill.common.inference import describe_host


def test_the_host_is_described_without_being_identified():
    text = describe_host()
    assert "cores" in text
    assert socket.gethostname() not in text
