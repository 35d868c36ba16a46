"""The profile as tables and bars on a terminal; figures that a busy machine gave carry a mark."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..hardware import Hardware

BAR = 30  # characters
MARK = " [yellow]*[/]"


def report(hardware: Hardware, notes: list[str]) -> RenderableType:
    parts: list[RenderableType] = [_machine(hardware), *_sections(hardware)]
    if hardware.busy.affected:
        reasons = "; ".join(hardware.busy.reasons)
        parts.append(Text.from_markup(f"[yellow]* measured while the machine was busy, likely too low:[/] {reasons}"))
    elif hardware.busy.reasons:
        parts.append(Text("; ".join(hardware.busy.reasons), style="yellow"))
    parts += [Text(note, style="dim") for note in notes]
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _machine(hardware: Hardware) -> Table:
    machine, ram, table = hardware.machine, hardware.ram, _plain()
    if machine.preset:
        table.add_row("preset", f"{machine.preset}: nominal figures, nothing was measured")
    table.add_row("processor", f"{machine.cpu}, {cores(machine.cores)}" + (f", {machine.isa}" if machine.isa else ""))
    nodes = f" on {machine.nodes} nodes" if machine.nodes > 1 else ""
    table.add_row("memory", f"{machine.memory_bytes / 2**30:.1f} GiB{nodes}")
    if ram.cache_bytes:
        table.add_row("caches", ", ".join(f"{name} {binary(size)}" for name, size in ram.cache_bytes.items()))
    return table


def _sections(hardware: Hardware) -> Iterator[RenderableType]:
    yield _read(hardware)
    if hardware.ram.by_node:
        yield _nodes(hardware)
    if hardware.ram.read_by_size:
        yield _caches(hardware)
    if hardware.kernels:
        yield _kernels(hardware)
    for name in hardware.accelerators:
        yield _accelerator(hardware, name)
    yield _rest(hardware)


def _read(hardware: Hardware) -> Table:
    ram, best = hardware.ram, hardware.ram.best_bytes_per_s
    table = _titled("RAM, read", hardware, "ram", "threads", "GB/s", "", "p10 to p90")
    for count, rate in ram.read_bytes_per_s.items():
        spread = f"{ram.spread[count]:.0%}" if count in ram.spread else ""
        knee = "  enough" if count == ram.knee_threads else ""
        table.add_row(str(count), f"{rate / 1e9:.1f}", bar(rate / best) + knee, spread)
    if ram.small_pages_bytes_per_s:
        rate = ram.small_pages_bytes_per_s
        table.add_row("small pages", f"{rate / 1e9:.1f}", bar(rate / best), "")
    table.add_row("copies", f"{ram.copy_bytes_per_s / 1e9:.1f}", bar(ram.copy_bytes_per_s / best), "")
    return table


def _nodes(hardware: Hardware) -> Table:
    table = _titled("Memory nodes, read", hardware, "nodes", "processors <- memory", "GB/s", "")
    best = max(hardware.ram.by_node.values())
    for pair, rate in hardware.ram.by_node.items():
        table.add_row(pair, f"{rate / 1e9:.1f}", bar(rate / best))
    return table


def _caches(hardware: Hardware) -> Table:
    table = _titled("One thread, the same bytes again and again", hardware, "caches", "bytes", "GB/s", "")
    best = max(hardware.ram.read_by_size.values())
    for size, rate in hardware.ram.read_by_size.items():
        table.add_row(binary(size), f"{rate / 1e9:.1f}", bar(rate / best))
    return table


def _kernels(hardware: Hardware) -> Table:
    counts = sorted({rows for table in hardware.kernels.values() for rows in table})
    titles = [f"{count} row{'s' if count > 1 else ''}" for count in counts]
    title = "Experts, GB/s of weights; one row: of RAM, long rows of weights against others, rows as files have them"
    table = _titled(title, hardware, "kernels", "format", *titles, "of RAM", "long rows", "native")
    table.padding = (0, 1, 0, 0)  # so that it fits into a small terminal
    best = hardware.ram.best_bytes_per_s
    for name, rates in hardware.kernels.items():
        share, native = rates[min(rates)] / best, hardware.kernels_native.get(name, {})
        figures = [f"{rates[n] / 1e9:.1f}" if n in rates else "" for n in counts]
        long = f"{hardware.long_rows[name]:.0%}" if name in hardware.long_rows else ""
        table.add_row(name, *figures, f"{share:.0%}", long, f"{native[1] / 1e9:.1f}" if 1 in native else "")
    return table


def _accelerator(hardware: Hardware, name: str) -> Table:
    accelerator, link = hardware.accelerators[name], hardware.links[name]
    table = _titled(f"{name}: {accelerator.name}", hardware, "links", "", "")
    table.add_row("memory", f"{accelerator.memory_bytes / 2**30:.1f} GiB")
    table.add_row("memory, read", f"{accelerator.memory_bytes_per_s / 1e9:.0f} GB/s")
    if accelerator.flops:
        table.add_row("half-precision products", f"{accelerator.flops / 1e12:.0f} TFLOPS")
    if accelerator.launch_s:
        table.add_row("launch of a kernel", seconds(accelerator.launch_s))
    for way, direction in (("to the host", link.down), ("from the host", link.up)):
        pageable = f", pageable {max(direction.pageable.values()) / 1e9:.1f}" if direction.pageable else ""
        rate = f"{direction.bytes_per_s / 1e9:.1f} GB/s{pageable}"
        table.add_row(way, f"{rate}; {seconds(direction.latency_s)} for 4 bytes")
    if name in hardware.latency_s.hand_off:
        table.add_row("a layer's round trip", seconds(hardware.latency_s.hand_off[name]))
    return table


def _rest(hardware: Hardware) -> Table:
    table, latency = _plain(), hardware.latency_s
    marks = [MARK if "latencies" in hardware.busy.affected else "", MARK if "disk" in hardware.busy.affected else ""]
    table.add_row("call of the kernels", f"{seconds(latency.region)}, {seconds(latency.wake)} from sleep{marks[0]}")
    marked = MARK if "layer" in hardware.busy.affected else ""
    if latency.layer:
        table.add_row("a layer beside its weights", f"{seconds(latency.layer)}{marked}")
    if latency.step:
        table.add_row("a step beside its layers", f"{seconds(latency.step)}{marked}")
    if latency.experts:
        table.add_row("experts for an accelerator, beside weights", f"{seconds(latency.experts)}{marked}")
    if hardware.attention_flops:
        table.add_row("attention of one row", f"{hardware.attention_flops / 1e9:.0f} GFLOPS{marked}")
    if hardware.disk:
        cached = " (from the system's cache)" if hardware.disk.cached else ""
        rate = f"{hardware.disk.read_bytes_per_s / 1e9:.2f} GB/s"
        table.add_row("disk, mapped", f"{rate}{cached} in {hardware.disk.path}{marks[1]}")
    return table


def bar(share: float, width: int = BAR) -> str:
    """A bar in eighths of a character."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def binary(num_bytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.4g} {unit}"
    return f"{num_bytes} B"


def cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"


def seconds(value: float) -> str:
    return f"{value * 1e6:.1f} µs" if value < 1e-3 else f"{value * 1e3:.2f} ms"


def _plain() -> Table:
    return Table(show_header=False, box=None, padding=(0, 2, 0, 0))


def _titled(title: str, hardware: Hardware, section: str, *columns: str) -> Table:
    """Numbers to the right, names and bars to the left."""
    mark = MARK if section in hardware.busy.affected else ""
    table = Table(title=title + mark, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if column and i else "left", no_wrap=not i)
    return table
