"""What all requests share: the model, the loop that runs it, counts, and whether the server is open."""

from .. import LanguageModel
from ..serving import ServingLoop
from .errors import ApiError
from .metrics import Metrics
from .options import ServerOptions


class Service:
    """A server's state. Until `open` has been called it answers that the model is being loaded."""

    def __init__(self, options: ServerOptions):
        self.options = options
        self.is_closing = False
        self._loop: ServingLoop | None = None
        self.metrics = Metrics(lambda: self._loop)

    def open(self, loop: ServingLoop) -> None:
        """Takes requests from now on; the loop is closed with the service."""
        self._loop = loop

    def close(self, grace_s: float = 0.0) -> None:
        """Takes no more; those that run may go on for `grace_s`."""
        self.is_closing = True
        if self._loop:
            self._loop.close(grace_s)

    @property
    def state(self) -> str:
        """One word for /health."""
        if self.is_closing or (self._loop and not self._loop.is_open):
            return "closing" if self.is_closing else "failed"
        return "ok" if self._loop else "loading"

    @property
    def loop(self) -> ServingLoop:
        """The loop, once there is one.

        Raises:
            ApiError: the model is being loaded.
        """
        if self._loop is None:
            raise ApiError(503, "the model is being loaded: try again when /health says ok", "loading")
        return self._loop

    @property
    def model(self) -> LanguageModel:
        return self.loop.model
