"""SMILES to tokens and back: one token an atom, a bond, a branch or the end of a ring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from components.errors import UserError
from components.modalities.tokenizer import BOUNDARY, UNKNOWN, TextTokenizer

PATTERN = r"\[[^\]\s]+\]|Br|Cl|[BCNOSPFIbcnosp]|%\(\d+\)|%\d{2}|\d|[().=#$:/\\~<>+-]"
"""An atom in brackets, an atom, the end of a ring, a branch, a bond (Schwaller et al. 2018, section 3.1)."""
TOKEN = re.compile(PATTERN)


def spelled(smiles: str) -> list[str]:
    """The tokens of a SMILES, or of the beginning of one; raises `UserError` for what is none."""
    tokens, place = list[str](), 0
    while place < len(smiles):
        found = TOKEN.match(smiles, place)
        if found is None:
            raise UserError(f"In the SMILES “{smiles}”, no token begins at “{smiles[place:]}”; mend it.")
        tokens.append(found[0])
        place = found.end()
    return tokens


def is_spelled(smiles: str) -> bool:
    """Whether a SMILES consists of tokens."""
    return sum(map(len, TOKEN.findall(smiles))) == len(smiles)


def train_smiles(texts: Iterable[str], bands: Sequence[str] = ()) -> TextTokenizer:
    """A tokenizer with all tokens of these SMILES, in the order of Unicode, behind a token for each of `bands`."""
    specials = [BOUNDARY, UNKNOWN, *map(band_token, bands)]
    known = {token for text in texts for token in TOKEN.findall(text)}
    words = {name: place for place, name in enumerate([*specials, *sorted(known)])}
    core = Tokenizer(models.WordLevel(words, UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return TextTokenizer(core, None)


def band_token(band: str) -> str:
    """The token before a molecule whose property lies in a band."""
    return f"<|{band}|>"
