import socket
import threading

import pytest

from safe_r1.campaign.start import wait_for_port
from safe_r1.errors import ResourceError


@pytest.mark.slow
def test_a_ray_that_is_ending_is_waited_for_and_another_one_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match="another Ray runs on this machine"):
            wait_for_port(port, 0)
        threading.Timer(0.3, taken.close).start()
        wait_for_port(port, 30)
