"use strict";
// Rows of users' files, read in the browser: JSONL, CSV and XLSX; and rows as CSV that no program runs.

const MAX_FILE_BYTES = 64 * 2 ** 20;
const MAX_UNPACKED_BYTES = 256 * 2 ** 20;
const COLUMNS = {
  prompt: ["prompt", "question", "instruction", "问题", "提问", "提示"],
  answer: ["answer", "response", "completion", "output", "回答", "答案"],
  reasoning: ["reasoning", "reasoning_content", "思考", "推理"],
  id: ["id", "编号"],
  category: ["category", "类别"],
  messages: ["messages"],
};

function decodeText(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("gb18030").decode(bytes);
  }
}

function readJsonl(text) {
  if (text.trimStart().startsWith("[")) return JSON.parse(text);
  return text.split("\n").map((line, number) => [line, number + 1]).filter(([line]) => line.trim())
    .map(([line, number]) => {
      try {
        return JSON.parse(line);
      } catch {
        throw new Error(`第 ${number} 行不是 JSON`);
      }
    });
}

function readCsv(text, separator) {
  const rows = [[]];
  let cell = "";
  let quoted = false;
  const end = () => { rows[rows.length - 1].push(cell); cell = ""; };
  for (let place = 0; place < text.length; place++) {
    const char = text[place];
    if (quoted) {
      if (char !== '"') cell += char;
      else if (text[place + 1] === '"') { cell += '"'; place++; }
      else quoted = false;
    } else if (char === '"' && cell === "") quoted = true;
    else if (char === separator) end();
    else if (char === "\n") { end(); rows.push([]); }
    else if (char !== "\r") cell += char;
  }
  end();
  return rows.filter(row => row.some(each => each !== ""));
}

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const reader = stream.getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts).arrayBuffer();
    size += value.length;
    if (size > MAX_UNPACKED_BYTES) throw new Error("工作表太大");
    parts.push(value);
  }
}

// The files of a ZIP archive by name, each read when it is asked for.
function openZip(buffer) {
  const view = new DataView(buffer);
  let tail = buffer.byteLength - 22;
  while (tail >= 0 && view.getUint32(tail, true) !== 0x06054b50) tail--;
  if (tail < 0) throw new Error("不是 XLSX 文件");
  const entries = new Map();
  let place = view.getUint32(tail + 16, true);
  for (let left = view.getUint16(tail + 10, true); left > 0; left--) {
    const [method, size] = [view.getUint16(place + 10, true), view.getUint32(place + 20, true)];
    const [named, extra, comment] = [28, 30, 32].map(offset => view.getUint16(place + offset, true));
    const name = new TextDecoder().decode(new Uint8Array(buffer, place + 46, named));
    entries.set(name, { method, size, start: view.getUint32(place + 42, true) });
    place += 46 + named + extra + comment;
  }
  return async name => {
    const entry = entries.get(name);
    if (!entry) return null;
    const head = entry.start + 30 + view.getUint16(entry.start + 26, true) + view.getUint16(entry.start + 28, true);
    const data = buffer.slice(head, head + entry.size);
    const text = new TextDecoder().decode(entry.method === 8 ? await inflate(data) : data);
    return new DOMParser().parseFromString(text, "application/xml");
  };
}

const textOf = node => [...node.getElementsByTagNameNS("*", "t")]
  .filter(each => each.parentNode.localName !== "rPh").map(each => each.textContent).join("");

async function sheetName(read) {
  const book = await read("xl/workbook.xml");
  const links = await read("xl/_rels/workbook.xml.rels");
  const first = book && book.getElementsByTagNameNS("*", "sheet")[0];
  const id = first && [...first.attributes].find(each => each.localName === "id" && each.name !== "id");
  const link = id && links && [...links.getElementsByTagNameNS("*", "Relationship")]
    .find(each => each.getAttribute("Id") === id.value);
  const target = link ? link.getAttribute("Target") : "worksheets/sheet1.xml";
  return target.startsWith("/") ? target.slice(1) : "xl/" + target;
}

async function readXlsx(buffer) {
  const read = openZip(buffer);
  const shared = await read("xl/sharedStrings.xml");
  const texts = shared ? [...shared.getElementsByTagNameNS("*", "si")].map(textOf) : [];
  const sheet = await read(await sheetName(read));
  if (!sheet) throw new Error("没有工作表");
  const rows = [...sheet.getElementsByTagNameNS("*", "row")].map(row => {
    const cells = [];
    for (const cell of row.getElementsByTagNameNS("*", "c")) {
      const letters = (cell.getAttribute("r") || "").replace(/\d/g, "");
      const column = letters
        ? [...letters].reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 64, 0) - 1 : cells.length;
      if (column > 16384) continue;
      const kind = cell.getAttribute("t");
      const value = cell.getElementsByTagNameNS("*", "v")[0];
      const plain = value ? value.textContent : "";
      cells[column] = kind === "inlineStr" ? textOf(cell) : kind === "s" ? texts[Number(plain)] ?? "" : plain;
    }
    return Array.from(cells, cell => cell ?? "");
  });
  return rows.filter(row => row.some(cell => cell !== ""));
}

const withHead = ([head = [], ...rows]) => rows.map(row =>
  Object.fromEntries(head.map((name, place) => [String(name).trim(), row[place] ?? ""])));

async function readRows(file) {
  if (file.size > MAX_FILE_BYTES) throw new Error("文件大于 64 MiB，请用批处理接口 /v1/batches");
  const buffer = await file.arrayBuffer();
  const name = file.name.toLowerCase();
  if (name.endsWith(".xlsx")) return withHead(await readXlsx(buffer));
  if (name.endsWith(".csv")) return withHead(readCsv(decodeText(buffer), ","));
  if (name.endsWith(".tsv")) return withHead(readCsv(decodeText(buffer), "\t"));
  if (/\.(jsonl|ndjson|json)$/.test(name)) return readJsonl(decodeText(buffer));
  throw new Error("只读 JSONL、CSV、TSV 和 XLSX 文件");
}

// A row as an item of /v1/safety/evaluate; null where it has no question.
function toItem(row) {
  if (typeof row === "string") return { prompt: row };
  if (row === null || typeof row !== "object") return null;
  const names = Object.keys(row);
  const found = {};
  for (const [field, known] of Object.entries(COLUMNS)) {
    const name = names.find(each => known.includes(each.trim().toLowerCase()));
    if (name !== undefined && row[name] !== "" && row[name] !== null) found[field] = row[name];
  }
  for (const field of ["prompt", "answer", "reasoning", "id", "category"]) {
    if (field in found) found[field] = String(found[field]);
  }
  if (found.messages) {
    delete found.prompt;
    const turns = Array.isArray(found.messages) ? [...found.messages] : [];
    if (turns.length > 1 && turns[turns.length - 1]?.role === "assistant" && found.answer === undefined) {
      found.answer = String(turns.pop().content ?? "");
    }
    found.messages = turns;
  }
  if (found.answer === undefined) delete found.reasoning;
  return found.messages?.length || found.prompt ? found : null;
}

// What a spreadsheet could take for a formula gets an apostrophe, as in the files that the service writes.
function csvCell(value) {
  let text = value === null || value === undefined ? "" : String(value).replaceAll("\0", "\u2400");
  if (typeof value === "string") {
    const visible = text.match(/[^\p{Z}\p{C}]/u)?.[0].normalize("NFKC")[0];
    if (/^['\t\r\n]/.test(text) || (visible && "=+-@\u2212".includes(visible))) text = "'" + text;
  }
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

const toCsv = (names, rows) => "\ufeff" +
  [names, ...rows.map(row => names.map(name => row[name]))]
    .map(cells => cells.map(csvCell).join(",") + "\r\n").join("");
