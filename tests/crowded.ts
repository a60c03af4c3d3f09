/** A device with little room, on which what is too long does not fit. */
import { Device, LimitError } from "../mod.ts";
import { cpu } from "./harness.ts";

/** The CPU, refusing buffers of more than `most` bytes. */
export function crowded(most: number): Device {
  const engine = new Proxy(cpu.engine, {
    get(target, key) {
      if (key === "allocate") {
        return (bytes: number, write?: (memory: Uint8Array) => void) => {
          if (bytes > most) throw new LimitError(`no room for ${bytes} bytes`);
          return target.allocate(bytes, write);
        };
      }
      const value = Reflect.get(target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  return new Device(engine, "for tests");
}
