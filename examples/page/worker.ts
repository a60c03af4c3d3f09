/**
 * All computing of the page, on the GPU or the CPU, away from the thread that draws.
 */
import { type Device, init } from "../../mod.ts";
import type { Trainer } from "../demo/trainer.ts";
import { writeOn } from "./endless.ts";
import { beginner, learn } from "./learning.ts";
import type { Job, News, Wish } from "./protocol.ts";
import { compare } from "./timing.ts";

const page = globalThis as unknown as {
  postMessage(news: News): void;
  onmessage: (event: { data: Wish }) => void;
};
const tell = (news: News) => page.postMessage(news);

let device: Device;
let student: { trainer: Trainer; text: string } | undefined;
let going = new AbortController();
let last = Promise.resolve();

// One thing at a time: a wish ends what is going on, and waits until it has ended.
page.onmessage = ({ data: wish }) => {
  going.abort();
  const { signal } = going = new AbortController();
  last = last.then(() => grant(wish, signal)).catch((error) => {
    tell({ kind: "failed", message: error instanceof Error ? error.message : String(error) });
  });
};

async function grant(wish: Wish, signal: AbortSignal): Promise<void> {
  switch (wish.kind) {
    case "open":
      device = await init({ backend: wish.backend as "auto" });
      return tell({
        kind: "opened",
        device: { backend: device.backend, name: device.name, reason: device.reason },
      });
    case "learn":
      return await doing("learn", signal, async () => {
        const trainer = await pupil(wish.text);
        await learn(trainer, signal, tell);
      });
    case "write":
      return await doing("write", signal, async () => {
        if (student === undefined) throw new Error("There is no model yet: let one learn first");
        await writeOn(student.trainer.model, signal, tell);
      });
    case "time":
      return await doing("time", signal, () => compare(device, signal, tell));
  }
}

async function doing(job: Job, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  if (signal.aborted) return;
  tell({ kind: "began", job });
  try {
    await work();
  } finally {
    tell({ kind: "ended", job });
  }
}

/** The one who has begun this text and is not through with it, or else a new one. */
async function pupil(text: string): Promise<Trainer> {
  if (student?.text === text) {
    const { optimizer, options } = student.trainer;
    if (optimizer.steps < options.steps) return student.trainer;
  }
  const trainer = await beginner(device, text, tell);
  student?.trainer[Symbol.dispose]();
  student = { trainer, text };
  return trainer;
}
