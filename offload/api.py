"""A loaded model, as Python code uses it: logits, generation, tokenizer, chat template."""

import difflib
import warnings
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import experts
from experts.rope import rope_table
from scheduler import AutoPolicy, DraftPolicy, FixedLength

from .backend import Cache
from .chat_template import ChatTemplate
from .config import ModelConfig, config_of
from .devices import DeviceOptions, open_backends
from .drafting import AutoDrafter, Drafter, MtpDrafter, NgramDrafter, NoDrafter
from .engine import Engine
from .errors import ContextFull, OptionError, PromptError
from .generation import Generation
from .gguf import Checkpoint, open_gguf
from .layers import Layers
from .layout import choose_layout
from .load import Progress, load_weights
from .mtp import MtpBlock
from .placement import HOST, check_placement, default_placement
from .processor import use_processor
from .rows import Rows
from .sampling import Sampler, SamplingParams
from .sequence import Sequence
from .step_cost import step_cost_of
from .tensors import usable_tensors
from .tokenizer import Tokenizer
from .trunk import Trunk
from .weights import host_weights

T = TypeVar("T")

DEFAULT_CONTEXT = 8192  # tokens, or the model's own context if that is shorter
DRAFTERS = ("auto", "mtp", "ngram", "none")
AUTO = "auto"


def load(
    path: str | Path,
    *,
    context: int | None = None,
    cache_type: str = "f16",
    chunk_size: int = 512,
    threads: int | None = None,
    isa: str = "auto",
    pin: str = "auto",
    layout: str = "auto",
    progress: Progress = lambda done, total: None,
    **devices: Any,
) -> "LanguageModel":
    """Opens a GGUF file.

    Args:
        path: the file, or any part of a split one.
        context: positions in the cache, in tokens.
        cache_type: of keys and values, one of CACHE_TYPES: "f32", "f16", "bf16" or "q8_0".
        chunk_size: prompt tokens that are computed together.
        threads: of the CPU kernels; one for each physical core if None.
        isa: vector instructions of the CPU kernels, the highest level there is if "auto".
        pin: whether each thread of the kernels keeps to a core, "on" or "off"; "auto" keeps them on their memory node.
        layout: of weights that the CPU computes with: "native" where the file is mapped, "interleaved" in a copy that
            is faster; "auto" makes the copy where memory is free for it.
        progress: called with blocks loaded and blocks in all.
        **devices: fields of `DeviceOptions`: what runs everything but the routed experts, and the MTP block.

    Raises:
        DeviceMemoryFull: the device's memory does not hold the weights and caches.
        CheckpointError: the file is damaged, incomplete, or not supported.
        OptionError: an argument outside its legal range.
    """
    if chunk_size < 1:
        raise OptionError(f"chunk_size is {chunk_size}; it must be at least 1")
    use_processor(isa, threads, pin)
    options = _with_known_names(DeviceOptions, devices)
    return LanguageModel(open_gguf(path), context, cache_type, chunk_size, layout, progress, options)


class LanguageModel:
    """A model with its caches. One sequence at a time: a new generation takes the cache over from the last one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        context: int | None,
        cache_type: str,
        chunk_size: int,
        layout: str,
        progress: Progress,
        devices: DeviceOptions,
    ):
        self.checkpoint = checkpoint
        self.config = config_of(checkpoint)
        self.context = _context(context, self.config)
        self.tokenizer = Tokenizer.from_metadata(checkpoint.metadata, self.config.vocab_size)
        self.chat_template = ChatTemplate.from_metadata(checkpoint.metadata, self.tokenizer)
        config, tensors = self.config, usable_tensors(checkpoint, self.config, devices.mtp)
        self.backend, backends = open_backends(devices)
        backend = self.backend
        self.placement = default_placement(tensors, config, backend.name, devices.mtp_device)
        check_placement(self.placement, config)
        on_host = {name for name, device in self.placement.tensors.items() if device == HOST}
        self.layout = choose_layout(layout, {name: t for name, t in tensors.items() if name in on_host})

        def cache(name: str, num_layers: int) -> Cache:
            size = (num_layers, 1, config.num_kv_heads, self.context, config.head_size)
            return backend.new_cache(name, size, cache_type)

        with backend.work():
            weights = load_weights(tensors, config, self.placement, backends, self.layout, progress)
            table = backend.upload_vector("rope", rope_table(self.context, config.rotated_size, config.rope_base))
            layers = Layers(config, backend, table)
            self.trunk = Trunk(layers, weights, cache("cache", config.num_layers))
            self.mtp = MtpBlock(layers, weights.mtp, cache("MTP cache", 1)) if weights.mtp else None
        self._mtp_off = devices.mtp == "off"
        self._chunk_size = chunk_size
        self._last: Sequence | None = None
        self._last_drafter: Drafter = NoDrafter()
        self._mtp_drafter = MtpDrafter(self.mtp) if self.mtp else None
        self._auto: dict[bool, AutoPolicy] = {}  # what was learned, with passes of a drafter and without
        self._warned = False

    def warm_up(self, progress: Progress = lambda done, total: None) -> None:
        """Builds or loads every kernel that the model needs, so that the first answer does not wait for them.

        Args:
            progress: called with steps done and steps in all; all but the last are kernels.
        """
        self._last = None
        kinds = dict.fromkeys((w.format, w.interleaved) for w in host_weights(self.trunk.weights))
        for done, total in experts.preparing(list(kinds)):
            progress(done, total + 1)
        self._try_out()
        progress(total + 1, total + 1)

    def _try_out(self) -> None:
        """Runs every part of the model once."""
        rows = Rows.consecutive(0, 0, [0])
        with self.backend.work():
            hidden_TD = self.trunk.forward(rows).hidden_TD
            self.trunk.logits(hidden_TD)
            if self.mtp:
                pairs = self.backend.rows(rows)
                self.mtp.finish(pairs, self.mtp.fill(pairs, hidden_TD))

    def logits(self, token_ids: Many[int]) -> np.ndarray:
        """Scores of the next token behind each of `token_ids`, float32 (T, V).

        Raises:
            PromptError: no tokens, ids outside the vocabulary, or more than fit into the context.
        """
        token_ids = self._checked(token_ids, 0)
        self._last = None
        chunks = []
        for start in range(0, len(token_ids), self._chunk_size):
            rows = Rows.consecutive(0, start, token_ids[start : start + self._chunk_size])
            with self.backend.work():
                chunks.append(self.trunk.logits(self.trunk.forward(rows).hidden_TD))
        return np.concatenate(chunks)

    def generate(
        self,
        prompt: str | Many[int],
        *,
        max_tokens: int = 256,
        draft: int | str = AUTO,
        drafter: str | Drafter = AUTO,
        stop: Many[str] = (),
        explain: Callable[[str], None] | None = None,
        **sampling: Any,
    ) -> Generation:
        """Starts a generation: iterate over it for its tokens, or call `finish()` for its result.

        Args:
            prompt: text, or token ids.
            max_tokens: at which generation ends; less where the context ends before.
            draft: tokens to draft in each step, 0 for none, "auto" for as many as pay, which may be none. It changes
                the speed and never the text.
            drafter: "mtp", "ngram", "none", or an object that is a `Drafter`; "auto" takes n-grams where the text
                repeats and the MTP block elsewhere (with a fixed length the block alone, if there is one).
            stop: strings that end the text; they are not part of it.
            explain: called with one line of text for each step: the terms of its decision.
            **sampling: fields of `SamplingParams`.

        Raises:
            PromptError: an empty prompt, ids outside the vocabulary, or more than fit into the context.
            OptionError: an unknown or illegal parameter.
        """
        params = sampling_params(**sampling)
        if max_tokens < 1:
            raise OptionError(f"max_tokens is {max_tokens}; it must be at least 1")
        if draft != AUTO and (isinstance(draft, str) or draft < 0):
            raise OptionError(f"draft is {draft}; it must be 0 (off) or more, or {AUTO!r}")
        for token_id in params.logit_bias:
            if token_id >= self.config.vocab_size:
                raise OptionError(
                    f"logit_bias names token {token_id}; the legal range is 0..{self.config.vocab_size - 1}"
                )
        token_ids = self._checked(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt, 1)
        chosen = self._drafter(drafter, draft)
        sequence = Sequence(
            slot=0,
            token_ids=token_ids,
            limit=min(len(token_ids) + max_tokens, self.context),
            sampler=Sampler(params),
            stop_ids=self.tokenizer.end_of_generation,
            num_cached=self._reusable(token_ids, chosen),
        )
        self._last, self._last_drafter = sequence, chosen
        engine = Engine(self.trunk, chosen, self._policy(chosen, draft), self._chunk_size)
        return Generation(engine, sequence, self.tokenizer, stop, lambda: self._last is sequence, explain)

    def _policy(self, drafter: Drafter, draft: int | str) -> DraftPolicy:
        """Who decides how far to draft; what `auto` has learned of this model and machine stays."""
        if not isinstance(draft, str):
            return FixedLength(draft)
        can_draft = not isinstance(drafter, NgramDrafter | NoDrafter)
        if can_draft not in self._auto:
            cost, config = step_cost_of(self.trunk, self.mtp), self.config
            self._auto[can_draft] = AutoPolicy(cost, config.num_experts, config.num_used_experts, can_draft)
        return self._auto[can_draft]

    def _drafter(self, drafter: str | Drafter, draft: int | str) -> Drafter:
        if not isinstance(drafter, str):
            return drafter
        if drafter not in DRAFTERS:
            raise OptionError(f"drafter {drafter!r} is unknown; choose one of {', '.join(DRAFTERS)}")
        if draft == 0 or drafter == "none":
            return NoDrafter()
        if drafter == "ngram":
            return NgramDrafter()
        if self._mtp_drafter is None:
            if not self._warned and not self._mtp_off:
                instead = "only repeated text is drafted" if drafter == AUTO else "it runs without drafts"
                warnings.warn(f"this model has no usable MTP block: {instead}", stacklevel=3)
            self._warned = True
            return NgramDrafter() if drafter == AUTO else NoDrafter()
        return AutoDrafter(NgramDrafter(), self._mtp_drafter) if drafter == draft == AUTO else self._mtp_drafter

    def _reusable(self, token_ids: list[int], drafter: Drafter) -> int:
        """Positions whose cached rows the new sequence can go on from, because it begins like the last one."""
        block_drafter = _block_drafter(drafter)
        if self._last is None or (block_drafter and block_drafter is not _block_drafter(self._last_drafter)):
            return 0
        shared = 0
        for old, new in zip(self._last.token_ids, token_ids, strict=False):
            if old != new:
                break
            shared += 1
        # the MTP block pairs each row with the token behind it, so the last shared token's row has to be computed again
        return max(0, min(shared - 1, self._last.num_cached))

    def _checked(self, token_ids: Many[int], room: int) -> list[int]:
        """The ids as a list, if the model can run them and `room` more."""
        ids = [int(token_id) for token_id in token_ids]
        if not ids:
            raise PromptError("the prompt is empty; it must have at least 1 token")
        for token_id in ids:
            if not 0 <= token_id < self.config.vocab_size:
                raise PromptError(f"token id {token_id} is outside the vocabulary, 0..{self.config.vocab_size - 1}")
        if len(ids) + room > self.context:
            raise ContextFull(
                f"the prompt has {len(ids)} tokens, at most {self.context - room} fit into the context of "
                f"{self.context}: shorten it, or raise the context (the model allows {self.config.context_length})"
            )
        return ids


def _block_drafter(drafter: Drafter) -> MtpDrafter | None:
    """Who keeps the MTP block's cache in step with the trunk's."""
    drafter = drafter.mtp if isinstance(drafter, AutoDrafter) else drafter
    return drafter if isinstance(drafter, MtpDrafter) else None


def sampling_params(**arguments: Any) -> SamplingParams:
    """SamplingParams, with a misspelt name answered by the nearest one."""
    return _with_known_names(SamplingParams, arguments)


def _with_known_names(record: type[T], arguments: dict[str, Any]) -> T:
    known = [field.name for field in fields(record)]  # type: ignore[arg-type]
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise OptionError(f"unknown parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return record(**arguments)


def _context(asked: int | None, config: ModelConfig) -> int:
    if asked is None:
        return min(DEFAULT_CONTEXT, config.context_length)
    if not 2 <= asked <= config.context_length:
        raise OptionError(f"context is {asked}; the legal range is 2..{config.context_length} tokens")
    return asked
