"use strict";
// The rows of the run: unpacked from the page, searched and filtered. Nothing here changes the page.

const $ = (id) => document.getElementById(id);

async function unpack(id) {
  const element = $(id);
  const raw = atob(element.textContent);
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

class Store {
  static KEPT_CHUNKS = 24;

  constructor(index, names) {
    this.samples = index.samples;
    this.rows = index.rows;
    this.chunkRows = index.chunk_rows;
    this.names = names;
    this.size = this.rows.sample.length;
    this.repeats = [...new Set(this.rows.repeat)].sort((a, b) => a - b);
    this.hasSwapped = this.samples.some((sample) => sample.swapped);
    this.chunks = new Map();
    this.haystacks = null;
    this.place = new Map();
    for (let row = 0; row < this.size; row++) {
      this.place.set(`${this.sample(row).id}\n${this.rows.repeat[row]}`, row);
    }
  }

  static async open() {
    return new Store(await unpack("index"), JSON.parse($("names").textContent));
  }

  sample(row) {
    return this.samples[this.rows.sample[row]];
  }

  /** Row of a sample in a repeat, else its first row, else -1. */
  find(id, repeat) {
    return this.place.get(`${id}\n${repeat}`) ?? this.place.get(`${id}\n${this.repeats[0]}`) ?? -1;
  }

  /** The last turn of the dialogue: the question itself. */
  question(row) {
    const messages = this.sample(row).messages;
    return messages.length ? messages[messages.length - 1][1] : "";
  }

  /** Reasoning, explanations and tokens of a row, from its chunk. */
  async detail(row) {
    const number = Math.floor(row / this.chunkRows);
    let chunk = this.chunks.get(number);
    this.chunks.delete(number);
    this.chunks.set(number, (chunk ??= unpack(`details-${number}`)));
    if (this.chunks.size > Store.KEPT_CHUNKS) this.chunks.delete(this.chunks.keys().next().value);
    return (await chunk)[row % this.chunkRows];
  }

  /** Rows that pass every filter of the state, in the order of the run. */
  filter(state) {
    const found = [];
    const query = state.q.trim().toLowerCase();
    if (query) this.#buildHaystacks();
    for (let row = 0; row < this.size; row++) {
      if (this.#passes(row, state) && (!query || this.#holds(row, query))) found.push(row);
    }
    return found;
  }

  #passes(row, state) {
    const sample = this.sample(row);
    const rows = this.rows;
    return (
      (!state.task || sample.task === state.task) &&
      (!state.area || sample.area === state.area) &&
      (!state.category || sample.category === state.category) &&
      (!state.status || rows.status[row] === state.status) &&
      (state.repeat === "" || String(rows.repeat[row]) === state.repeat) &&
      (!state.order || sample.swapped === (state.order === "swapped")) &&
      (!state.label || this.#hasLabel(row, state.label))
    );
  }

  #hasLabel(row, label) {
    if (label === "leak") return this.rows.leak[row] === 1;
    if (label.startsWith("r:")) return this.rows.reasoning_label[row] === label.slice(2);
    const mine = this.rows.label[row];
    return mine === label || (label === "incorrect" && mine === "no_choice");
  }

  #buildHaystacks() {
    if (this.haystacks) return;
    const ofSample = (sample) => {
      const texts = [...sample.messages, ...sample.options].map((pair) => pair[1]);
      return [sample.id, ...texts].join("\n").toLowerCase();
    };
    this.haystacks = {
      samples: this.samples.map(ofSample),
      answers: this.rows.answer.map((text) => (text ?? "").toLowerCase()),
    };
  }

  #holds(row, query) {
    const { samples, answers } = this.haystacks;
    return samples[this.rows.sample[row]].includes(query) || answers[row].includes(query);
  }
}
