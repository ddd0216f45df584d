"""Text to tokens and back: characters, bytes, or byte-level BPE trained on the dataset; chat by a template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.decoders import DecodeStream

from components import files
from components.errors import UserError
from components.families.family import END

Scheme = Literal["characters", "bytes", "bpe"]
BOUNDARY, UNKNOWN = "<|end|>", "<|unknown|>"
TURN = "<|stop|>"
"""Ends a turn of a chat, as `BOUNDARY` ends a document."""
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
TEMPLATE = (
    "{{ '<|end|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|stop|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LONG = 2000
"""Characters from which a text is encoded as many are: that lets other threads go on."""
FILES = ("tokenizer.json", "tokenizer_config.json")
"""The files of a tokenizer, named and written as Hugging Face's `transformers` reads them."""
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + place): byte for place, byte in enumerate(sorted(set(range(256)) - set(PRINTABLE)))
}
"""The byte of each character of a byte-level token: GPT-2 writes bytes that are not printable as others."""
MARK, MARKED = "\ue000{}\ue001", re.compile("\ue000[0-9]+\ue001")
"""Stands for a message's content while the template is rendered, so that no content can pass as a special token."""


class TextTokenizer:
    """The tokenizer of one dataset; it lies in the prepared data and in every artifact trained on it."""

    def __init__(self, core: Tokenizer, template: str | None) -> None:
        """`template` is the Jinja template of a chat, or None where the model does not chat."""
        self.core, self.template = core, template
        # what a person writes is text, also where it looks like a special token
        core.encode_special_tokens = True

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.core.get_vocab_size())

    @property
    def turn(self) -> int:
        """The token that ends an answer: a turn of a chat, or the document."""
        return self.id_of(TURN) if self.template else END

    def id_of(self, special: str) -> int:
        """The number of a special token."""
        found = self.core.token_to_id(special)
        assert found is not None, special
        return int(found)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, none of them special."""
        if len(text) > LONG:
            return self.encode_all([text])[0]
        return list(self.core.encode(text, add_special_tokens=False).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of many texts, by all cores."""
        return [list(found.ids) for found in self.core.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special ones, and bytes that are no whole character, are left out or shown as �."""
        return str(self.core.decode(list(tokens), skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A decoder for tokens that come one by one."""
        return TextStream(self.core)

    def chat(self, messages: Sequence[Mapping[str, str]], answer: bool = True) -> list[int]:
        """The tokens of a chat by the template; `answer` opens the assistant's turn at the end.

        Raises `UserError` for a role that the template does not know, or a model that does not chat.
        """
        roles = [message["role"] for message in messages]
        return self.compose(roles, [self.encode(message["content"]) for message in messages], answer)

    def compose(self, roles: Sequence[str], contents: Sequence[list[int]], answer: bool = True) -> list[int]:
        """The tokens of a chat whose `contents` are tokens already; see `chat`."""
        if self.template is None:
            raise UserError("This model has no chat template; ask it by /v1/completions instead.")
        for role in roles:
            if role not in ROLES:
                raise UserError(f"There is no role “{role}”; there are: {', '.join(ROLES)}.")
        marked = [{"role": role, "content": MARK.format(place)} for place, role in enumerate(roles)]
        pieces = MARKED.split(self._render(marked, answer))
        if len(pieces) != len(contents) + 1:
            raise UserError("The chat template of this model leaves out or repeats a message; mend it.")
        tokens: list[int] = []
        for piece, content in zip(pieces, contents, strict=False):
            tokens += self._special(piece) + content
        return tokens + self._special(pieces[-1])

    def _render(self, messages: list[dict[str, str]], answer: bool) -> str:
        try:
            template = ImmutableSandboxedEnvironment().from_string(str(self.template))
            return template.render(messages=messages, add_generation_prompt=answer)
        except TemplateError as error:
            raise UserError(f"The chat template of this model does not work ({error}); mend it.") from error

    def _special(self, text: str) -> list[int]:
        """The tokens of the template's own text, special ones included."""
        return list(self._template_core.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _template_core(self) -> Tokenizer:
        """The same tokenizer, but it reads special tokens; one of its own, because threads share the other."""
        return Tokenizer.from_str(self.core.to_str())

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for: UTF-8, or a part of a character where tokens are bytes."""
        name = str(self.core.id_to_token(token))
        if token in self._specials or not isinstance(self.core.decoder, decoders.ByteLevel):
            return name.encode("utf-8")
        return bytes(BYTES[character] for character in name)

    @cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(self.core.get_added_tokens_decoder())

    def save(self, folder: Path) -> None:
        """Write the files into `folder`, each at once."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOUNDARY,
            "eos_token": TURN if self.template else BOUNDARY,
            "clean_up_tokenization_spaces": False,
        }
        if self.core.token_to_id(UNKNOWN) is not None:
            config["unk_token"] = UNKNOWN
        if self.template:
            config["chat_template"] = self.template
        for name, content in zip(
            FILES, (self.core.to_str(pretty=True), json.dumps(config, indent=2)), strict=True
        ):
            files.write(folder / name, content)


class TextStream:
    """Turns tokens into text as they come; a character is given out only when all its bytes are there."""

    def __init__(self, core: Tokenizer) -> None:
        self.core, self.decoder = core, DecodeStream(skip_special_tokens=True)
        self.tokens: list[int] = []
        self.given = 0

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps none."""
        self.tokens.append(token)
        text = self.decoder.step(self.core, token) or ""
        self.given += len(text)
        return text

    def end(self) -> str:
        """What is left when no more tokens come: � for bytes that are no whole character."""
        return str(self.core.decode(self.tokens, skip_special_tokens=True))[self.given :]


def train_tokenizer(scheme: Scheme, texts: Iterable[str], vocabulary: int, chat: bool) -> TextTokenizer:
    """A tokenizer for `texts`; `vocabulary` is the number of tokens that BPE may have (Sennrich et al. 2016).

    `BOUNDARY` is token 0. With `chat`, the roles' tokens and the template are there too.
    """
    specials = [BOUNDARY, *([UNKNOWN] if scheme == "characters" else [])]
    specials += [*ROLES.values(), TURN] if chat else []
    core = (
        _characters(texts, specials)
        if scheme == "characters"
        else _bytes(scheme, texts, specials, vocabulary)
    )
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return TextTokenizer(core, TEMPLATE if chat else None)


def _characters(texts: Iterable[str], specials: list[str]) -> Tokenizer:
    """One token a character of the training texts, in the order of Unicode; others are `UNKNOWN`."""
    known: set[str] = set()
    for text in texts:
        known.update(text)
    words = [*specials, *sorted(known)]
    core = Tokenizer(models.WordLevel({name: place for place, name in enumerate(words)}, UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return core


def _bytes(scheme: Scheme, texts: Iterable[str], specials: list[str], vocabulary: int) -> Tokenizer:
    """One token a byte, or pieces of words that byte-pair encoding merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = scheme == "bpe"
    if words:
        core = Tokenizer(models.BPE())
    else:
        core = Tokenizer(models.BPE({name: place for place, name in enumerate([*specials, *alphabet])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    core.decoder = decoders.ByteLevel()
    if words:
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        )
        core.train_from_iterator(texts, trainer)
    return core


def load_vocabulary(folder: Path) -> dict[str, int]:
    """The tokens of any Hugging Face tokenizer, by their text; raises `UserError` if it cannot be read."""
    try:
        return dict(Tokenizer.from_file(str(folder / FILES[0])).get_vocab())
    except Exception as error:  # tokenizers raises bare Exception
        cause = " ".join(str(error).split())
        raise UserError(f"The file {folder / FILES[0]} cannot be read ({cause}); copy it again.") from error


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer whose files lie in `folder`; raises `UserError` if they cannot be read."""
    try:
        core = Tokenizer.from_file(str(folder / FILES[0]))
        config = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
        template = config.get("chat_template")
    except Exception as error:  # tokenizers raises bare Exception
        cause = " ".join(str(error).split())
        raise UserError(
            f"The tokenizer in {folder} cannot be read ({cause}); prepare the data or fetch the model again."
        ) from error
    return TextTokenizer(core, template)
