"""What text is measured against: transformers' own models, trained and sampled as one would write it by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

STEPS, WARM_UP, BATCH, CONTEXT = 2000, 100, 12, 64
"""nanoGPT's recipe for a CPU (README, "I only have a macbook"), whose loss is the mean of 20 sampled batches."""
RATE, LOWEST = 1e-3, 1e-4
SAMPLED = 20


def recipe(train: Tensor, held_out: Tensor, vocabulary: int) -> tuple[float, float, float]:
    """Train GPT-2 (4 layers, 4 heads, 128 wide, no dropout) by nanoGPT's recipe on tokens [N].

    Returns the seconds of its 2,000 steps, its loss on 20 sampled batches, and on all of `held_out` [M].
    """
    torch.manual_seed(1337)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    others = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), fused=True)
    began = time.perf_counter()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step)
        loss = surprise(model, windows(train, BATCH, CONTEXT + 1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - began
    model.eval()
    with torch.no_grad():
        sampled = [surprise(model, windows(held_out, BATCH, CONTEXT + 1)) for _ in range(SAMPLED)]
        return seconds, float(torch.stack(sampled).mean()), _whole(model, held_out)


def cosine(step: int) -> float:
    """nanoGPT's learning rate at `step`: linear warm-up, then half a cosine down to a tenth."""
    if step < WARM_UP:
        return RATE * (step + 1) / (WARM_UP + 1)
    done = (step - WARM_UP) / (STEPS - WARM_UP)
    return LOWEST + 0.5 * (1 + math.cos(math.pi * done)) * (RATE - LOWEST)


def windows(tokens: Tensor, rows: int, length: int) -> Tensor:
    """Windows [rows, length] of `tokens` [N], drawn anywhere."""
    first = torch.randint(len(tokens) - length, (rows, 1))
    return tokens[first + torch.arange(length)]


def surprise(model: torch.nn.Module, rows: Tensor) -> Tensor:
    """The mean cross entropy in nats of the tokens of `rows` [N, T] after the first."""
    logits = model(rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def _whole(model: torch.nn.Module, tokens: Tensor) -> float:
    """The mean over all of `tokens` but the first, each predicted once, with 48 to 64 tokens before it."""
    stride = CONTEXT // 4
    total, count = 0.0, 0
    for part in _sliding(tokens, CONTEXT + 1, stride):
        logits = model(part[:, :-1]).logits[:, -stride:]
        total += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), part[:, -stride:].flatten(), reduction="sum"
            )
        )
        count += part.shape[0] * stride
    return total / count


def _sliding(tokens: Tensor, length: int, stride: int, rows: int = 256) -> Iterator[Tensor]:
    yield from torch.split(tokens.unfold(0, length, stride), rows)


def llama(
    layers: int, heads: int, width: int, hidden: int, context: int, vocabulary: int
) -> LlamaForCausalLM:
    """A Llama of that shape with tied embeddings, freshly initialised."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        attention_bias=False,
    )
    return LlamaForCausalLM(config)
