"""The commands ``safe-r1 recipe``: recipes of training corpora."""

from typing import Annotated

import typer

from safe_r1.errors import ConfigError

recipes = typer.Typer(no_args_is_help=True, help="Recipes of training corpora.")


@recipes.callback()
def _group() -> None:
    # With a single command typer would leave its name out.
    pass


@recipes.command("init")
def init_recipe(
    files: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, URIs or hf:OWNER/NAME with training data.")
    ],
    output: Annotated[str, typer.Option(help="The recipe to write.")] = "recipe.toml",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a recipe for your own training data: the form found in each file, and the fields not read."""

    from safe_r1.corpus.init import recipe_text
    from safe_r1.report.text import printable
    from safe_r1.runs import as_path, write_bytes

    path = as_path(output)
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; --force replaces it")
    text = recipe_text(files)
    write_bytes(path, text.encode("utf-8", errors="replace"))
    print("\n".join(map(printable, text.splitlines())) + f"\nwritten: {path}")
