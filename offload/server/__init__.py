"""An HTTP server that speaks OpenAI's and Anthropic's protocols, over the serving loop of one model."""

from .app import create_app
from .options import ServerOptions
from .service import Service

__all__ = ["ServerOptions", "Service", "create_app"]
