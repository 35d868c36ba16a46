"""Every error that a user can cause.

    MoeOffloadError (a ValueError)
    |-- CheckpointError          the model file
    |   |-- NotAGguf             another kind of file, or no file at all
    |   |-- TruncatedFile        it ends before what its header promises
    |   |-- UnsupportedModel     well formed, but nothing here can run it
    |   |-- MissingTensors       the architecture needs tensors that it lacks
    |   |-- NoScores             weights or caches from which no numbers come
    |   `-- HubError             a repository of the Hugging Face Hub that cannot be had
    |-- TokenizerError           vocabulary, merges, pre-tokenizer
    |-- TemplateError            the chat template, or the messages given to it
    |-- PromptError              a prompt that cannot be run
    |   `-- ContextFull          prompt and answer exceed the context
    |-- Unavailable              requests cannot be taken now; the same one may be later, or elsewhere
    |   |-- QueueFull            as many wait as may
    |   |-- Closing              the server is shutting down
    |   `-- EngineFailed         a step failed for all that took part in it
    |-- OptionError              a flag, a parameter or a field of a request
    |   |-- GrammarError         a schema, regular expression or grammar that cannot be followed
    |   `-- PlacementError       tensors on devices where they cannot work together
    |-- HardwareError            the profile of a machine that cannot be read, or a measurement that cannot be made
    `-- DeviceMemoryFull         an accelerator has less memory than is asked of it

Each message names the value, the legal range and the fix. Our own mistakes are
assertions and do not stand here.
"""

# ruff: noqa: N818 - the names say what happened: "ContextFull" needs no "Error".


class MoeOffloadError(ValueError):
    """Something that the user can put right."""


class CheckpointError(MoeOffloadError):
    """A model file that cannot be used."""


class NotAGguf(CheckpointError):
    """The path leads to no file, or to a file of another kind."""


class TruncatedFile(CheckpointError):
    """The file ends before what its header promises: usually an unfinished download."""


class UnsupportedModel(CheckpointError):
    """A well-formed file of a version, block format or architecture that is not supported."""


class MissingTensors(CheckpointError):
    """The architecture needs tensors that the file lacks."""


class NoScores(CheckpointError):
    """The model's scores are NaN or infinite: no token can be drawn from them."""


class HubError(CheckpointError):
    """A repository of the Hugging Face Hub that is not there, not open to the user, or cannot be fetched now."""


class TokenizerError(MoeOffloadError):
    """A vocabulary that cannot be used, or token ids outside it."""


class TemplateError(MoeOffloadError):
    """A broken chat template, or messages that it refuses."""


class PromptError(MoeOffloadError):
    """A prompt that cannot be run."""


class ContextFull(PromptError):
    """The prompt and the tokens asked for do not fit into the context."""


class Unavailable(MoeOffloadError):
    """Requests cannot be taken or finished now, through no fault of theirs."""


class QueueFull(Unavailable):
    """As many requests wait as may."""


class Closing(Unavailable):
    """No more requests are taken, and those that waited are not begun."""


class EngineFailed(Unavailable):
    """A step failed for all sequences that took part in it; the cause is chained."""


class OptionError(MoeOffloadError):
    """A flag, parameter or request field outside its legal range."""


class GrammarError(OptionError):
    """A JSON schema, regular expression or grammar that is malformed, unsupported, or allows no text."""


class PlacementError(OptionError):
    """Tensors that work together were placed on different devices."""


class HardwareError(MoeOffloadError):
    """A profile of a machine that cannot be read or written, or a measurement that cannot be made here."""


class DeviceMemoryFull(MoeOffloadError):
    """An accelerator has less memory than the model and its caches need."""
