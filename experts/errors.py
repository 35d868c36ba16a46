"""Errors that a user of the kernels can cause.

ValueError
└── UnsupportedFormat    a weight format that no kernel here decodes
"""


class UnsupportedFormat(ValueError):  # noqa: N818 - says what is wrong, as a sentence would
    """A tensor is stored in a block format that has no kernel."""
