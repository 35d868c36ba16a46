"""How the CPU is used: vector instructions, threads, their places, memory nodes. One setting for the whole process."""

from numbers import Integral

import experts
from experts import isa
from experts.threads.numa import interleave_memory

from ..errors import OptionError

LEVELS = ("auto", *isa.LEVELS)


def use_processor(level: str = "auto", threads: int | None = None, pin: str = "auto") -> None:
    """Settles how kernels run; to be called before a model's file is touched.

    On several memory nodes this thread's new pages are spread over them, as by numactl --interleave=all.

    Args:
        level: vector instructions; "auto" is the highest level that the processor has, or the one already in force.
        threads: of the CPU kernels; None is one for each physical core.
        pin: "on" keeps each worker on a core, "off" lets the system move them, "auto" keeps them on their memory
            node where there are several.

    Raises:
        OptionError: an unknown value, or more than the processor has.
    """
    if threads is not None and not isinstance(threads, Integral):
        raise OptionError(f"threads is {threads}; it must be a whole number from 1")
    try:
        if level != "auto":
            isa.force(level)
        if threads is not None:
            experts.set_threads(threads)
        experts.set_pinning(pin)
    except ValueError as error:
        raise OptionError(str(error)) from None
    interleave_memory()
