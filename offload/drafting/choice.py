"""Who drafts for a request: of the drafters that a model has, the ones that it asks for."""

import warnings

from ..errors import OptionError
from ..request import AUTO
from ..sequence import OFF, Drafting
from ..transformer.mtp import MtpBlock
from ..transformer.trunk import Trunk
from .auto import AutoDrafter
from .model import ModelDrafter
from .mtp import MtpDrafter
from .ngram import NgramDrafter
from .protocol import Drafter


class Drafters:
    """Of one model: n-grams, and the draft model, or else the MTP block, if there is one.

    Args:
        mtp: the MTP block, if it was loaded.
        draft_model: a draft model, which takes its place.
        chunk_size: tokens that a draft model computes together.
        mtp_off: the MTP block was left out on purpose; nobody is warned that there is none.
    """

    def __init__(self, mtp: MtpBlock | None, draft_model: Trunk | None, chunk_size: int, mtp_off: bool):
        self.mtp, self.draft_model = mtp, draft_model
        self.passes = ModelDrafter(draft_model, chunk_size) if draft_model else MtpDrafter(mtp) if mtp else None
        self.all: Drafter = AutoDrafter(NgramDrafter(), self.passes) if self.passes else NgramDrafter()
        self._warned = mtp_off

    def drafting(self, drafter: str, draft: int | str) -> Drafting:
        """How a sequence is drafted for, by a request's fields.

        Raises:
            OptionError: a drafter that the model does not have.
        """
        length = None if isinstance(draft, str) else draft
        if draft == 0 or drafter == "none":
            return OFF
        if drafter == "ngram":
            return Drafting(length, ngram=True, passes=False)
        if drafter == "model" and self.draft_model is None:
            raise OptionError("drafter 'model': there is no draft model; load one by draft_model (--draft-model FILE)")
        if drafter == "mtp" and self.draft_model is not None:
            raise OptionError("drafter 'mtp': a draft model was loaded in place of the MTP block; leave that out")
        if self.passes is not None:
            return Drafting(length, ngram=drafter == draft == AUTO, passes=True)
        if not self._warned:
            instead = "only repeated text is drafted" if drafter == AUTO else "it runs without drafts"
            warnings.warn(f"this model has no usable MTP block: {instead}", stacklevel=4)
        self._warned = True
        return Drafting(length, ngram=True, passes=False) if drafter == AUTO else OFF

    def keeper(self, drafting: Drafting) -> MtpDrafter | None:
        """Who has to have seen all of a sequence to draft for it."""
        return self.passes if isinstance(self.passes, MtpDrafter) and drafting.passes else None

    def for_rehearsal(self) -> Drafter | None:
        """An MTP drafter of its own, so that the one of requests remembers nothing of it; or the draft model's."""
        return MtpDrafter(self.mtp) if self.mtp else self.passes
