"""The benchmark as a picture: speeds under the ceiling, where a step's time goes, acceptance, shared experts."""

from typing import Any

from ..plotting import new_figure


def plot(document: dict[str, Any]) -> Any:
    figure, axes = new_figure(2, 2, f"{document['model']} on {document['machine']['cpu']}")
    labels = [_label(entry, document["decode"]) for entry in document["decode"]]
    _speeds(document, labels, axes[0, 0])
    _parts(document, labels, axes[0, 1])
    _accepted(document, labels, axes[1, 0])
    _experts(document, axes[1, 1])
    return figure


def _label(entry: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Only what differs between entries."""
    words = [{"auto": "auto", 1: "1 draft"}.get(entry["draft"], f"{entry['draft']} drafts")]
    if len({e["sequences"] for e in entries}) > 1:
        words.append(f"{entry['sequences']} at once")
    if len({e["depth"] for e in entries}) > 1:
        words.append(f"depth {entry['depth']}")
    return "\n".join(words)


def _speeds(document: dict[str, Any], labels: list[str], ax: Any) -> None:
    medians = [e["median_tokens_per_s"] for e in document["decode"]]
    below = [max(0.0, e["median_tokens_per_s"] - e["p10"]) for e in document["decode"]]
    above = [max(0.0, e["p90"] - e["median_tokens_per_s"]) for e in document["decode"]]
    ax.bar(range(len(labels)), medians, yerr=[below, above], capsize=4, width=0.6, label="median, p10 to p90")
    ax.axhline(document["ceiling_tokens_per_s"], color="black", linestyle="--", label="ceiling without drafts")
    if document["peer"]:
        peer = document["peer"]
        ax.axhline(peer["decode_tokens_per_s"], color="tab:red", linestyle=":", label=f"{peer['engine']}, no drafts")
    _named(ax, labels)
    ax.set(ylabel="tokens/s", title="Decoding")
    ax.margins(y=0.25)
    ax.legend(fontsize=8)


def _parts(document: dict[str, Any], labels: list[str], ax: Any) -> None:
    names = list(dict.fromkeys(name for e in document["decode"] for name in e["seconds_per_step"]))
    bottom = [0.0] * len(labels)
    for name in names:
        ms = [1e3 * e["seconds_per_step"].get(name, 0.0) for e in document["decode"]]
        ax.bar(range(len(labels)), ms, bottom=bottom, width=0.6, label=name)
        bottom = [a + b for a, b in zip(bottom, ms, strict=True)]
    _named(ax, labels)
    ax.set(ylabel="milliseconds", title="A step by its parts")
    ax.margins(y=0.25)
    ax.legend(fontsize=8, ncols=3)


def _accepted(document: dict[str, Any], labels: list[str], ax: Any) -> None:
    drafting = [
        (e, label) for e, label in zip(document["decode"], labels, strict=True) if len(e["accepted_drafts"]) > 1
    ]
    width = 0.8 / max(1, len(drafting))
    for i, (entry, label) in enumerate(drafting):
        counts = entry["accepted_drafts"]
        shares = [count / sum(counts) for count in counts]
        at = [n + (i - (len(drafting) - 1) / 2) * width for n in range(len(counts))]
        ax.bar(at, shares, width=width, label=label.replace("\n", ", "))
    ax.set(xlabel="drafts accepted in a step", ylabel="share of steps", title="Acceptance")
    ax.xaxis.get_major_locator().set_params(integer=True)
    if drafting:
        ax.legend(fontsize=8)


def _experts(document: dict[str, Any], ax: Any) -> None:
    for rows, by_layer in document["experts_by_layer"].items():
        ax.plot(range(1, len(by_layer) + 1), by_layer, marker="o", markersize=3, label=f"{rows}")
    ax.set(xlabel="layer with experts", ylabel="distinct experts", ylim=(0, None))
    ax.set_title("Experts of neighbouring tokens")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=8, title="tokens", loc="center left", bbox_to_anchor=(1, 0.5))


def _named(ax: Any, labels: list[str]) -> None:
    ax.set_xticks(range(len(labels)), labels, fontsize=8, rotation=0 if len(labels) <= 6 else 60)
