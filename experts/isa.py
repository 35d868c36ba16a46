"""Which vector instructions the kernels may use, decided once before the first kernel is built."""

from llvmlite import binding
from numba.core.registry import cpu_target

LEVELS = ("avx512vnni", "avx512", "avx2", "plain")

_NEEDS = {
    "avx512vnni": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma", "f16c"},
    "avx2": {"avx2", "fma", "f16c"},
    "plain": set(),
}

_chosen: str | None = None
_used = False


def features() -> frozenset[str]:
    """Processor features that numba compiles for, a subset of what the host has."""
    listed = str(cpu_target.target_context.codegen().magic_tuple()[2])
    return frozenset(flag[1:] for flag in listed.split(",") if flag.startswith("+"))


def missing(name: str) -> list[str]:
    """Features that a level needs and the processor lacks, or numba's settings leave out."""
    return sorted(_NEEDS[name] - features())


def best() -> str:
    """The highest level that the processor and numba's settings allow."""
    return next(level for level in LEVELS if not missing(level))


def level() -> str:
    """The level in force: the forced one, else the best one."""
    return _chosen or best()


def force(name: str) -> None:
    """Uses this level instead of the best one.

    Raises:
        ValueError: Unknown level, one above what the processor has, or kernels are already built for another one.
    """
    global _chosen
    if name not in LEVELS:
        raise ValueError(f"unknown level {name!r}: one of {', '.join(LEVELS)}")
    if missing(name):
        raise ValueError(f"level {name!r} needs {', '.join(missing(name))}: this processor has at most {best()!r}")
    if _used and name != level():
        raise ValueError(
            f"kernels are already built for {level()!r}: {name!r} has to be chosen at the start of a process"
        )
    _chosen = name


def settle() -> str:
    """Freezes the level, because compiled kernels now depend on it, and returns it."""
    global _used
    _used = True
    return level()


def fused() -> bool:
    """Whether a fused multiply-add is one instruction; without it products are rounded before they are added."""
    return _is_arm() or (level() != "plain" or "fma" in features())


def halves() -> bool:
    """Whether the processor converts float16 itself."""
    return _is_arm() or "f16c" in features()


def permutes() -> bool:
    """Whether what permutes.py needs is there."""
    return level() == "avx512vnni" and {"avx512vbmi", "avx512bitalg", "gfni"} <= features()


def is_x86() -> bool:
    """Whether the processor is of the x86-64 family."""
    return str(binding.get_process_triple()).startswith("x86_64")


def _is_arm() -> bool:
    return str(binding.get_process_triple()).startswith(("aarch64", "arm64"))
