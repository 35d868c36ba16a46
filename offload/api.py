"""A loaded model, as Python code uses it: logits, generation, tokenizer, chat template."""

import math
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

import experts
from scheduler import AutoPolicy, Experience, PerRequest

from .backends.devices import open_backends
from .backends.processor import use_processor
from .chat_template import ChatTemplate
from .checkpoints.checkpoint import Checkpoint
from .drafting import AutoDrafter, CheckedDrafter, Drafter, Drafters, check_drafter
from .engine import Engine
from .errors import ContextFull, OptionError, PromptError, UnsupportedModel
from .generation import Generation
from .hardware import profile_of_this_machine
from .loading.assemble import CacheSize, assemble
from .loading.context import context_of
from .loading.draft_model import load_draft_model
from .loading.layout import choose_layout
from .loading.load import Progress
from .loading.source import SourceOptions, open_source
from .loading.tensors import usable_tensors
from .placement import HOST
from .planning import Workload, check_caches, check_fits, check_ram, choose_placement, host_cache_bytes
from .planning.options import DeviceOptions
from .rehearsal import TEXT, rehearse
from .request import AUTO, DRAFTERS, GenerationRequest, sampling_params, with_known_names
from .sampling import Grammar, Matcher, Sampler, Vocabulary
from .sequence import Drafting, Sequence
from .serving import ServingLoop
from .slots import Slots
from .step_cost import step_cost_of
from .tokenizer import Tokenizer
from .transcript import Transcript
from .transformer.config import config_of
from .transformer.rows import Rows
from .transformer.weights import host_weights

__all__ = ["AUTO", "DRAFTERS", "LanguageModel", "load"]


def load(
    path: str | Path,
    *,
    context: int | None = None,
    slots: int = 1,
    cache_type: str = "f16",
    chunk_size: int = 512,
    threads: int | None = None,
    isa: str = "auto",
    pin: str = "auto",
    layout: str = "auto",
    progress: Progress = lambda done, total: None,
    quantize: str | None = None,
    mtp_quantize: str | None = None,
    mtp_model: str | None = None,
    **devices: Any,
) -> "LanguageModel":
    """Opens a model.

    Args:
        path: a GGUF file, any part of a split one, or a Hugging Face folder; hf://USER/REPO[:QUANT] is downloaded.
        context: positions in the cache of each sequence, in tokens.
        slots: sequences that the caches have room for, each of `context` positions.
        cache_type: of keys and values, one of CACHE_TYPES: "f32", "f16", "bf16" or "q8_0".
        chunk_size: prompt tokens that are computed together.
        threads: of the CPU kernels; one for each physical core if None.
        isa: vector instructions of the CPU kernels, the highest level there is if "auto".
        pin: whether each thread of the kernels keeps to a core, "on" or "off"; "auto" keeps them on their memory node.
        layout: of weights that the CPU computes with: "native" where the file is mapped, "interleaved" in a copy that
            is faster, "expanded" in one with codebook formats in more memory and less arithmetic; "auto" makes the copy
            that is fastest and fits.
        progress: called with the number of blocks loaded, and of all.
        quantize, mtp_quantize, mtp_model: fields of `SourceOptions`: formats to quantize to, another file's MTP block.
        **devices: fields of `DeviceOptions`: the device and its memory, what stands where, who drafts.

    Raises:
        DeviceMemoryFull: the device's memory does not hold the weights and caches.
        CheckpointError: the file is damaged, incomplete, or not supported.
        TokenizerError, TemplateError: its vocabulary or chat template cannot be used.
        OptionError: an argument outside its legal range, or (PlacementError) tensors placed where they cannot work.
    """
    use_processor(isa, threads, pin)
    options = with_known_names(DeviceOptions, devices)
    checkpoint = open_source(path, SourceOptions(quantize, mtp_quantize, mtp_model))
    return LanguageModel(checkpoint, context, slots, cache_type, chunk_size, layout, progress, options)


class LanguageModel:
    """A model with its caches.

    A generation runs in the thread that asks for its tokens, in a cache slot of its own; where none is free it takes
    the slot of the one that was begun first. `serve` runs as many requests at once as there are slots. Threads may
    share a model, one steps at a time; a model that is being served belongs to the loop that serves it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        context: int | None,
        slots: int,
        cache_type: str,
        chunk_size: int,
        layout: str,
        progress: Progress,
        devices: DeviceOptions,
    ):
        self.checkpoint = checkpoint
        self.config = config_of(checkpoint)
        if not self.config.num_experts:
            raise UnsupportedModel(
                f"{checkpoint.paths[0]}: a model of architecture {self.config.architecture!r} has no experts; here it "
                "can draft for a larger one (--draft-model)"
            )
        self.context = context_of(context, self.config)
        work = Workload(self.context, cache_type, chunk_size, slots)
        self.tokenizer = Tokenizer.from_metadata(checkpoint.metadata, self.config.vocab_size)
        self.chat_template = ChatTemplate.from_metadata(checkpoint.metadata, self.tokenizer)
        config, tensors = self.config, usable_tensors(checkpoint, self.config, devices.mtp_mode)
        self.backend, backends = open_backends(devices.device, devices.gpu_memory, devices.check_backends)
        backend = self.backend
        caches, draft_model = CacheSize(slots, self.context, cache_type), None
        if devices.draft_model is not None:  # first, so that the plan counts with the memory that is left
            draft_model = load_draft_model(devices.draft_model, checkpoint, backend.name, backends, caches, layout)
        placed = choose_placement(tensors, config, backend.name, backend.device_memory(), work, devices)
        check_fits(placed)
        check_caches(config, placed.placement, work)
        check_ram(tensors, placed.placement, devices.ram)
        self.placement, self.placed = placed.placement, placed
        on_host = {name: t for name, t in tensors.items() if self.placement.tensors[name] == HOST}
        self.layout = choose_layout(layout, on_host, devices.ram, host_cache_bytes(config, self.placement, work))

        self.trunk, self.mtp = assemble(tensors, config, self.placement, backends, self.layout, caches, progress)
        self.drafters = Drafters(self.mtp, draft_model, chunk_size, devices.mtp_mode == "off")
        self._chunk_size = chunk_size
        self.slots = Slots(slots)
        self._experience = Experience()
        self._policy = self.new_policy()  # keeps what it has learned of this model and machine
        self._serving: ServingLoop | None = None

    def warm_up(self, progress: Progress = lambda done, total: None) -> None:
        """Builds or loads every kernel that the model needs, and runs a few steps to learn what they take.

        So the first answer does not wait for kernels, and its drafts are priced by what was seen.

        Args:
            progress: called with steps done and steps in all; all but the last are kernels.
        """
        with self.slots.turn:
            self._check_not_served()
            draft_model = self.drafters.draft_model
            weights = (self.trunk.weights, draft_model.weights if draft_model else None)
            kinds = dict.fromkeys((w.format, w.interleaved) for w in host_weights(weights))
            for done, total in experts.preparing(list(kinds)):
                progress(done, total + 1)
            self.slots.forget(0)
            auto, text = self._policy.auto, self.tokenizer.encode(TEXT)
            self._experience = rehearse(self.trunk, self.drafters.for_rehearsal(), auto.cost, text)
            auto.learn_before(self._experience)
            progress(total + 1, total + 1)

    def logits(self, token_ids: Many[int]) -> np.ndarray:
        """Scores of the next token behind each of `token_ids`, float32 (T, V).

        Raises:
            PromptError: no tokens, ids outside the vocabulary, or more than fit into the context.
        """
        token_ids = self._checked(token_ids, 0)
        chunks = []
        with self.slots.turn:
            self._check_not_served()
            self.slots.forget(0)
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
        grammar: Grammar | None = None,
        explain: Callable[[str], None] | None = None,
        **sampling: Any,
    ) -> Generation:
        """Starts a generation: iterate over it for its tokens, or call `finish()` for its result.

        Args:
            prompt: text, or token ids.
            max_tokens: at which generation ends; less where the context ends before.
            draft: tokens to draft in each step, 0 for none, "auto" for as many as pay, which may be none. It changes
                the speed and never the text.
            drafter: "mtp", "model" (the draft model), "ngram", "none", or an object that is a `Drafter`; "auto" takes
                n-grams where the text repeats and the MTP block or draft model elsewhere (with a fixed length that
                alone, if there is one).
            stop: strings that end the text; they are not part of it.
            grammar: what the text has to look like. It is complete if the finish reason is "stop" and no stop string
                ended it.
            explain: called with one line of text for each step: the terms of its decision.
            **sampling: fields of `SamplingParams`.

        Raises:
            PromptError: an empty prompt, ids outside the vocabulary, or more than fit into the context.
            OptionError: an unknown or illegal parameter.
            GrammarError: a grammar that cannot be followed, before anything runs; also at the end of a text that
                exceeded what llguidance can keep track of.
        """
        token_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        own = None if isinstance(drafter, str) else self._own(drafter)
        request = GenerationRequest(
            token_ids,
            max_tokens,
            stop,
            sampling_params(**sampling),
            draft,
            drafter if isinstance(drafter, str) else AUTO,
            explain,
            grammar,
        )
        sequence = self.sequence(request)
        with self.slots.turn:
            self._check_not_served()
            if own is None:
                self.take_slot(sequence)
                self.catch_up(sequence)
            else:
                self._take_slot_for(sequence, own)
        engine = self.engine(CheckedDrafter(own, self.config.vocab_size) if own is not None else None)
        return Generation(engine, self.transcript(sequence, request), self.slots, explain)

    def serve(self, max_waiting: int = 64) -> "ServingLoop":
        """Starts a thread that runs requests together, as many as there are slots; see `ServingLoop`.

        Args:
            max_waiting: requests that may wait for a slot.

        Raises:
            OptionError: the model is being served already.
        """
        with self.slots.turn:
            self._check_not_served()
            self.slots.forget()
            self._serving = ServingLoop(self, max_waiting)
        return self._serving

    def sequence(self, request: GenerationRequest) -> Sequence:
        """The sequence that the request asks for, in no slot yet.

        Raises:
            PromptError: an empty prompt, ids outside the vocabulary, or more than fit into the context.
            OptionError: an illegal parameter, or (GrammarError) a grammar that cannot be followed.
        """
        for token_id in request.sampling.logit_bias:
            if token_id >= self.config.vocab_size:
                raise OptionError(
                    f"logit_bias names token {token_id}; the legal range is 0..{self.config.vocab_size - 1}"
                )
        if sum(bias == -math.inf for bias in request.sampling.logit_bias.values()) == self.config.vocab_size:
            raise OptionError(f"logit_bias bans all {self.config.vocab_size} tokens: leave at least 1")
        token_ids = self._checked(request.token_ids, 1)
        matcher = Matcher(self.vocabulary, request.grammar, len(token_ids)) if request.grammar else None
        return Sequence(
            slot=0,
            token_ids=token_ids,
            limit=min(len(token_ids) + request.max_tokens, self.context),
            sampler=Sampler(request.sampling, matcher),
            stop_ids=self.tokenizer.end_of_generation,
            drafting=self.drafters.drafting(request.drafter, request.draft),
        )

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens as grammars see them."""
        return Vocabulary(self.tokenizer)

    def prepare(self, grammar: Grammar) -> None:
        """Compiles a grammar, so that requests with it begin at once.

        Raises:
            GrammarError: it cannot be followed.
        """
        self.vocabulary.compiled(grammar)

    def take_slot(self, sequence: Sequence) -> None:
        """Puts the sequence into a slot, behind what that holds of it already."""
        self.slots.take(sequence, self.drafters.keeper(sequence.drafting))

    def catch_up(self, sequence: Sequence) -> int:
        """Copies what another slot holds of a sequence's next tokens, where that is much; how many positions."""
        keeper, before = self.drafters.keeper(sequence.drafting), sequence.num_cached
        source, num = self.slots.better(sequence, keeper)
        if num:
            with self.backend.work():
                self.trunk.cache.copy_slot(source, sequence.slot, num)
                if keeper:
                    keeper.copy_slot(source, sequence.slot, num)
            sequence.num_cached = num
        return sequence.num_cached - before

    def transcript(self, sequence: Sequence, request: GenerationRequest) -> Transcript:
        """The record of a sequence that has its slot."""
        return Transcript(sequence, self.tokenizer, request.stop)

    def engine(self, drafter: Drafter | None = None) -> Engine:
        """Steps sequences, each drafted for as its request says; by the model's own drafters if `drafter` is None."""
        return Engine(self.trunk, drafter or self.drafters.all, self._policy, self._chunk_size)

    def new_policy(self) -> PerRequest:
        """Draft lengths as requests want them; of this model's steps it knows what the warm-up has shown."""
        drafts_by = self.drafters.draft_model or self.mtp
        cost, config = step_cost_of(self.trunk, drafts_by, profile_of_this_machine()), self.config
        auto = AutoPolicy(cost, config.num_experts, config.num_used_experts, drafts_by is not None)
        auto.learn_before(self._experience)
        return PerRequest(auto)

    def _own(self, drafter: Drafter) -> Drafter:
        """A drafter of the user's own, if it can draft for this model."""
        if not isinstance(drafter, Drafter):
            raise OptionError(f"drafter is {drafter!r:.60}; choose one of {', '.join(DRAFTERS)}, or give a Drafter")
        check_drafter(drafter, self.trunk)
        return drafter

    def _take_slot_for(self, sequence: Sequence, own: Drafter) -> None:
        """Puts the sequence into a slot in which this drafter of the caller's can go on."""
        keeper = own.passes if isinstance(own, AutoDrafter) else own
        passes = keeper.backend is not None or keeper.keeps_slots
        sequence.drafting = Drafting(sequence.drafting.length, passes=passes)
        self.slots.take(sequence, keeper if keeper.keeps_slots else None)

    def _check_not_served(self) -> None:
        if self._serving is not None and self._serving.is_running:
            raise OptionError("this model is being served: submit requests to its loop, or close that")

    def _checked(self, token_ids: Many[int], room: int) -> list[int]:
        """The ids as a list, if the model can run them and `room` more."""
        if isinstance(token_ids, str | bytes) or not isinstance(token_ids, Iterable):
            raise PromptError(f"the prompt is {token_ids!r:.60}; it must be a list of token ids")
        try:
            ids = [index(token_id) for token_id in token_ids]
        except TypeError as error:
            raise PromptError(f"the prompt must be a list of token ids, whole numbers: {error}") from None
        if not ids:
            raise PromptError("the prompt is empty; it must have at least 1 token")
        for token_id in ids:
            if not 0 <= token_id < self.config.vocab_size:
                raise PromptError(f"token id {token_id} is outside the vocabulary, 0..{self.config.vocab_size - 1}")
        if len(ids) + room > self.context:
            most = self.config.context_length
            more = f", or raise the context (the model allows {most})" if most > self.context else ""
            raise ContextFull(
                f"the prompt has {len(ids)} tokens, at most {self.context - room} fit into the context of "
                f"{self.context}: shorten it{more}"
            )
        return ids
