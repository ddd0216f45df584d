"""`genloom chat`: a chat in the terminal with a product's model, by the running server or loaded here."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import UserError
from flows.commands.generate import Product, Seed, Stops, Temperature, Tokens, TopP, Which

if TYPE_CHECKING:
    from components.serving.place import Place

Once = Annotated[str | None, typer.Option(help="Say this, print the answer, and end.")]
System = Annotated[str | None, typer.Option(help="What the model is told before the chat.")]


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("chat")(chat)


def chat(
    product: Product,
    once: Once = None,
    system: System = None,
    seed: Seed = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: Tokens = None,
    stop: Stops = None,
    version: Which = None,
) -> None:
    """Chat with a product's model; answers come as they are written, and Ctrl-D ends."""
    from components.project import open_project
    from components.serving.place import locate

    project = open_project()
    project.product(product)
    asked = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stop": stop}
    first = secrets.randbelow(2**52) if seed is None else seed
    messages = [{"role": "system", "content": system}] if system else []
    with locate(project.settings, product, version) as place:
        if place.modality != "text":
            raise UserError(
                f"{product} makes {place.makes} and does not talk; ask it with genloom generate {product}."
            )
        if once is not None:
            _turn(place, messages, once, {**asked, "seed": first})
            return
        typer.echo(
            f"{place.product}/{place.version}, {place.where}, seed {first}; end with Ctrl-D.", err=True
        )
        for turn in range(sys.maxsize):
            try:
                said = input("> ").strip()
            except EOFError:
                break
            except UnicodeDecodeError as error:
                raise UserError(f"What was typed is no UTF-8 ({error.reason}); type it again.") from error
            if said:
                _turn(place, messages, said, {**asked, "seed": (first + turn) % 2**63})
        typer.echo()


def _turn(place: Place, messages: list[dict[str, str]], said: str, asked: dict[str, Any]) -> None:
    """Print the answer to `said` as it comes, and add both to `messages`; the oldest are forgotten when it is long."""
    from components.modalities.completion import MESSAGES
    from components.serving import speak

    messages.append({"role": "user", "content": said})
    opening = messages[0]["role"] == "system"
    del messages[opening : max(opening, len(messages) - MESSAGES + opening)]  # the model would forget them
    content = {"model": place.asked, "messages": messages, "truncation": "auto", **asked}
    answer = ""
    for piece in speak.speak(place, speak.body_of(content)):
        print(piece.text, end="", flush=True)
        answer += piece.text
    print()
    messages.append({"role": "assistant", "content": answer})
