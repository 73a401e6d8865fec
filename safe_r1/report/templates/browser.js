// The list with its filters, keyboard commands and links; the address after "#" holds its state.

const FIELDS = ["q", "task", "area", "category", "label", "status", "repeat", "order"];
const ROW_HEIGHT = 62;
const OVERSCAN = 6;
const ADDRESS_PAUSE_MS = 350;

class Browser {
  constructor(store) {
    this.store = store;
    this.names = new Names(store.names);
    this.state = Object.fromEntries(FIELDS.map((field) => [field, ""]));
    this.found = [];
    this.row = -1;
    this.isPicked = false; // only a row that the reader picked is written to the address
    this.list = $("list");
    this.detail = new Detail(store, this.names, $("detail"), (row) => this.pick(row));
    this.#buildFilters();
    this.#listen();
    this.readAddress(false);
  }

  #select(field) {
    return $(`f-${field}`);
  }

  #fillSelect(field, all, rows) {
    const element = this.#select(field);
    const option = ([value, zh, en]) => new Option(en && en !== zh ? `${zh}  ${en}` : zh, value);
    element.replaceChildren(new Option(all, ""), ...rows.map(option));
    element.value = this.state[field];
    if (element.selectedIndex < 0) element.value = this.state[field] = "";
  }

  #buildFilters() {
    const { names, rows, repeats, hasSwapped } = this.store;
    const present = (values) => new Set(values);
    const tasks = present(this.store.samples.map((sample) => sample.task));
    this.#fillSelect("task", "任务 task", names.tasks.filter(([key]) => tasks.has(key)));
    this.#fillSelect("area", "领域 area", names.areas);
    this.#fillCategories();
    const answers = present(rows.label);
    const reasonings = present(rows.reasoning_label);
    this.#fillSelect("label", "标签 label", [
      ...names.labels.filter(([key]) => answers.has(key)),
      ...(rows.leak.includes(1) ? [["leak", "⚠ 回答拒绝，推理过程有害", "leaked in reasoning"]] : []),
      ...names.labels
        .filter(([key]) => reasonings.has(key))
        .map(([key, zh, en]) => [`r:${key}`, `推理过程：${zh}`, en]),
    ]);
    const statuses = present(rows.status);
    this.#fillSelect("status", "状态 status", names.statuses.filter(([key]) => statuses.has(key)));
    const repeatRows = repeats.map((repeat) => [String(repeat), `重复 ${repeat}`, ""]);
    this.#fillSelect("repeat", "重复 repeat", repeatRows);
    const orders = [["plain", "原题", "original"], ["swapped", "选项倒序", "reversed"]];
    this.#fillSelect("order", "选项顺序 order", orders);
    this.#select("repeat").hidden = repeats.length < 2;
    this.#select("order").hidden = !hasSwapped;
  }

  #fillCategories() {
    const { area } = this.state;
    const rows = this.store.names.categories.filter((row) => !area || row[3] === area);
    this.#fillSelect("category", "类别 category", rows);
  }

  #listen() {
    let timer = 0;
    $("q").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.set("q", $("q").value), 60);
    });
    for (const field of FIELDS.slice(1)) {
      this.#select(field).addEventListener("change", (event) => this.set(field, event.target.value));
    }
    $("filters").addEventListener("reset", (event) => {
      event.preventDefault(); // the browser's own, later reset would undo a filter chosen in the meantime
      this.clear();
    });
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    this.list.addEventListener("scroll", () => requestAnimationFrame(() => this.#draw()), { passive: true });
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("[data-row]");
      if (item) this.pick(Number(item.dataset.row), true);
    });
    new ResizeObserver(() => this.#draw()).observe(this.list);
    document.addEventListener("keydown", (event) => this.#key(event));
    window.addEventListener("hashchange", () => this.readAddress(true));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.closest("input, select, textarea") !== null;
    if (event.key === "Escape" && event.target === $("q")) {
      $("q").value = "";
      this.set("q", "");
      this.list.focus();
    } else if (isTyping) {
      if (event.target === $("q") && (event.key === "ArrowDown" || event.key === "Enter")) this.list.focus();
      else return;
    } else if (!this.#command(event)) return;
    event.preventDefault();
  }

  #command(event) {
    const { top, bottom } = $("browser").getBoundingClientRect();
    // Keys act only while the browser of samples is in view.
    if (event.key !== "/" && (bottom < 0 || top > innerHeight)) return false;
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW_HEIGHT) - 1);
    const moves = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    Object.assign(moves, { Home: -Infinity, End: Infinity });
    const isLetter = event.key.length === 1;
    if (event.key in moves && (isLetter || document.activeElement === this.list)) this.move(moves[event.key]);
    else if (event.key === "/") $("q").focus();
    else if (event.key === "r") this.detail.toggleReasoning();
    else if (event.key === "[" || event.key === "]") this.#turnRepeat(event.key === "]" ? 1 : -1);
    else if (event.key === "Escape" && document.activeElement === this.list) this.clear();
    else return false;
    return true;
  }

  #turnRepeat(step) {
    const { repeats, rows } = this.store;
    if (this.row < 0) return;
    const next = repeats[(repeats.indexOf(rows.repeat[this.row]) + step + repeats.length) % repeats.length];
    this.pick(this.store.find(this.store.sample(this.row).id, next));
  }

  set(field, value) {
    this.state[field] = value;
    if (field === "area") this.#fillCategories();
    this.#apply();
  }

  clear() {
    for (const field of FIELDS) this.state[field] = "";
    this.#showState();
    this.#apply();
  }

  move(step) {
    if (!this.found.length) return;
    const at = this.found.indexOf(this.row);
    const next = Math.min(this.found.length - 1, Math.max(0, at + step));
    this.pick(this.found[next]);
  }

  pick(row, isClick = false) {
    this.isPicked = true;
    this.#show(row);
    this.#writeAddress();
    const isNarrow = matchMedia("(max-width: 860px)").matches;
    if (isClick && isNarrow) $("detail").scrollIntoView({ block: "start" });
  }

  #show(row) {
    this.row = row;
    const at = this.found.indexOf(row);
    if (at >= 0) this.#reveal(at);
    this.#draw();
    this.detail.show(row, this.state.q.trim().toLowerCase());
  }

  #reveal(at) {
    const top = at * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.list;
    if (top < scrollTop) this.list.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight) {
      this.list.scrollTop = top + ROW_HEIGHT - clientHeight;
    }
  }

  #apply() {
    this.found = this.store.filter(this.state);
    $("spacer").style.height = `${this.found.length * ROW_HEIGHT}px`;
    const [found, all] = [this.found.length, this.store.size].map((number) => number.toLocaleString());
    $("count").textContent = `${found} / ${all} 行 rows`;
    const isKept = this.found.includes(this.row) && this.isPicked;
    if (!isKept) this.isPicked = false;
    if (!isKept) this.list.scrollTop = 0;
    this.#show(isKept ? this.row : this.found[0] ?? -1);
    this.#writeAddress();
  }

  #showState() {
    this.#fillCategories();
    $("q").value = this.state.q;
    for (const field of FIELDS.slice(1)) this.#select(field).value = this.state[field];
  }

  readAddress(isFollowed) {
    const hash = location.hash.slice(1);
    const given = hash.includes("=") ? new URLSearchParams(hash) : new URLSearchParams();
    clearTimeout(this.addressTimer);
    if (isFollowed && !hash.includes("=")) return; // an ordinary anchor of the page
    for (const field of FIELDS) this.state[field] = given.get(field) ?? "";
    const id = given.get("id");
    const row = id === null ? -1 : this.store.find(id, given.get("repeat") ?? this.store.repeats[0]);
    if (id !== null) this.state.repeat = given.get("only") ?? "";
    this.#showState();
    this.isPicked = row >= 0;
    this.row = row;
    this.#apply();
    if (hash.includes("=")) $("samples").scrollIntoView({ behavior: "instant" });
  }

  /** Writes the address once the reader pauses: browsers limit how often a page may do so. */
  #writeAddress() {
    clearTimeout(this.addressTimer);
    this.addressTimer = setTimeout(() => this.#putAddress(), ADDRESS_PAUSE_MS);
  }

  #putAddress() {
    const address = new URLSearchParams();
    for (const field of FIELDS) if (this.state[field]) address.set(field, this.state[field]);
    if (this.isPicked && this.row >= 0) {
      if (this.state.repeat) address.set("only", this.state.repeat);
      address.set("id", this.store.sample(this.row).id);
      address.set("repeat", this.store.rows.repeat[this.row]);
    }
    const text = address.toString();
    if (text || location.hash.includes("=")) history.replaceState(null, "", text ? `#${text}` : "#samples");
  }

  #draw() {
    const { scrollTop, clientHeight } = this.list;
    const first = Math.max(0, Math.floor(scrollTop / ROW_HEIGHT) - OVERSCAN);
    const last = Math.min(this.found.length, Math.ceil((scrollTop + clientHeight) / ROW_HEIGHT) + OVERSCAN);
    const items = [];
    for (let at = first; at < last; at++) items.push(this.#item(at));
    $("spacer").replaceChildren(...items);
    if (this.row >= 0) this.list.setAttribute("aria-activedescendant", `row-${this.row}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  #item(at) {
    const row = this.found[at];
    const { rows, repeats } = this.store;
    const sample = this.store.sample(row);
    const repeat = repeats.length > 1 ? ` · ${rows.repeat[row]}` : "";
    const item = make(
      "div",
      "item",
      make("div", "excerpt", this.#excerpt(row)),
      make(
        "div",
        "meta",
        this.names.chip(rows.label[row], rows.status[row]),
        rows.leak[row] ? make("span", "chip harmful", "⚠ 推理过程") : null,
        make("span", "id", sample.id.slice(sample.id.indexOf("/") + 1) + repeat),
      ),
    );
    item.id = `row-${row}`;
    item.dataset.row = row;
    item.style.transform = `translateY(${at * ROW_HEIGHT}px)`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(row === this.row));
    item.setAttribute("aria-setsize", this.found.length);
    item.setAttribute("aria-posinset", at + 1);
    return item;
  }

  /** The beginning of the question, or the context of the searched text in question or answer. */
  #excerpt(row) {
    const query = this.state.q.trim().toLowerCase();
    for (const text of query ? [this.store.question(row), this.store.rows.answer[row] ?? ""] : []) {
      const at = text.toLowerCase().indexOf(query);
      if (at < 0) continue;
      const context = text.slice(at > 12 ? at - 8 : 0, at + 80).replace(/\s+/g, " ");
      return marked((at > 12 ? "…" : "") + context, query);
    }
    return this.store.question(row).slice(0, 90);
  }
}

async function start() {
  const loading = $("loading");
  if (typeof DecompressionStream === "undefined") {
    loading.textContent =
      "浏览器版本过旧，无法解压样本。 This browser cannot unpack the samples: no DecompressionStream (2023).";
    return;
  }
  try {
    const store = await Store.open();
    $("browser").hidden = false;
    new Browser(store);
    loading.remove();
  } catch (error) {
    loading.textContent = `样本无法读取。 The samples cannot be read: ${error.message}`;
    throw error;
  }
}

start();
