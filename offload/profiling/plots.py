"""The profile as a picture: roofline with formats on it, bandwidth by threads, by bytes read again, link by size."""

from typing import Any

from ..hardware import Hardware
from ..hardware.speeds import KERNEL_FORMATS
from ..plotting import new_figure
from .report import binary, cores

GB = 1e9
FLOPS_PER_WEIGHT = 2  # of one row


def plot(hardware: Hardware) -> Any:
    """A figure with as many panels as there are measurements."""
    panels = [_roofline, _threads]
    if hardware.ram.read_by_size:
        panels.append(_sizes)
    if any(link.down.pinned or link.down.pageable for link in hardware.links.values()):
        panels.append(_links)
    machine = hardware.machine
    figure, axes = new_figure((len(panels) + 1) // 2, 2, machine.preset or f"{machine.cpu}, {cores(machine.cores)}")
    for panel, ax in zip(panels, axes.flat, strict=False):
        panel(hardware, ax)
        ax.grid(True, which="major", alpha=0.3)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    if hardware.busy.affected:
        figure.supxlabel("the machine was busy: figures are likely too low", fontsize=9)
    return figure


def _roofline(hardware: Hardware, ax: Any) -> None:
    """Operations a second of the experts by operations a byte: more rows on the same weights go to the right."""
    best = hardware.ram.best_bytes_per_s
    intensities = []
    for i, (name, rates) in enumerate(hardware.kernels.items()):
        fmt = KERNEL_FORMATS[name]
        per_byte = FLOPS_PER_WEIGHT * fmt.block_weights / fmt.block_bytes
        rows = sorted(rates)
        x = [n * per_byte for n in rows]
        y = [rates[n] * n * per_byte / GB for n in rows]
        intensities += x
        ax.plot(x, y, marker="osD^v<>"[i % 7], markersize=4, linewidth=1, label=name)
    low, high = (min(intensities) / 1.5, max(intensities) * 1.5) if intensities else (1.0, 30.0)
    ax.plot([low, high], [low * best / GB, high * best / GB], color="black", label=f"RAM, {best / GB:.0f} GB/s")
    ax.set(xscale="log", yscale="log", title="Experts under the roofline of the memory")
    ax.set(xlabel="operations a byte of weights (one point a number of rows)", ylabel="billion operations a second")
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(subs=(1, 2, 5))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    ax.legend(fontsize=7, ncols=2 if len(hardware.kernels) > 6 else 1)


def _threads(hardware: Hardware, ax: Any) -> None:
    ram = hardware.ram
    counts = sorted(ram.read_bytes_per_s)
    rates = [ram.read_bytes_per_s[n] / GB for n in counts]
    errors = [ram.spread.get(n, 0.0) * rate / 2 for n, rate in zip(counts, rates, strict=True)]
    ax.errorbar(counts, rates, yerr=errors, marker="o", capsize=3, label="read, median and p10 to p90")
    ax.axvline(ram.knee_threads, linestyle="--", color="gray", label=_enough(ram.knee_threads))
    ax.axhline(ram.copy_bytes_per_s / GB, linestyle=":", color="tab:orange", label="copies, bytes copied")
    ax.set(xlabel="threads", ylabel="GB/s", ylim=(0, None), title="Read bandwidth of the RAM")
    if counts[-1] > 16:
        ax.set_xscale("log", base=2)
    apart = [n for i, n in enumerate(counts) if i == 0 or n >= 1.3 * counts[i - 1]]
    ax.set_xticks(apart, [str(n) for n in apart])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="lower right")


def _enough(threads: int) -> str:
    return "1 thread is enough" if threads == 1 else f"{threads} threads are enough"


def _sizes(hardware: Hardware, ax: Any) -> None:
    sizes = sorted(hardware.ram.read_by_size)
    ax.plot(sizes, [hardware.ram.read_by_size[s] / GB for s in sizes], marker="o")
    ax.set(xlabel="bytes that one thread reads again and again", ylabel="GB/s", ylim=(0, None), title="Caches")
    count = max(1, hardware.machine.cores)
    for name, size in hardware.ram.cache_bytes.items():
        own = size / (1 if name == "L3" else count)
        ax.axvline(own, linestyle="--", color="gray")
        ax.text(own, 0, f" {name}", va="bottom")
    _size_axis(ax, sizes)


def _links(hardware: Hardware, ax: Any) -> None:
    for name, link in hardware.links.items():
        for way, direction in (("to the host", link.down), ("from the host", link.up)):
            for kind, style, rates in (("pinned", "-", direction.pinned), ("pageable", ":", direction.pageable)):
                sizes = sorted(rates)
                if sizes:
                    y = [rates[s] / GB for s in sizes]
                    ax.plot(sizes, y, style, marker="o", label=f"{name} {way}, {kind}")
                    _size_axis(ax, sizes)
    ax.set(yscale="log", xlabel="bytes of a transfer", ylabel="GB/s", title="Link by size")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=8)


def _size_axis(ax: Any, sizes: list[int]) -> None:
    ax.set_xscale("log", base=2)
    ticks = sizes[:: -(-len(sizes) // 7)]
    ax.set_xticks(ticks, [binary(size) for size in ticks])
    ax.minorticks_off()
