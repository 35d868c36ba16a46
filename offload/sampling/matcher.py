"""Where a sequence stands in its grammar, and which tokens the grammar allows next.

The tokens allowed at a position depend on the tokens before it alone. Drafts are followed ahead of what is kept, and
taken back: what they were leaves no trace.

Shapes: V vocabulary.
"""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from ..errors import GrammarError
from ..tokenizer import Tokenizer
from .grammar import Grammar

MOST_COMPILED = 16  # grammars that are kept ready
LIMITS = LLParserLimits(verbose_errors=False)  # messages without dumps of the parser


class Vocabulary:
    """A model's tokens as llguidance knows them.

    Raises:
        GrammarError: the model has no token that ends a text.

    Cost: about a second for 151552 tokens; build it once.
    """

    def __init__(self, tokenizer: Tokenizer):
        if not tokenizer.end_of_generation:
            raise GrammarError("this model has no token that ends a text, so it cannot end where a grammar does")
        self.size = tokenizer.vocab_size
        self.end_ids = tokenizer.end_of_generation
        self.only_end_V = np.isin(np.arange(self.size), list(self.end_ids))
        self._tokens = LLTokenizer(TokenizerWrapper(_Tokens(tokenizer)), eos_token=sorted(self.end_ids))
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()  # by definition, the last used at the end
        self._lock = Lock()

    def compiled(self, grammar: Grammar) -> LLMatcher:
        """A matcher at the beginning of the text. Grammars that were used lately are compiled already.

        Raises:
            GrammarError: the grammar is malformed or not supported.
        """
        definition = grammar.definition
        with self._lock:
            matcher = self._compiled.get(definition)
        if matcher is None:
            matcher = LLMatcher(self._tokens, definition, log_level=0, limits=LIMITS)
            if matcher.is_error():
                raise GrammarError(f"the {grammar.kind} cannot be used: {matcher.get_error().strip()}")
            for warning in matcher.get_grammar_warnings():
                warnings.warn(f"{grammar.kind}: {warning}", stacklevel=4)
        with self._lock:
            self._compiled[definition] = matcher
            self._compiled.move_to_end(definition)
            while len(self._compiled) > MOST_COMPILED:
                self._compiled.popitem(last=False)
            return matcher.deep_copy()


class _Tokens:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.end_of_generation)
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = tokenizer.hidden_ids

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode(errors="replace"), parse_special=False)


class Matcher:
    """A grammar and the tokens of one sequence that follow it.

    Args:
        position: of the first token that the grammar is about.

    Raises:
        GrammarError: the grammar is malformed, cannot be followed, or allows no text.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar, position: int):
        self.position = position  # of the next token that will be kept
        self.error = ""  # why the text could not follow the grammar to its end
        self._reason = ""  # the matcher's last complaint
        self._vocabulary, self._grammar, self._end_ids = vocabulary, grammar, vocabulary.end_ids
        self._kept: list[int] = []
        self._ahead: list[int] = []  # drafts that the matcher has been taken through
        self._masks: dict[tuple[int, ...], np.ndarray] = {}  # by drafts ahead
        self._matcher = vocabulary.compiled(grammar)
        self.allowed([])
        if self._matcher.is_error():
            raise GrammarError(f"the {grammar.kind} allows no text")

    def allowed(self, ahead: Sequence[int]) -> np.ndarray:
        """Tokens that may come behind the kept ones and those ahead: bool (V,), at least one is true.

        Where the grammar is complete, tokens that end the text are among them, and nowhere else.

        Args:
            ahead: tokens each of which was allowed where it stands.
        """
        key = tuple(ahead)
        if key not in self._masks:
            self._masks[key] = self._mask(key)
        return self._masks[key]

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these, from the first on, may follow the kept tokens; the masks are those of a verification."""
        num = 0
        while num < len(token_ids) and self.allowed(token_ids[:num])[token_ids[num]]:
            num += 1
        return num

    def forced(self, most: int) -> list[int]:
        """At most so many of the next tokens, as far as the grammar leaves no choice."""
        token_ids: list[int] = []
        while len(token_ids) < most and np.count_nonzero(allowed_V := self.allowed(token_ids)) == 1:
            token_ids.append(int(np.argmax(allowed_V)))
        return token_ids

    def keep(self, token_ids: Sequence[int]) -> None:
        """Moves on behind tokens that were drawn."""
        text = [token_id for token_id in token_ids if token_id not in self._end_ids]
        self._go_to(tuple(text))
        if len(text) < len(token_ids) and not self._matcher.is_accepting():
            self.error = f"the text could not follow the {self._grammar.kind} to its end: {self._reason}"
        self._kept += text
        self.position += len(token_ids)
        self._ahead.clear()
        self._masks.clear()

    def _mask(self, ahead: tuple[int, ...]) -> np.ndarray:
        if not self._end_ids.isdisjoint(ahead):
            return self._vocabulary.only_end_V
        self._go_to(ahead)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed_V = np.unpackbits(bits, count=self._vocabulary.size, bitorder="little").view(np.bool_)
        if self._matcher.is_error() or not allowed_V.any():
            self._reason = self._matcher.get_error().partition("\n")[0] or "no token may follow"
            return self._vocabulary.only_end_V
        return allowed_V

    def _go_to(self, ahead: tuple[int, ...]) -> None:
        """Takes the matcher behind the kept tokens and these."""
        if self._matcher.is_error():  # it stays so for ever; what went wrong may have been a draft
            self._matcher = self._vocabulary.compiled(self._grammar)
            self._ahead.clear()
            self._matcher.try_consume_tokens(self._kept)
        same = 0
        while same < min(len(ahead), len(self._ahead)) and ahead[same] == self._ahead[same]:
            same += 1
        if same < len(self._ahead):
            self._matcher.rollback(len(self._ahead) - same)
            del self._ahead[same:]
        num = self._matcher.try_consume_tokens(list(ahead[same:]))
        assert num == len(ahead) - same or self._matcher.is_error(), "a token is ahead that was not allowed"
        self._ahead += ahead[same : same + num]
