"""The benchmark's results as tables: the ceiling, then what was reached of it."""

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def report(document: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [_ceiling(document), _prompts(document), _decode(document), _acceptance(document)]
    if document["experts_by_layer"]:
        parts.append(_experts(document))
    if document["peer"]:
        parts.append(_peer(document))
    if document["machine"]["busy"]:
        busy = "; ".join(document["machine"]["busy"])
        parts.append(Text(f"the machine was busy, figures are likely too low: {busy}", style="yellow"))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _ceiling(document: dict[str, Any]) -> RenderableType:
    machine = document["machine"]
    of = "of an emulated card: " if machine["emulated"] else ""
    rates = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in machine["bytes_per_s"].items())
    reads = ", ".join(
        f"{name} {count / 1e9:.3f} GB" for name, count in document["bytes"]["by_device_for_a_plain_token"].items()
    )
    low, high = (machine["ram_bytes_per_s"][name] / 1e9 for name in ("least", "most"))
    return Text(
        f"{of}ceiling {document['ceiling_tokens_per_s']:.2f} tokens/s without drafts: a token reads {reads}; "
        f"bandwidth {rates} ({machine['bytes_per_s_from']}; RAM between rounds {low:.1f} to {high:.1f} GB/s)",
        style="bold",
    )


def _prompts(document: dict[str, Any]) -> Table:
    table = _table("Prompts", "tokens", "tokens/s", "p10 to p90")
    for entry in document["prompt"]:
        table.add_row(str(entry["tokens"]), *_rates(entry))
    return table


def _decode(document: dict[str, Any]) -> Table:
    columns = ("drafts", "at once", "depth", "tokens/s", "p10 to p90", "of ceiling", "GB/s", "experts", "reuse")
    energy = any(entry["joules_per_token"] for entry in document["decode"])
    table = _table("Decoding", *columns, *(["J/token"] if energy else []))
    for entry in document["decode"]:
        share = entry["share_of_ceiling"]
        joules = [f"{entry['joules_per_token'] or 0:.2f}"] if energy else []
        table.add_row(
            str(entry["draft"]),
            str(entry["sequences"]),
            str(entry["depth"]),
            *_rates(entry),
            f"{share:.0%}",
            f"{entry['bytes_per_s'] / 1e9:.1f}",
            f"{entry['experts_per_step']:.1f}",
            f"{entry['expert_reuse']:.0%}",
            *joules,
        )
    return table


def _acceptance(document: dict[str, Any]) -> Table:
    tasks = sorted({task for by_task in document["acceptance_by_task"].values() for task in by_task})
    table = _table("Accepted up to position 1, 2, ...", "drafts", "all", *tasks)
    for draft, shares in document["acceptance_by_position"].items():
        by_task = document["acceptance_by_task"][draft]
        table.add_row(draft, _shares(shares), *(_shares(by_task.get(task, [])) for task in tasks))
    return table


def _experts(document: dict[str, Any]) -> Table:
    by_rows = document["experts_by_layer"]
    table = _table("Distinct experts of neighbouring tokens", "tokens", "mean of layers", "least", "most", "of one's")
    one = by_rows[min(by_rows)]
    for rows, by_layer in by_rows.items():
        mean = sum(by_layer) / len(by_layer)
        factor = mean / (sum(one) / len(one))
        table.add_row(str(rows), f"{mean:.2f}", f"{min(by_layer):.2f}", f"{max(by_layer):.2f}", f"{factor:.2f}")
    return table


def _peer(document: dict[str, Any]) -> Table:
    peer = document["peer"]
    ours = {e["draft"]: e for e in reversed(document["decode"]) if e["sequences"] == 1}  # of equal ones the first depth
    table = _table(f"{peer['engine']} ({peer['version']})", "", "tokens/s", "p10 to p90", "ours")
    for entry in document["prompt"]:
        theirs = peer["prompt_tokens_per_s"][str(entry["tokens"])]
        table.add_row(f"prompt of {entry['tokens']}", f"{theirs:.1f}", "", f"{entry['median_tokens_per_s']:.1f}")
    for entry in peer["decode"]:
        of_ours = f"{ours[entry['draft']]['median_tokens_per_s']:.1f}" if entry["draft"] in ours else ""
        table.add_row(f"decode, {entry['draft']} drafts a step", *_rates(entry), of_ours)
    return table


def _rates(entry: dict[str, Any]) -> list[str]:
    return [f"{entry['median_tokens_per_s']:.1f}", f"{entry['p10']:.1f} to {entry['p90']:.1f}"]


def _shares(shares: list[float]) -> str:
    return ", ".join(f"{share:.2f}" for share in shares)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if column and i else "left")
    return table
