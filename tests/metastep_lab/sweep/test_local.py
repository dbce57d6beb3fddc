import os
import signal
import threading
from multiprocessing import forkserver

import pytest

from metastep_lab.sweep import local


@pytest.mark.skipif(os.name == "nt", reason="there is no server that forks")
def test_a_server_killed_while_a_process_starts_is_replaced():
    """The start fails with an EOFError, which a command would report as an interruption."""
    context = local.process_context()
    local._begin(context.Process(target=int))
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)  # so that it is killed between the request and its answer
    threading.Timer(0.3, os.kill, (server, signal.SIGKILL)).start()
    process = context.Process(target=int)
    local._begin(process)
    process.join()
    assert process.exitcode == 0
    assert forkserver._forkserver._forkserver_pid != server
