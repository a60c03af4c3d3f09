/**
 * Blocks of a WebAssembly memory: first fit, neighbours merged, grown when nothing fits.
 *
 * @module
 */
import { LimitError } from "../../errors.ts";

interface Free {
  start: number;
  end: number;
}

const PAGE = 65536;

/** Addresses in a memory, from `start` on. */
export class Heap {
  /** What is free, by address. */
  readonly #free: Free[] = [];
  #end: number;

  constructor(readonly memory: WebAssembly.Memory, start: number, readonly most: number) {
    this.#end = memory.buffer.byteLength;
    this.#free.push({ start: Math.ceil(start / 64) * 64, end: this.#end });
  }

  /**
   * The address of `bytes` bytes, a multiple of 64.
   *
   * @throws {LimitError} if the memory has no room for them and cannot grow.
   */
  take(bytes: number): number {
    const size = Math.ceil(Math.max(bytes, 1) / 64) * 64;
    let at = this.#free.findIndex(({ start, end }) => end - start >= size);
    if (at < 0) {
      this.#grow(size);
      at = this.#free.length - 1;
    }
    const block = this.#free[at];
    const { start } = block;
    block.start += size;
    if (block.start === block.end) this.#free.splice(at, 1);
    return start;
  }

  /** Takes back what `take(bytes)` gave. */
  give(start: number, bytes: number): void {
    const end = start + Math.ceil(Math.max(bytes, 1) / 64) * 64;
    let at = this.#free.findIndex((block) => block.start >= end);
    if (at < 0) at = this.#free.length;
    const [before, after] = [this.#free[at - 1], this.#free[at]];
    const joinsBefore = before?.end === start;
    const joinsAfter = after?.start === end;
    if (joinsBefore && joinsAfter) {
      before.end = after.end;
      this.#free.splice(at, 1);
    } else if (joinsBefore) before.end = end;
    else if (joinsAfter) after.start = start;
    else this.#free.splice(at, 0, { start, end });
  }

  /** Makes the last free block at least `size` bytes long. */
  #grow(size: number): void {
    const last = this.#free.at(-1);
    const tail = last?.end === this.#end ? last.end - last.start : 0;
    // By at least an eighth, so that small requests do not grow it one by one.
    const least = Math.ceil((size - tail) / PAGE);
    const most = this.most / PAGE - this.#end / PAGE;
    const wanted = Math.min(most, Math.max(least, Math.ceil(this.#end / 8 / PAGE)));
    const grown = [wanted, least].find((pages) => pages >= least && this.#tryGrow(pages));
    if (grown === undefined) {
      throw new LimitError(
        `Cannot allocate ${size} bytes: a WebAssembly memory holds at most ${this.most} bytes, of ` +
          `which ${this.#end - tail} are taken; use smaller tensors, dispose some, or use a GPU`,
      );
    }
    const start = this.#end;
    this.#end += grown * PAGE;
    if (tail > 0) last!.end = this.#end;
    else this.#free.push({ start, end: this.#end });
  }

  #tryGrow(pages: number): boolean {
    try {
      this.memory.grow(pages);
      return true;
    } catch {
      return false;
    }
  }
}
