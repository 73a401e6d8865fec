"""The commands ``safe-r1 attacks``; they import what they need when they run, so that `--help` is fast."""

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Attacks: other ways to ask a question.")

Chosen = Annotated[
    list[str],
    typer.Argument(
        help="Attacks (pinyin), combinations (pinyin+role), sets (zh-quick), translation:FILE, TOML files."
    ),
]


def _visible(text: str) -> str:
    """The text with code points for control characters and whatever else cannot be seen."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"⟦U+{ord(char):04X}⟧" for char in text)


@app.command("list")
def list_attacks(
    chosen: Annotated[
        list[str] | None, typer.Argument(help="Attacks, combinations, sets, TOML files; default: all known.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List attacks: family, what the target has to take, how the meaning can be checked, source."""
    from rich.console import Console
    from rich.table import Table

    from safe_r1.attacks.choose import parse_attacks
    from safe_r1.attacks.identity import attack_identity
    from safe_r1.attacks.registry import SETS, get_attack, names
    from safe_r1.config.adaptive import METHODS

    attacks = parse_attacks(chosen) if chosen else list(map(get_attack, names()))
    rows = [
        {
            "name": attack.name,
            "family": attack.family,
            "needs": sorted(attack.needs),
            "keeps": attack.keeps,
            "source": attack.source,
            "summary": attack.summary,
            **({"identity": attack_identity(attack)} if as_json else {}),
        }
        for attack in attacks
    ]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    table = Table(box=None)
    for name in ("name", "family", "needs", "keeps"):
        table.add_column(name, no_wrap=True)
    table.add_column("summary")
    table.add_column("source")
    for row in rows:
        table.add_row(
            *(
                _visible(", ".join(row[name]) if name == "needs" else row[name])
                for name in ("name", "family", "needs", "keeps", "summary", "source")
            )
        )
    console = Console()
    console.print(table, markup=False)
    if not chosen:
        for name, members in SETS.items():
            console.print(f"{name} ({len(members)}): {', '.join(members)}", markup=False)
        console.print(f"attacks that adapt (evaluate --attack): {', '.join(METHODS)}", markup=False)


@app.command()
def show(
    chosen: Chosen,
    question: Annotated[str, typer.Option(help="The question to be asked in these ways.")],
    sample_id: Annotated[
        str, typer.Option(help="Id of the question: with a run's seed, what that run asked.")
    ] = "shown",
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show a question as attacks ask it; nothing is sent anywhere."""
    from safe_r1.attacks.apply import attack_sample
    from safe_r1.attacks.choose import parse_attacks
    from safe_r1.schema import Message, Sample

    sample = Sample(sample_id, "", "refusal", "", "", [Message(role="user", content=question)])
    for attack in parse_attacks(chosen):
        prompt = attack_sample(sample, attack, seed)
        if as_json:
            print(json.dumps({"attack": attack.name, **prompt._asdict()}, ensure_ascii=False))
            continue
        print(f"== {attack.name}" + ("" if prompt.is_applied else " (nothing to change in this question)"))
        for turn in prompt.messages:
            print(f"[{turn['role']}] {_visible(turn['content'])}")
        if prompt.thought is not None:
            print(f"[thought] {_visible(prompt.thought)}")
        if prompt.prefill is not None:
            print(f"[answer] {_visible(prompt.prefill)}")
