/**
 * `deno task build:wasm`: compiles the AssemblyScript in assembly/ and embeds both variants in embedded.ts.
 * AssemblyScript, because its SIMD and atomics are one function an instruction, it reads as TypeScript, its
 * compiler is one npm package that gives the same bytes on every machine, and without objects its modules hold
 * nothing but the kernels.
 *
 * @module
 */
import { main } from "assemblyscript/asc";
import type { Variant } from "./module.ts";

const FEATURES: Record<Variant, string> = {
  relaxed: "threads,simd,relaxed-simd",
  simd: "threads,simd",
};

/** The bytes of a variant, from source. */
export async function compile(variant: Variant): Promise<Uint8Array> {
  let bytes: Uint8Array | undefined;
  const folder = new URL("assembly/", import.meta.url).pathname;
  // deno-fmt-ignore
  const { error, stderr } = await main([
    "index.ts", "--baseDir", folder, "--outFile", "module.wasm",
    "-O3", "--noAssert", "--runtime", "stub", "--enable", FEATURES[variant],
    "--importMemory", "--sharedMemory", "--initialMemory", "16", "--maximumMemory", "65536",
    "--zeroFilledMemory", "--exportTable", "--growableTable", "--disableWarning", "201",
  ], {
    writeFile: (_name, contents) => {
      if (typeof contents !== "string") bytes = contents;
    },
  });
  if (error !== null || bytes === undefined) {
    throw new Error(`Cannot compile the ${variant} module:\n${stderr}`, { cause: error });
  }
  return bytes;
}

/** The text of embedded.ts. */
export async function embeddedText(): Promise<string> {
  const lines = [
    "// deno-fmt-ignore-file",
    "// Made by `deno task build:wasm` from assembly/; tests/wasm_build.test.ts checks that it is up to date.",
  ];
  for (const variant of ["relaxed", "simd"] as const) {
    const bytes = await compile(variant);
    const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
    lines.push("", `/** The ${variant} variant, ${bytes.length} bytes, in base64. */`);
    lines.push(`export const ${variant}: string =`, `  "${text}";`);
  }
  return lines.join("\n") + "\n";
}

if (import.meta.main) {
  const path = new URL("embedded.ts", import.meta.url);
  await Deno.writeTextFile(path, await embeddedText());
  console.log(`wrote ${path.pathname}`);
}
