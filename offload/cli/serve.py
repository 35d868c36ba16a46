"""Answer over HTTP in OpenAI's and Anthropic's protocols, several requests at once."""

import argparse
import os
from pathlib import Path

from ..errors import OptionError
from ..request import AUTO, DRAFTERS
from .devices import parse_size
from .files import read_text
from .options import HELP, MODEL, add_load_options, add_sampling_options, draft_length, load_options, sampling_options
from .terminal import load_with_progress

LOG_LEVELS = ("debug", "info", "warning", "error")
KEY_VARIABLE = "MOE_OFFLOAD_API_KEY"


def add_arguments(command: argparse.ArgumentParser) -> None:
    from ..server import ServerOptions

    default = ServerOptions()
    command.add_argument("model", help=MODEL)
    group = command.add_argument_group("server")
    group.add_argument("--host", default=default.host, help="address to listen on; 0.0.0.0 for all")
    group.add_argument("--port", type=int, default=default.port, help="0 takes a free one")
    group.add_argument("--slots", type=int, default=4, help="requests that run at once, each with a cache of its own")
    group.add_argument("--max-waiting", type=int, default=default.max_waiting, help="requests that may wait for a slot")
    group.add_argument(
        "--api-key", action="append", default=[], help=f"clients must send one of these (repeatable; or {KEY_VARIABLE})"
    )
    group.add_argument("--api-key-file", type=Path, help="file with such keys, one a line")
    group.add_argument(
        "--cors-origin", action="append", default=[], help="web pages that may ask, * for all (repeatable)"
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name that it may be asked by besides localhost, * for any (repeatable)",
    )
    group.add_argument(
        "--max-connections", type=int, default=default.max_connections, help="further ones are refused with 503"
    )
    group.add_argument("--model-name", help="as /v1/models gives it; the file's name")
    group.add_argument("--max-body", default="8MiB", metavar="SIZE", help="of a request")
    group.add_argument("-n", "--max-tokens", type=int, default=default.max_tokens, help="of an answer, at most")
    group.add_argument("--max-choices", type=int, default=default.max_choices, help="answers to one request, at most")
    group.add_argument(
        "--body-timeout", type=float, default=default.body_timeout_s, help="seconds for a request to come"
    )
    group.add_argument(
        "--request-timeout",
        type=float,
        default=default.request_timeout_s,
        help="seconds for an answer, waiting included",
    )
    group.add_argument("--grace", type=float, default=default.grace_s, help="seconds for running answers at the end")
    group.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="of the lines of JSON on standard error")
    group.add_argument("--log-prompts", action="store_true", help="log what is asked, too")
    defaults = command.add_argument_group("defaults of requests")
    defaults.add_argument("--draft", type=draft_length, default=AUTO, metavar="N", help="tokens drafted a step")
    defaults.add_argument("--drafter", choices=DRAFTERS, default=AUTO, help="who drafts")
    add_sampling_options(defaults, [name for name in HELP if name != "seed"])  # without one, texts vary
    add_load_options(command)


def run(options: argparse.Namespace) -> None:
    from ..server import ServerOptions
    from ..server.run import run as serve

    server = ServerOptions(
        host=options.host,
        port=options.port,
        api_keys=_api_keys(options),
        cors_origins=tuple(options.cors_origin),
        allowed_hosts=tuple(options.allowed_host),
        max_connections=options.max_connections,
        max_waiting=options.max_waiting,
        model_name=options.model_name or Path(options.model).name.removesuffix(".gguf"),
        max_body_bytes=parse_size(options.max_body),
        max_tokens=options.max_tokens,
        max_choices=options.max_choices,
        body_timeout_s=options.body_timeout,
        request_timeout_s=options.request_timeout,
        grace_s=options.grace,
        log_prompts=options.log_prompts,
        draft=options.draft,
        drafter=options.drafter,
        sampling=sampling_options(options),
    )
    serve(
        lambda: load_with_progress(options.model, slots=options.slots, **load_options(options)),
        server,
        options.log_level,
    )


def _api_keys(options: argparse.Namespace) -> tuple[str, ...]:
    keys = list(options.api_key)
    if options.api_key_file:
        lines = read_text(options.api_key_file, "API keys").splitlines()
        keys += [line.strip() for line in lines if line.strip()]
        if not keys:
            raise OptionError(f"{str(options.api_key_file)!r} holds no API key")
    elif not keys and os.environ.get(KEY_VARIABLE):
        keys = [os.environ[KEY_VARIABLE]]
    return tuple(keys)
