/** Memory of loading a checkpoint, in a process of its own. */
import { assert, assertEquals } from "@std/assert";
import { test } from "./harness.ts";

// Counted by Linux, for a process of its own: 512 MiB of parameters, from 256 MiB in bf16 in three files.
test(
  "a checkpoint is loaded in hardly more memory than its largest tensor takes",
  async () => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "bench/loading.ts", "--size", "512", "--layers", "24"],
      cwd: new URL("..", import.meta.url).pathname,
    }).output();
    const out = new TextDecoder().decode(stdout);
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    const [parameters, peak] = ["MiB of f32", "MiB$"].map((end) =>
      Number(new RegExp(`(\\d+) ${end}`, "m").exec(out.split("\n")[1])?.[1])
    );
    assertEquals(parameters, 512, out);
    // The largest is 63 MiB in f32; the rest is what a collector leaves lying for a while.
    assert(peak < 63 + 128, out);
  },
  Deno.build.os !== "linux",
);
