"""A connection of this process to a Ray cluster. Ray is imported only here and where its nodes do the work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from features.errors import FeatureError

__all__ = ["ClusterError", "joined"]


class ClusterError(FeatureError, ConnectionError):
    """The cluster cannot be reached, or has lost what it was doing; later the same may succeed."""


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Connect this process to the cluster for the block, unless it belongs to a cluster already, as a step on Ray does.

    Args:
        address: HOST:PORT of the cluster's head; auto for the cluster that this machine is a node of.

    Raises:
        FeatureError: Ray is not installed.
        ClusterError: no cluster answers, or it fails during the block.
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise FeatureError(f"a Ray cluster needs ray ({error}): pip install 'mmm4rec[ray]'") from error
    if own := not ray.is_initialized():
        heard = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise ClusterError(
                f"no Ray cluster answers at {address!r} ({error}); `ray status` shows one. Start it with `ray start`, "
                "or give the address of its head. Ray's version, and RAY_AUTH_TOKEN if it has one, must be the same"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heard)  # Ray has put a handler of its own there
    try:
        yield
    except RayTaskError:
        raise  # an error of our own code
    except RayError as error:
        raise ClusterError(f"the Ray cluster failed: {error}; what was finished is kept, so run it again") from error
    finally:
        if own:
            ray.shutdown()
