// Completions with a changed label, side by side. Text enters the page as text nodes only.

class Flips {
  static DIRECTIONS = { up: ["提升", "up"], down: ["下降", "down"], same: ["同级", "same degree"] };
  static ALL = {
    pair: "全部模型对 all pairs",
    benchmark: "全部基准 all benchmarks",
    direction: "全部方向 all directions",
  };
  static SHOWN = 400;

  constructor(rows, names) {
    this.rows = rows;
    this.names = names;
    this.filters = { pair: $("flip-pair"), benchmark: $("flip-benchmark"), direction: $("flip-direction") };
    for (const [field, select] of Object.entries(this.filters)) {
      select.append(new Option(Flips.ALL[field], ""));
      for (const value of new Set(rows.map((row) => row[field]))) {
        select.append(new Option(field === "direction" ? Flips.DIRECTIONS[value].join(" ") : value, value));
      }
      select.addEventListener("change", () => this.list());
    }
    for (const link of document.querySelectorAll(".to-flips")) {
      link.addEventListener("click", () => {
        this.filters.pair.value = link.dataset.pair;
        this.filters.benchmark.value = link.dataset.benchmark;
        this.filters.direction.value = "";
        this.list();
      });
    }
    this.list();
  }

  list() {
    const wanted = Object.entries(this.filters).filter(([, select]) => select.value);
    const rows = this.rows.filter((row) => wanted.every(([field, select]) => row[field] === select.value));
    const shown = rows.slice(0, Flips.SHOWN);
    $("flip-count").textContent = `${rows.length}${rows.length > shown.length ? ` (${shown.length})` : ""}`;
    const buttons = shown.map((row) => {
      const [zh] = Flips.DIRECTIONS[row.direction];
      const button = make("button", "", `${zh} · ${row.messages.at(-1)[1].slice(0, 60)}`);
      button.addEventListener("click", () => this.show(row, button));
      return button;
    });
    $("flip-list").replaceChildren(...buttons.map((button) => make("li", "", button)));
    if (buttons.length) this.show(shown[0], buttons[0]);
    else $("flip-detail").replaceChildren(make("p", "muted", "没有符合条件的题目。 No question matches."));
  }

  show(row, button) {
    for (const other of $("flip-list").querySelectorAll("button")) {
      other.setAttribute("aria-current", other === button);
    }
    const [first, second] = row.pair.split(" → ");
    const question = make("div", "flip-question", make("p", "id", `${row.id} · ${row.repeat}`));
    for (const [role, content] of row.messages) {
      question.append(make("p", "small muted", role), make("pre", "", content));
    }
    if (row.key) question.append(make("p", "small", `参考答案 key: ${row.key}`));
    const sides = make("div", "sides", this.side(first, row.sides[0]), this.side(second, row.sides[1]));
    $("flip-detail").replaceChildren(question, sides);
  }

  side(variant, side) {
    const found = side.found ? make("span", "small", ` ${side.found}`) : null;
    const reasoning = side.reasoning ? make("pre", "reasoning", side.reasoning) : null;
    const verdict = make("p", "", this.names.chip(side.label, side.status), found);
    const title = make("p", "", make("b", "", variant));
    return make("div", "side", title, verdict, reasoning, make("pre", "", side.answer));
  }
}

unpack("flip-rows").then((rows) => new Flips(rows, new Names(JSON.parse($("names").textContent))));
