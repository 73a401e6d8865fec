"use strict";
const $ = id => document.getElementById(id);
const make = (name, text, cls) => {
  const node = document.createElement(name);
  // Texts of users and models are texts of the page, never its markup.
  if (text !== undefined && text !== null) node.textContent = text;
  if (cls) node.className = cls;
  return node;
};
const ROLES = { user: "用户", assistant: "模型", system: "系统" };
const MAX_HISTORY = 100;
const STORED = "safe_r1.history";
const ITEMS_A_REQUEST = 100;
const SHOWN_ROWS = 200;

const headers = () => {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: "Bearer " + key }) };
};
async function send(path, body, signal) {
  const method = body ? "POST" : "GET";
  for (;;) {
    const response = await fetch(path, { method, signal, headers: headers(), body: body && JSON.stringify(body) });
    if (response.ok) return response;
    const reply = await response.json().catch(() => ({}));
    if (response.status !== 429 || !body?.stream) {
      throw new Error(reply.error?.message ?? `${response.status} ${response.statusText}`);
    }
    const wait = Number(response.headers.get("Retry-After")) || 5;
    await new Promise(resolve => setTimeout(resolve, 1000 * wait));
    signal?.throwIfAborted();
  }
}
const call = async (path, body, signal) => (await send(path, body, signal)).json();
// Server-sent events of a response: pairs of the event's name and its data.
async function* events(path, body, signal) {
  const reader = (await send(path, { ...body, stream: true }, signal)).body
    .pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const data = lines.find(line => line.startsWith("data: "))?.slice(6);
      if (!data || data === "[DONE]") continue;
      const reply = JSON.parse(data);
      if (reply.error && !("outcomes" in reply)) throw new Error(reply.error.message);
      yield [lines.find(line => line.startsWith("event: "))?.slice(7) ?? "", reply];
    }
  }
}

// Verdicts

function verdictLine(title, verdict) {
  const line = make("p", title + "：", "soft");
  const label = verdict.label ?? "未评判（" + verdict.unscored_reason + "）";
  line.append(make("span", label, "verdict" + (verdict.degree === null ? "" : " d" + verdict.degree)));
  if (verdict.confidence !== null && verdict.confidence !== undefined) {
    line.append(make("span", ` · 把握 ${Math.round(100 * verdict.confidence)}%`, "confidence"));
  }
  if (verdict.explanation) line.title = verdict.explanation;
  return line;
}
function addVerdicts(card, outcome, category, judge) {
  if (outcome.verdicts.reasoning) card.append(verdictLine("思考的评判", outcome.verdicts.reasoning));
  if (outcome.verdicts.answer) card.append(verdictLine("回答的评判", outcome.verdicts.answer));
  card.append(make("p", "评判者 " + judge + (category ? " · 类别 " + category : ""), "soft category"));
}
// A card whose texts grow while a model writes.
function openCard(title) {
  const card = make("div", undefined, "card");
  const [thoughtsTitle, thoughts] = [make("div", "思考", "soft"), make("div", "", "text reasoning")];
  const [answerTitle, answer] = [make("div", "回答", "soft"), make("div", "", "text answer")];
  card.append(make("h2", title), thoughtsTitle, thoughts, answerTitle, answer);
  const show = (reasoning, text) => {
    thoughts.textContent = reasoning.trimEnd();
    answer.textContent = text;
    thoughtsTitle.hidden = thoughts.hidden = !reasoning;
  };
  show("", "");
  return { card, show };
}
function showOutcome(outcome, category, judge) {
  const { card, show } = openCard(outcome.model ?? "给出的回答");
  show(outcome.reasoning ?? "", outcome.answer ?? (outcome.error ? "" : "（思考未结束，没有回答）"));
  if (outcome.error) card.append(make("p", outcome.error.message, "d0"));
  else addVerdicts(card, outcome, category, judge);
  return card;
}

// One dialogue

function addTurn(role, content) {
  const turn = make("div", undefined, "turn");
  const select = make("select");
  const area = make("textarea");
  const drop = make("button", "删除");
  for (const [value, name] of Object.entries(ROLES)) {
    select.append(new Option(name, value, false, value === role));
  }
  select.setAttribute("aria-label", "角色");
  area.setAttribute("aria-label", "内容");
  area.value = content;
  drop.type = "button";
  drop.onclick = () => { if ($("turns").children.length > 1) turn.remove(); };
  turn.append(select, area, drop);
  $("turns").append(turn);
}
const chosenJudge = () => ($("judge").selectedIndex > 0 ? { judges: [$("judge").value] } : {});
const maxTokens = () => Number($("length").value) || 256;

async function judgeItem(item, signal) {
  const reply = await call("v1/safety/evaluate", { items: [item], ...chosenJudge() }, signal);
  const [found] = reply.items;
  const [outcome] = found.outcomes;
  if (outcome.error) throw new Error(outcome.error.message);
  return { outcome, category: found.category, judge: reply.judge };
}
async function generate(model, messages, signal) {
  const { card, show } = openCard(model);
  $("results").append(card);
  let [reasoning, answer, reason] = ["", "", ""];
  try {
    const body = { model, messages, max_tokens: maxTokens() };
    for await (const [, chunk] of events("v1/chat/completions", body, signal)) {
      const [choice] = chunk.choices;
      reasoning += choice?.delta.reasoning_content ?? "";
      answer += choice?.delta.content ?? "";
      reason = choice?.finish_reason ?? reason;
      show(reasoning, answer);
    }
    const isOpen = !answer && reasoning;
    const item = isOpen ? { messages, answer: "<think>\n" + reasoning }
      : { messages, answer, ...(reasoning && { reasoning }) };
    if (isOpen) show(reasoning, "（思考未结束，没有回答）");
    const { outcome, category, judge } = await judgeItem(item, signal);
    addVerdicts(card, outcome, category, judge);
    return { outcome: { ...outcome, model, finish_reason: reason }, category, judge };
  } catch (error) {
    if (error.name !== "AbortError") card.append(make("p", error.message, "d0"));
    return null;
  }
}
let aborting = new AbortController();
async function submit() {
  const messages = [...$("turns").children].map(turn => ({
    role: turn.querySelector("select").value, content: turn.querySelector("textarea").value }));
  const answer = $("answer").value;
  const models = [...new Set([$("first").value, $("second").value])].filter(Boolean);
  $("results").replaceChildren();
  aborting = new AbortController();
  let found = [];
  if (answer || !models.length) {
    const given = await judgeItem({ messages, answer }, aborting.signal);
    $("results").append(showOutcome(given.outcome, given.category, given.judge));
    found = [given];
  } else {
    found = (await Promise.all(models.map(model => generate(model, messages, aborting.signal)))).filter(Boolean);
  }
  if (found.length) remember({ time: Date.now(), messages, found });
}

// A file

let items = [];
let rows = [];
const NAMES = ["index", "id", "category", "model", "question", "reasoning", "answer", "label", "degree",
  "confidence", "unscored_reason", "reasoning_label", "error"];

async function openFile(file) {
  rows = [];
  items = [];
  showRows();
  try {
    const found = await readRows(file);
    items = found.map(toItem);
    const missing = items.filter(item => item === null).length;
    $("batch-state").textContent = `${file.name}：${items.length} 行` + (missing ? `，其中 ${missing} 行没有问题，不评判` : "");
  } catch (error) {
    $("batch-state").textContent = error.message;
  }
  items = items.filter(Boolean);
  $("run").disabled = !items.length;
}
function toRows(result, offset, item) {
  const last = item.messages ? item.messages[item.messages.length - 1]?.content : item.prompt;
  return result.outcomes.map(outcome => ({
    index: offset + result.index,
    id: result.id,
    category: result.category,
    model: outcome.model,
    question: last,
    reasoning: outcome.reasoning,
    answer: outcome.answer,
    label: outcome.verdicts.answer?.label,
    degree: outcome.verdicts.answer?.degree,
    confidence: outcome.verdicts.answer?.confidence,
    unscored_reason: outcome.verdicts.answer?.unscored_reason,
    reasoning_label: outcome.verdicts.reasoning?.label,
    error: outcome.error?.message,
  }));
}
async function runBatch() {
  rows = [];
  aborting = new AbortController();
  const models = [...new Set([$("first").value, $("second").value])].filter(Boolean);
  const asked = models.length > 1 ? { compare: models } : models.length ? { model: models[0] } : {};
  let finished = 0;
  for (let offset = 0; offset < items.length; offset += ITEMS_A_REQUEST) {
    const some = items.slice(offset, offset + ITEMS_A_REQUEST);
    const body = { items: some, max_tokens: maxTokens(), ...asked, ...chosenJudge() };
    for await (const [name, result] of events("v1/safety/evaluate", body, aborting.signal)) {
      if (name !== "item") continue;
      rows.push(...toRows(result, offset, some[result.index]));
      finished += 1;
      $("bar").value = finished / items.length;
      $("batch-state").textContent = `${finished} / ${items.length}`;
      if (finished % 20 === 0) showRows();
    }
  }
}
function showRows() {
  rows.sort((one, other) => one.index - other.index);
  const shown = ["index", "category", "model", "question", "answer", "label", "confidence", "error"];
  const titles = ["序号", "类别", "模型", "问题", "回答", "评判", "把握", "错误"];
  const head = make("tr");
  head.append(...titles.map(title => make("th", title)));
  const body = rows.slice(0, SHOWN_ROWS).map(row => {
    const line = make("tr");
    for (const name of shown) {
      const value = name === "confidence" && typeof row[name] === "number" ? `${Math.round(100 * row[name])}%`
        : name === "index" ? row[name] + 1 : name === "label" ? row[name] ?? row.unscored_reason : row[name];
      const cell = make("td", value ?? "", ["question", "answer"].includes(name) ? "long" : "");
      if (name === "label" && typeof row.degree === "number") cell.className = "verdict d" + row.degree;
      line.append(cell);
    }
    return line;
  });
  $("table").replaceChildren(head, ...body);
  $("table").hidden = !rows.length;
  for (const id of ["save-csv", "save-jsonl"]) $(id).hidden = !rows.length;
  const counts = new Map();
  for (const row of rows) {
    const label = row.label ?? (row.error ? "错误" : "未评判");
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  $("counts").textContent = [...counts].map(([label, number]) => `${label} ${number}`).join(" · ") +
    (rows.length > SHOWN_ROWS ? `（表中只显示前 ${SHOWN_ROWS} 行，下载的文件有全部）` : "");
}
function save(name, text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// History, in this browser alone

function readHistory() {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}
function remember(entry) {
  let kept = [entry, ...readHistory()].slice(0, MAX_HISTORY);
  // A full store loses its oldest half.
  while (kept.length) {
    try {
      localStorage.setItem(STORED, JSON.stringify(kept));
      return;
    } catch {
      kept = kept.slice(0, Math.floor(kept.length / 2));
    }
  }
}
function showHistory() {
  $("past").replaceChildren(...readHistory().map(entry => {
    const card = make("details", undefined, "card");
    const last = entry.messages?.[entry.messages.length - 1]?.content ?? "";
    card.append(make("summary", new Date(entry.time).toLocaleString() + " · " + String(last).slice(0, 60)));
    for (const turn of entry.messages ?? []) card.append(make("div", `${ROLES[turn.role] ?? ""}：${turn.content}`, "text"));
    for (const found of entry.found ?? []) card.append(showOutcome(found.outcome, found.category, found.judge));
    return card;
  }));
}

// Wiring

async function loadChoices() {
  const names = (await call("v1/models")).data.map(model => model.id);
  $("first").replaceChildren(...names.map(name => new Option(name)));
  $("second").replaceChildren(new Option("不比较", ""), ...names.map(name => new Option(name)));
  const judges = (await call("v1/safety/judges")).data;
  $("judge").replaceChildren(...judges.map(judge => new Option(judge.policy ? `${judge.id}（策略）` : judge.id, judge.id)));
}
async function whileBusy(work, start, stop, state) {
  $(start).disabled = true;
  $(stop).hidden = false;
  $(state).textContent = "请稍候……";
  try {
    await work();
    $(state).textContent = "";
  } catch (error) {
    $(state).textContent = error.name === "AbortError" ? "已停止" : error.message;
  } finally {
    $(start).disabled = false;
    $(stop).hidden = true;
  }
}
$("add").onclick = () => addTurn($("turns").children.length % 2 ? "assistant" : "user", "");
$("key").onchange = () => loadChoices().catch(error => { $("state").textContent = error.message; });
$("settings").onsubmit = event => event.preventDefault();
$("form").onsubmit = event => { event.preventDefault(); whileBusy(submit, "go", "stop", "state"); };
$("stop").onclick = $("cancel").onclick = () => aborting.abort();
$("file").onchange = () => { if ($("file").files[0]) openFile($("file").files[0]); };
$("drop").ondragover = event => { event.preventDefault(); $("drop").classList.add("over"); };
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = event => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
};
$("run").onclick = async () => {
  $("bar").hidden = false;
  $("bar").value = 0;
  await whileBusy(runBatch, "run", "cancel", "batch-state");
  showRows();
};
$("save-csv").onclick = () => save("results.csv", toCsv(NAMES, rows));
$("save-jsonl").onclick = () => save("results.jsonl", rows.map(row => JSON.stringify(row) + "\n").join(""));
$("clear").onclick = () => { localStorage.removeItem(STORED); showHistory(); };
for (const tab of document.querySelectorAll("nav button")) {
  tab.onclick = () => {
    for (const each of document.querySelectorAll("nav button")) {
      each.setAttribute("aria-selected", String(each === tab));
      $(each.dataset.tab).hidden = each !== tab;
    }
    if (tab.dataset.tab === "history") showHistory();
  };
}
addTurn("user", "");
loadChoices().catch(error => { $("state").textContent = error.message; });
