"""Many clients at once on one server of this machine: polite ones, some that go midway, some that send nonsense.

    python -m tools.load_server offload/models/tiny-glm.gguf --seconds 60

Starts `moe-offload serve` with the model, loads it, ends it, and prints time to first token, statuses, private memory
and slots; the last line is JSON. It ends with status 1 if a status came that was not to be expected (503 says that the
queue is full), an answer broke off, a slot stayed taken, or the server does not answer afterwards as it did before.
Flags that it does not know go to the server.
"""

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from tools.load_requests import MALFORMED, Ask, canary, polite

COMMAND = [sys.executable, "-c", "import sys; from offload.cli import main; sys.exit(main())", "serve"]
TAIL_S = 60  # that the last answers may take


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    first_token_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    tokens: int = 0
    problems: list[str] = field(default_factory=list)

    def see(self, ask: Ask, response: httpx.Response) -> None:
        status = response.status_code
        self.statuses[str(status)] += 1
        expected = ask.statuses if status != 503 else (503,)
        if status not in expected:
            self.problems.append(f"{ask.kind} {ask.path}: status {status}, expected {ask.statuses}")


class Server:
    """The server as a process, with the lines that it logs."""

    def __init__(self, model: Path, slots: int, flags: list[str]):
        command = [*COMMAND, str(model), "--port", "0", "--slots", str(slots), "--log-level", "warning", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        assert self.process.stdout is not None
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self.process.stdout.readline().strip().rpartition(" ")[2]
        if not self.address:
            raise SystemExit("the server did not start:\n" + "".join(self.lines))
        self.memory = psutil.Process(self.process.pid)

    def private_mb(self) -> float:
        """Memory that no other process shares: mapped weights are not part of it."""
        return float(self.memory.memory_full_info().uss) / 1e6

    def end(self) -> int:
        """Tells it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)


async def client(
    number: int, http: httpx.AsyncClient, ends_at: float, options: argparse.Namespace, tally: Tally
) -> None:
    """Asks one thing after the other until the time is over."""
    rng = random.Random(f"{options.seed} {number}")
    while time.monotonic() < ends_at:
        draw = rng.random()
        if draw < options.malformed:
            ask = rng.choice(MALFORMED)
        else:
            ask = polite(rng, leaves=draw < options.malformed + options.disconnecting)
        tally.kinds[ask.kind] += 1
        try:
            await answer(http, ask, tally)
        except httpx.HTTPError as error:
            tally.problems.append(f"{ask.kind} {ask.path}: {error!r}")
        if tally.statuses["503"]:
            await asyncio.sleep(0.05)


async def answer(http: httpx.AsyncClient, ask: Ask, tally: Tally) -> None:
    """Sends one request and reads its answer, as far as the client wants it."""
    began, num_lines = time.monotonic(), 0
    headers = {"content-type": "application/json"}
    async with http.stream("POST", ask.path, content=ask.content, headers=headers) as response:
        tally.see(ask, response)
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            num_lines += 1
            if num_lines == ask.first_line:
                tally.first_token_s.append(time.monotonic() - began)
            if num_lines >= ask.leaves_after:
                return  # closes the connection
            if '"error"' in line[:20]:
                tally.problems.append(f"{ask.kind} {ask.path}: {line[:200]}")
        if ask.kind == "polite" and response.status_code == 200:
            tally.answer_s.append(time.monotonic() - began)


async def load(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    tally, private_mb = Tally(), list[float]()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=options.clients)
    async with httpx.AsyncClient(base_url=server.address, timeout=TAIL_S, limits=limits) as http:
        before = (await http.post("/v1/completions", json=canary())).json()["choices"][0]["text"]
        ends_at = time.monotonic() + options.seconds

        async def watch() -> None:
            while time.monotonic() < ends_at:
                private_mb.append(server.private_mb())
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(client(i, http, ends_at, options, tally) for i in range(options.clients)))
        await asyncio.sleep(1)
        slots = (await http.get("/slots")).json()
        metrics = (await http.get("/metrics")).text
        after = (await http.post("/v1/completions", json=canary())).json()["choices"][0]["text"]
    counts = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    busy = [slot for slot in slots if slot["state"] != "free"]
    fifth = max(1, len(private_mb) // 5)
    return {
        "seconds": options.seconds,
        "clients": options.clients,
        "slots": len(slots),
        "requests": dict(tally.kinds),
        "statuses": dict(tally.statuses),
        "first_token_s": percentiles(tally.first_token_s),
        "answer_s": percentiles(tally.answer_s),
        "generated_tokens_per_s": round(float(counts["moe_offload_generated_tokens_total"]) / options.seconds, 1),
        "drafted": float(counts["moe_offload_drafted_tokens_total"]),
        "accepted": float(counts["moe_offload_accepted_tokens_total"]),
        "private_mb_first_fifth": round(float(np.median(private_mb[:fifth])), 1),
        "private_mb_last_fifth": round(float(np.median(private_mb[-fifth:])), 1),
        "private_mb_after": round(server.private_mb(), 1),
        "slots_busy_after": len(busy),
        "waiting_after": float(counts["moe_offload_waiting_requests"]),
        "answers_as_before": before == after,
        "problems": tally.problems[:20],
        "num_problems": len(tally.problems),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(seconds, p)), 3) for p in (50, 90, 99)} if seconds else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--seconds", type=float, default=60, help="of load; the last answers then come to their end")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--disconnecting", type=float, default=0.10, help="share of requests whose client goes midway")
    parser.add_argument("--malformed", type=float, default=0.05, help="share of requests that are nonsense")
    parser.add_argument("--seed", type=int, default=0)
    options, flags = parser.parse_known_args()
    server = Server(options.model, options.slots, flags)
    try:
        print(f"server on {server.address}, flags: {' '.join(flags) or 'none'}", flush=True)
        result = asyncio.run(load(server, options))
    finally:
        status = server.end()
    logged = [line.strip() for line in server.lines if '"level": "error"' in line]
    result |= {"exit_status": status, "logged_errors": logged[:5]}
    for name, value in result.items():
        print(f"{name:24} {value}")
    print(json.dumps(result))
    wrong = result["num_problems"] or result["slots_busy_after"] or status or logged
    return 0 if result["answers_as_before"] and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
