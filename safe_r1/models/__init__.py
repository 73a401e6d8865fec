"""Model variants: their table, their files, their prompts and the splitting of their completions."""
