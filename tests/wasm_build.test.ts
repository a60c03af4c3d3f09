// The embedded modules are those that the source gives, byte for byte, on this machine too.
import { assertEquals } from "@std/assert";
import { testInDeno } from "./harness.ts";

testInDeno("embedded.ts is what `deno task build:wasm` makes from its source", async () => {
  const { embeddedText } = await import("../src/backend/wasm/build.ts");
  const path = new URL("../src/backend/wasm/embedded.ts", import.meta.url);
  assertEquals(await Deno.readTextFile(path), await embeddedText());
});
