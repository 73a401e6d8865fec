"""From samples and attacks to attacked samples, as tables for Ray Data's ``map_batches``.

``dataset.map_batches(AttackBatch(attacks, seed), batch_format="pyarrow")`` gives one row for each sample and
attack; the key of a row is ``sample_id`` with ``attack``.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from safe_r1.attacks.base import Attack, AttackedPrompt, clean, seeded
from safe_r1.errors import DataError
from safe_r1.schema import MESSAGES_TYPE, SAMPLE_SCHEMA, Message, Sample, Task

ATTACKED_TASKS: tuple[Task, ...] = ("refusal", "over_refusal")
"""Tasks whose questions can be attacked: risky ones, and harmless ones in the same writing."""

ATTACKED_SCHEMA = pa.schema(
    [
        *SAMPLE_SCHEMA,
        pa.field("attack", pa.string(), False),
        pa.field("question", pa.string(), False),
        ("prefill", pa.string()),
        ("thought", pa.string()),
        pa.field("is_applied", pa.bool_(), False),
    ]
)
"""A sample as an attack asks it. ``messages`` are what the target is asked, ``question`` is the plain last
turn; ``prefill``, ``thought`` and ``is_applied`` are those of ``AttackedPrompt``.
"""
# Samples at once: the strings of a chunk have offsets of 32 bits, and few objects are quickly collected.
_CHUNK = 128
_UNUSED = random.Random(0)


@dataclass(frozen=True)
class AttackBatch:
    """A batch of samples under several attacks; can be sent to workers.

    Attributes:
        attacks: From ``parse_attacks``.
        seed: Of all that is drawn.
    """

    attacks: tuple[Attack, ...]
    seed: int = 0

    def __call__(self, samples: pa.Table) -> pa.Table:
        """See ``attack_table``."""
        return attack_table(samples, self.attacks, self.seed)


def attack_sample(sample: Sample, attack: Attack, seed: int) -> AttackedPrompt:
    """The dialogue of a sample, its last turn asked as the attack asks it.

    Raises:
        DataError: The sample cannot be attacked; see ``attack_table``.
    """
    [question] = _questions([sample.sample_id], [sample.task], [sample.messages])
    return _attack(sample.sample_id, sample.messages, question, attack, seed)


def attack_table(samples: pa.Table, attacks: Sequence[Attack], seed: int) -> pa.Table:
    """Every sample under every attack.

    Args:
        samples: Rows of ``SAMPLE_SCHEMA``.
        attacks: With different names.
        seed: Of all that is drawn.

    Returns:
        Rows of ``ATTACKED_SCHEMA``, by sample and then by attack.

    Raises:
        DataError: A sample is of another task than ``ATTACKED_TASKS``, or its last turn is not the user's; or
            a table of translations has no entry for a question.
    """
    if len({attack.name for attack in attacks}) < len(attacks):
        raise ValueError("two attacks have one name")
    samples = samples.select(SAMPLE_SCHEMA.names).cast(SAMPLE_SCHEMA)
    chunks = [
        _attack_chunk(samples.slice(start, _CHUNK), attacks, seed)
        for start in range(0, samples.num_rows, _CHUNK)
    ]
    return pa.concat_tables(chunks) if chunks else ATTACKED_SCHEMA.empty_table()


def _attack_chunk(samples: pa.Table, attacks: Sequence[Attack], seed: int) -> pa.Table:
    ids = samples["sample_id"].to_pylist()
    dialogues = samples["messages"].to_pylist()
    questions = _questions(ids, samples["task"].to_pylist(), dialogues)
    prompts = [
        _attack(sample_id, dialogue, question, attack, seed)
        for sample_id, dialogue, question in zip(ids, dialogues, questions, strict=True)
        for attack in attacks
    ]
    repeated = samples.take(pa.array([row for row in range(len(ids)) for _ in attacks], pa.int64()))
    columns = {name: repeated[name] for name in SAMPLE_SCHEMA.names} | {
        "messages": _message_array(prompts),
        "attack": pa.array([attack.name for attack in attacks] * len(ids), pa.string()),
        "question": pa.array([question for question in questions for _ in attacks], pa.string()),
        "prefill": pa.array([prompt.prefill for prompt in prompts], pa.string()),
        "thought": pa.array([prompt.thought for prompt in prompts], pa.string()),
        "is_applied": pa.array([prompt.is_applied for prompt in prompts], pa.bool_()),
    }
    return pa.table([columns[name] for name in ATTACKED_SCHEMA.names], ATTACKED_SCHEMA)


def _message_array(prompts: Sequence[AttackedPrompt]) -> pa.ListArray:
    """The dialogues, column by column: several times faster than row by row."""
    roles: list[str] = []
    contents: list[str] = []
    offsets = [0]
    for prompt in prompts:
        for turn in prompt.messages:
            roles.append(turn["role"])
            contents.append(turn["content"])
        offsets.append(len(roles))
    columns = [pa.array(roles, pa.string()), pa.array(contents, pa.string())]
    structs = pa.StructArray.from_arrays(columns, fields=list(MESSAGES_TYPE.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=MESSAGES_TYPE)


def _questions(ids: Iterable[str], tasks: Iterable[str], dialogues: Iterable[list[Message]]) -> list[str]:
    """The last turns, which are what an attack changes."""
    found = []
    for sample_id, task, messages in zip(ids, tasks, dialogues, strict=True):
        if task not in ATTACKED_TASKS:
            raise DataError(
                f"{sample_id}: questions of the task {task} cannot be attacked; choose questions of "
                f"{' or '.join(ATTACKED_TASKS)}"
            )
        if not messages or messages[-1]["role"] != "user":
            raise DataError(f"{sample_id}: an attacked dialogue has to end with a user's turn")
        found.append(clean(messages[-1]["content"]))
    return found


def _attack(
    sample_id: str, messages: Sequence[Message], question: str, attack: Attack, seed: int
) -> AttackedPrompt:
    rng = seeded(seed, attack.name, sample_id) if attack.is_random else _UNUSED
    prompt = attack.apply(question, rng)
    if len(messages) == 1:
        return prompt
    earlier = list(messages[:-1])
    turns = list(prompt.messages)
    if earlier[0]["role"] == "system" and turns[0]["role"] == "system":
        # Templates take one system turn.
        content = f"{earlier[0]['content']}\n\n{turns[0]['content']}"
        return AttackedPrompt(
            (Message(role="system", content=content), *earlier[1:], *turns[1:]),
            prompt.prefill,
            prompt.thought,
            prompt.is_applied,
        )
    first = [turns.pop(0)] if turns[0]["role"] == "system" else []
    return AttackedPrompt((*first, *earlier, *turns), prompt.prefill, prompt.thought, prompt.is_applied)
