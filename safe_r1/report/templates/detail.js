// One row in full: dialogue, options, reasoning and answer with their verdicts.
// Text enters the page as text nodes only.

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function both(zh, en) {
  const english = make("span", "en", en);
  english.lang = "en";
  return [zh, " ", english];
}

/** The text with every occurrence of the query marked. */
function marked(text, query) {
  const parts = document.createDocumentFragment();
  const low = text.toLowerCase();
  // In some scripts lower case has another length, so that positions would not match: leave it unmarked.
  if (!query || low.length !== text.length) return parts.append(text), parts;
  let from = 0;
  for (let at = low.indexOf(query); at >= 0; at = low.indexOf(query, from)) {
    parts.append(text.slice(from, at), make("mark", "", text.slice(at, at + query.length)));
    from = at + query.length;
  }
  parts.append(text.slice(from));
  return parts;
}

class Names {
  constructor(names) {
    const byKey = ([kind, rows]) => [kind, new Map(rows.map((row) => [row[0], row]))];
    this.tables = Object.fromEntries(Object.entries(names).map(byKey));
  }

  of(kind, key) {
    const row = this.tables[kind].get(key);
    return row ? [row[1], row[2]] : [key, ""];
  }

  /** A small box with the label of a part, or with the status of the row where it has no label. */
  chip(label, status) {
    const [zh, en] = label ? this.of("labels", label) : this.of("statuses", status);
    const tone = label ? this.tables.labels.get(label)?.[3] : status;
    return make("span", `chip ${tone ?? ""}`, ...both(zh, en));
  }
}

class Detail {
  constructor(store, names, element, go) {
    this.store = store;
    this.names = names;
    this.element = element;
    this.go = go;
    this.isFolded = false;
    this.row = -1;
  }

  async show(row, query) {
    this.row = row;
    if (row < 0) {
      const empty = both("没有符合条件的样本。", "No sample matches the filters.");
      this.element.replaceChildren(make("p", "empty muted", ...empty));
      return;
    }
    const parts = make("div", "parts");
    const sample = this.store.sample(row);
    const options = this.#options(row, sample) ?? "";
    this.element.replaceChildren(this.#head(row, sample), this.#dialogue(sample, query), options, parts);
    this.element.scrollTop = 0;
    const detail = await this.store.detail(row);
    if (this.row === row) this.#fill(parts, row, detail, query);
  }

  toggleReasoning() {
    const details = this.element.querySelector("details.reasoning");
    if (details) details.open = !details.open;
  }

  #head(row, sample) {
    const link = make("a", "id", sample.id);
    link.href = `#${new URLSearchParams({ id: sample.id, repeat: this.store.rows.repeat[row] })}`;
    const [areaZh, areaEn] = this.names.of("areas", sample.area);
    const [zh, en] = this.names.of("categories", sample.category);
    const line = make("p", "where", `${areaZh} › ${zh} `, ...both("", `${areaEn} › ${en}`).slice(2));
    const tools = make("div", "tools");
    for (const repeat of this.store.repeats.length > 1 ? this.store.repeats : []) {
      const button = make("button", "", `重复 ${repeat}`);
      button.type = "button";
      button.setAttribute("aria-pressed", String(repeat === this.store.rows.repeat[row]));
      button.addEventListener("click", () => this.go(this.store.find(sample.id, repeat)));
      tools.append(button);
    }
    if (sample.twin !== null) {
      const title = sample.swapped ? ["看原题", "original"] : ["看选项倒序", "reversed"];
      const twin = make("button", "", ...both(...title));
      const twinId = this.store.samples[sample.twin].id;
      twin.type = "button";
      twin.addEventListener("click", () => this.go(this.store.find(twinId, this.store.rows.repeat[row])));
      tools.append(twin);
    }
    const swapped = sample.swapped ? make("span", "chip plain", ...both("选项倒序", "reversed")) : null;
    return make("header", "", make("div", "", link, swapped, line), tools);
  }

  #dialogue(sample, query) {
    const roles = { system: ["系统", "system"], user: ["用户", "user"], assistant: ["助手", "assistant"] };
    const turns = sample.messages.map(([role, content]) => {
      const name = make("span", "role", ...both(...(roles[role] ?? [role, ""])));
      const text = make("div", "text", marked(content, query));
      return make("div", `turn ${role in roles ? role : "other"}`, name, text);
    });
    return make("div", "dialogue", ...turns);
  }

  #options(row, sample) {
    if (!sample.options.length) return null;
    const choice = this.store.rows.choice[row];
    const items = sample.options.map(([letter, text]) => {
      const isKey = letter === sample.key;
      const isChosen = letter === choice;
      const keyTitle = both("✓ 参考答案", sample.confidence ? `key · ${sample.confidence}` : "key");
      return make(
        "li",
        `${isKey ? "is-key" : ""} ${isChosen ? "is-chosen" : ""}`,
        make("span", "letter", letter),
        make("span", "text", text),
        isKey ? make("span", "tag key", ...keyTitle) : null,
        isChosen ? make("span", "tag chosen", ...both("● 模型选择", "chosen")) : null,
      );
    });
    return make("ul", "options", ...items);
  }

  #fill(parts, row, detail, query) {
    const rows = this.store.rows;
    const [answerVerdict, reasoningVerdict] = detail.verdicts;
    if (detail.error) {
      const title = make("h4", "", ...both("引擎错误", "Engine error"));
      parts.append(make("div", "part error", title, make("div", "text", detail.error)));
    }
    if (detail.reasoning) parts.append(this.#reasoning(parts, row, detail.reasoning, reasoningVerdict));
    const answer = rows.answer[row];
    const text =
      answer === null
        ? make("div", "text muted", ...both("没有回答。", "No answer."))
        : make("div", "text", marked(answer, query));
    const chip = this.names.chip(rows.label[row], rows.status[row]);
    const title = make("h4", "", ...both("回答", "Answer"), chip);
    parts.append(make("section", "part", title, this.#why(answerVerdict), text));
    parts.classList.toggle("folded", this.isFolded && Boolean(detail.reasoning));
    const [prompt, completion] = detail.tokens;
    const finish = detail.finish && `finish ${detail.finish}`;
    const facts = [`提示 prompt ${prompt} tokens`, `生成 completion ${completion} tokens`, finish];
    parts.after(make("p", "small muted", facts.filter(Boolean).join(" · ")));
  }

  #reasoning(parts, row, reasoning, verdict) {
    const size = make("span", "muted size", `${reasoning.length.toLocaleString()} 字`);
    const chip = verdict && this.names.chip(this.store.rows.reasoning_label[row], "unscored");
    const summary = make("summary", "", ...both("推理过程", "Reasoning"), chip, size);
    const body = make("details", "reasoning part", summary);
    body.append(this.#why(verdict) ?? "", make("div", "text", reasoning));
    body.open = !this.isFolded;
    body.addEventListener("toggle", () => {
      this.isFolded = !body.open;
      parts.classList.toggle("folded", this.isFolded);
    });
    return body;
  }

  /** Judge, reason and explanation of a verdict in one line. */
  #why(verdict) {
    const words = (verdict ?? []).filter(Boolean).join(" · ");
    return words ? make("p", "why", words) : null;
  }
}
