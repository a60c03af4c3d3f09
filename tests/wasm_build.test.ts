// The embedded modules are those that the source gives, byte for byte, on this machine too.
import { assertEquals } from "@std/assert";
import { embeddedText } from "../src/backend/wasm/build.ts";
import { test } from "./harness.ts";

test("embedded.ts is what `deno task build:wasm` makes from its source", async () => {
  const path = new URL("../src/backend/wasm/embedded.ts", import.meta.url);
  assertEquals(await Deno.readTextFile(path), await embeddedText());
});
