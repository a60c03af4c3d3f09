/// <reference lib="dom" />
/**
 * The page: buttons become wishes to the worker, its news become text and figures.
 */
import { BITS } from "../demo/text.ts";
import { bytesText, LossFigure, MemoryFigure, msText, TimeFigure } from "./figures.ts";
import type { DeviceNews, Job, News, Wish } from "./protocol.ts";

/** The element of this id. */
function at<T extends Element = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`The page has no element #${id}`);
  return found as unknown as T;
}

const text = at<HTMLTextAreaElement>("text");
const buttons: Record<Job, HTMLButtonElement> = {
  learn: at("learn"),
  write: at("write"),
  time: at("measure"),
};
const names: Record<Job, { idle: string; busy: string }> = {
  learn: { idle: "Learn", busy: "Pause" },
  write: { idle: "Write on and on", busy: "Stop writing" },
  time: { idle: "Measure", busy: "Stop measuring" },
};
const loss = new LossFigure(at("loss"));
const memory = new MemoryFigure(at("bytes"));
const times = new TimeFigure(at("times"));

/** What the endless text shows of itself, in characters. */
const SHOWN = 1600;

const model = { steps: 0, taken: 0, heldOut: NaN, cacheBytes: 0 };
let busy: Job | undefined;

const worker = new Worker("worker.js", { type: "module" });
const ask = (wish: Wish) => worker.postMessage(wish);
worker.onmessage = ({ data }: MessageEvent<News>) => hear(data);
worker.onerror = ({ message }) => fail(message || "The worker could not be started");

const response = await fetch("sonnets.txt");
text.value = await response.text();
ask({ kind: "open", backend: new URLSearchParams(location.search).get("backend") ?? "auto" });

for (const job of ["learn", "write", "time"] as const) {
  buttons[job].onclick = () => {
    if (busy === job) ask({ kind: "stop" });
    else ask(job === "learn" ? { kind: "learn", text: text.value } : { kind: job });
  };
}
text.oninput = () => {
  if (busy !== "learn") names.learn.idle = buttons.learn.textContent = "Learn";
};

function hear(news: News): void {
  switch (news.kind) {
    case "opened":
      return open(news.device);
    case "began":
      return begin(news.job);
    case "ended":
      return end(news.job);
    case "model":
      Object.assign(model, { ...news, taken: 0, heldOut: NaN });
      at("parameters").textContent = news.parameters.toLocaleString("en");
      at("samples").replaceChildren();
      return loss.begin(news.steps, news.unigram);
    case "losses": {
      model.taken += news.losses.length;
      loss.add(news.losses);
      const bits = (news.losses.at(-1)! * BITS).toFixed(2);
      at("progress").textContent =
        `step ${model.taken} of ${model.steps} · ${bits} bits a byte · ` +
        `${Math.round(news.rate).toLocaleString("en")} bytes/s`;
      return;
    }
    case "heldOut":
      model.heldOut = news.loss * BITS;
      loss.test(news.step, news.loss);
      return speak(`After ${news.step} steps, ${model.heldOut.toFixed(2)} bits a byte`);
    case "sample":
      sampleOf(news.step).textContent = visible(news.text);
      return;
    case "written":
      return write(news);
    case "timed":
      times.add(news.form, news.n, news.ms);
      at("verdict").textContent = times.verdict();
      return table();
    case "failed":
      return fail(news.message);
  }
}

function open({ backend, name, reason }: DeviceNews): void {
  const gpu = backend === "webgpu";
  at("device").textContent = gpu ? `Computing through WebGPU: ${name}.` : "Computing on your CPU.";
  if (!gpu && !/asked for/.test(reason)) {
    const notice = at("notice");
    notice.hidden = false;
    notice.querySelector("span")!.textContent = `${reason[0].toUpperCase()}${reason.slice(1)}.`;
  }
  buttons.learn.disabled = buttons.time.disabled = false;
}

function begin(job: Job): void {
  busy = job;
  at("failure").hidden = true;
  buttons[job].textContent = names[job].busy;
  if (job === "write") {
    memory.begin(model.cacheBytes);
    at("endless").textContent = "";
    at("counts").hidden = at("endless").hidden = false;
  } else if (job === "time") times.begin();
  speak({ learn: "Learning", write: "Writing", time: "Measuring" }[job]);
}

function end(job: Job): void {
  busy = undefined;
  if (job === "learn") {
    buttons.write.disabled = model.steps === 0;
    const through = model.steps > 0 && model.taken === model.steps;
    names.learn.idle = through ? "Learn again" : model.taken > 0 ? "Go on learning" : "Learn";
    if (through) {
      at("progress").textContent = `${model.steps} steps · ` +
        `${model.heldOut.toFixed(2)} bits a byte of text never shown`;
    }
  } else if (job === "time") at("verdict").textContent = times.verdict();
  buttons[job].textContent = names[job].idle;
  speak({ learn: at("progress").textContent!, write: "Stopped", time: times.verdict() }[job]);
}

function write({ text, tokens, bytes, heldBytes, rate }: News & { kind: "written" }): void {
  memory.add(tokens, bytes);
  at("pace").textContent = `${Math.round(rate).toLocaleString("en")} tokens/s`;
  at("tokens").textContent = tokens.toLocaleString("en");
  at("kept").textContent = bytesText(bytes);
  at("cache").textContent = bytesText(tokens * model.cacheBytes);
  at("all").textContent = bytesText(heldBytes);
  const endless = at("endless");
  const follows = endless.scrollTop + endless.clientHeight >= endless.scrollHeight - 4;
  endless.textContent = (endless.textContent + visible(text)).slice(-SHOWN);
  if (follows) endless.scrollTop = endless.scrollHeight;
}

/** Where the sample after `step` steps is written. */
function sampleOf(step: number): HTMLElement {
  const id = `sample-${step}`;
  const known = document.getElementById(id);
  if (known !== null) return known;
  const item = document.createElement("li");
  const title = document.createElement("h3");
  title.textContent = step === 0 ? "before learning" : `after ${step} steps`;
  const body = document.createElement("p");
  body.id = id;
  item.append(title, body);
  at("samples").append(item);
  return body;
}

function table(): void {
  at("rows").replaceChildren(
    ...times.rows().map(({ n, lightning, softmax }) => {
      const row = document.createElement("tr");
      const ratio = lightning && softmax ? (softmax / lightning).toFixed(2) : "";
      const cells = [
        n.toLocaleString("en"),
        ...[lightning, softmax].map((ms) => ms ? msText(ms) : "—"),
      ];
      for (const cell of [...cells, ratio]) row.insertCell().textContent = cell;
      return row;
    }),
  );
}

/** Bytes that are no characters, as dots. */
function visible(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\ufffd]/g, "·");
}

/** For those who listen to the page. */
function speak(words: string): void {
  at("spoken").textContent = words;
}

function fail(message: string): void {
  if (buttons.learn.disabled) at("device").textContent = "No device could be opened.";
  at("failure").textContent = message;
  at("failure").hidden = false;
}
