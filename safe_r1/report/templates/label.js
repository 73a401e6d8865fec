// Labelling: one text at a time, by keyboard or mouse. Text enters the page as text nodes only.

/** Labels of all annotators of this sample, kept in the browser as they are given. */
class Labels {
  constructor(sample) {
    this.key = `safe-r1-labels/${sample}`;
    this.isKept = true;
    this.byName = {};
    try {
      this.byName = JSON.parse(localStorage.getItem(this.key)) ?? {};
    } catch {
      this.isKept = false;
    }
  }

  names() {
    return Object.keys(this.byName);
  }

  of(name) {
    return (this.byName[name] ??= {});
  }

  save() {
    try {
      localStorage.setItem(this.key, JSON.stringify(this.byName));
      this.isKept = true;
    } catch {
      this.isKept = false;
    }
  }
}

/** Order of another annotator: shuffled by the name, so that two people tire at different texts. */
function shuffled(texts, name) {
  let state = 2166136261;
  for (const char of name) state = Math.imul(state ^ char.codePointAt(0), 16777619);
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  const order = [...texts];
  for (let at = order.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1));
    [order[at], order[other]] = [order[other], order[at]];
  }
  return order;
}

class Labeller {
  static COLUMNS = ["item", "label", "annotator", "labelled_at", "note", "sample", "results_sha256"];
  static ROLES = { system: ["系统", "system"], user: ["用户", "user"], assistant: ["助手", "assistant"] };
  static SUBJECTS = { answer: ["模型回答", "answer to be labelled"], reasoning: ["推理过程", "reasoning to be labelled"] };

  constructor(about, texts) {
    this.about = about;
    this.texts = texts;
    this.labels = new Labels(about.sample);
    this.name = "";
    this.order = [];
    this.at = 0;
    $("known").append(...this.labels.names().map((name) => new Option(name, name)));
    $("annotator").value = this.labels.names()[0] ?? "";
    $("start").addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin($("annotator").value.trim());
    });
    $("previous").addEventListener("click", () => this.move(-1));
    $("next").addEventListener("click", () => this.move(1));
    $("open").addEventListener("click", () => this.goOpen());
    $("csv").addEventListener("click", () => this.download("csv"));
    $("jsonl").addEventListener("click", () => this.download("jsonl"));
    $("note").addEventListener("input", () => this.setNote());
    document.addEventListener("keydown", (event) => this.key(event));
    this.warn();
    $("annotator").focus();
  }

  begin(name) {
    if (!name) return;
    this.name = name;
    this.order = shuffled(this.texts, name);
    this.labels.of(name);
    this.labels.save();
    this.warn();
    $("welcome").hidden = true;
    $("work").hidden = false;
    this.at = Math.max(0, this.findOpen(0));
    this.show();
  }

  mine() {
    return this.labels.of(this.name);
  }

  findOpen(from) {
    const isOpen = (place) => !this.mine()[this.order[place].item]?.label;
    for (let step = 0; step < this.order.length; step++) {
      const place = (from + step) % this.order.length;
      if (isOpen(place)) return place;
    }
    return -1;
  }

  show() {
    const text = this.order[this.at];
    const given = this.mine()[text.item];
    $("text").dataset.item = text.item;
    const turns = text.messages.map(([role, content]) =>
      this.block("turn", Labeller.ROLES[role] ?? [role, ""], content),
    );
    const judged = text.subject in Labeller.SUBJECTS
      ? [this.block("judged", Labeller.SUBJECTS[text.subject], text.text)]
      : [];
    $("text").replaceChildren(...turns, ...judged);
    const prompt = this.about.prompts.find(([subject, task]) => subject === text.subject && task === text.task);
    $("prompt").replaceChildren(...both(prompt[2], prompt[3]));
    const choices = [...text.choices, [this.about.cannot_tell, "无法判断", "cannot tell"]];
    $("choices").replaceChildren(
      ...choices.map(([value, zh, en], place) => {
        const number = place < text.choices.length ? place + 1 : 0;
        const name = text.subject === "key" && number ? `${value}. ${zh}` : zh;
        const english = en && en !== zh ? make("span", "en", en) : null;
        const button = make("button", "", make("kbd", "", String(number)), " ", name, english);
        button.type = "button";
        button.dataset.key = String(number);
        button.setAttribute("aria-pressed", String(given?.label === value));
        button.addEventListener("click", () => this.choose(value));
        return button;
      }),
    );
    $("note").value = given?.note ?? "";
    this.showProgress();
    $("text").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  block(className, [zh, en], content) {
    return make("div", className, make("span", "role", ...both(zh, en)), make("div", "body", content));
  }

  showProgress() {
    const done = this.order.filter((text) => this.mine()[text.item]?.label).length;
    const total = this.order.length;
    $("progress").style.setProperty("width", `${(100 * done) / total}%`);
    $("progress").setAttribute("aria-valuenow", String(done));
    const isDone = done === total ? " · 全部完成，请导出 all done, export now" : "";
    $("status").textContent = `${this.name} · 第 ${this.at + 1} / ${total} 条 · 已标注 labelled ${done}${isDone}`;
  }

  choose(value) {
    const { item } = this.order[this.at];
    this.mine()[item] = { ...this.mine()[item], label: value, at: new Date().toISOString() };
    this.keep();
    if (this.at + 1 < this.order.length) this.move(1);
    else this.show();
  }

  setNote() {
    const { item } = this.order[this.at];
    this.mine()[item] = { ...this.mine()[item], note: $("note").value };
    this.keep();
  }

  keep() {
    this.labels.save();
    this.warn();
  }

  warn() {
    $("warning").hidden = this.labels.isKept;
  }

  move(step) {
    this.at = Math.min(this.order.length - 1, Math.max(0, this.at + step));
    this.show();
  }

  goOpen() {
    const place = this.findOpen(this.at);
    if (place >= 0) this.at = place;
    this.show();
  }

  key(event) {
    if (!this.name || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === $("note") && (event.key === "Enter" || event.key === "Escape")) $("text").focus();
    else if (event.target.closest("input")) return;
    else if (/^[0-9]$/.test(event.key)) {
      const button = $("choices").querySelector(`[data-key="${event.key}"]`);
      if (!button) return;
      button.click();
    } else if (event.key === "ArrowLeft") this.move(-1);
    else if (event.key === "ArrowRight") this.move(1);
    else if (event.key === "n") $("note").focus();
    else if (event.key === "u") this.goOpen();
    else if (event.key === "e") this.download("csv");
    else return;
    event.preventDefault();
  }

  rows() {
    const { sample, results_sha256 } = this.about;
    return this.texts
      .filter((text) => this.mine()[text.item]?.label)
      .map((text) => {
        const { label, at, note } = this.mine()[text.item];
        return [text.item, label, this.name, at, note ?? "", sample, results_sha256];
      });
  }

  download(format) {
    const rows = this.rows();
    const columns = Labeller.COLUMNS;
    const content = format === "csv" ? toCsv([columns, ...rows]) : toJsonl(columns, rows);
    const type = format === "csv" ? "text/csv" : "application/x-ndjson";
    const link = make("a", "");
    link.href = URL.createObjectURL(new Blob([content], { type: `${type};charset=utf-8` }));
    link.download = `labels-${this.about.sample}-${this.name.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

/** CSV with a byte-order mark; a text that a spreadsheet could run as a formula gets an apostrophe. */
function toCsv(rows) {
  const cell = (value) => {
    const text = /^['\s]*[=+\-@＝＋－＠−]|^['\t\r\n]/u.test(value) ? `'${value}` : value;
    return `"${text.replaceAll('"', '""')}"`;
  };
  return `\ufeff${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}

function toJsonl(columns, rows) {
  const objects = rows.map((row) => Object.fromEntries(columns.map((name, place) => [name, row[place]])));
  return objects.map((each) => `${JSON.stringify(each)}\n`).join("");
}

unpack("texts").then((texts) => new Labeller(JSON.parse($("about").textContent), texts));
